"""Checks of docker/ that need no Docker daemon; .github/workflows/docker.yml builds the images."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml

PROFILES = {"robot", "server", "training", "sim"}


@pytest.fixture(scope="module")
def compose(root):
    return yaml.safe_load((root / "docker" / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def dockerfiles(root):
    return {f"docker/{path.name}": path.read_text() for path in sorted((root / "docker").glob("*.Dockerfile"))}


def default(text: str) -> str:
    """Substitute `${NAME:-default}` as compose does when NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_services_have_an_image_and_one_profile(compose, dockerfiles, root):
    services = compose["services"]
    assert {p for service in services.values() for p in service["profiles"]} == PROFILES
    for name, service in services.items():
        build = service["build"]
        assert (root / "docker" / build["context"]).resolve() == root, name
        stages = re.findall(r"^FROM .* AS (\w+)$", dockerfiles[build["dockerfile"]], re.M)
        assert build.get("target") in (stages if "target" in build else [None]), name
        assert len(service["profiles"]) == 1 and service["init"] is True
        for volume in service.get("volumes", ()):
            source = default(volume).split(":")[0]
            inside = source.startswith("../") and not source.startswith("../outputs")
            assert not inside or (root / "docker" / source).exists(), f"{name}: {source} does not exist"
    assert services["sim"]["build"] == services["robot"]["build"]
    assert set(services["server"]["secrets"]) <= set(compose["secrets"])


def test_services_have_the_devices_and_networks_they_need(compose, root):
    services = compose["services"]
    for name in ("server", "training"):
        assert services[name]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    for name in ("robot", "sim"):
        assert services[name]["network_mode"] == services[name]["ipc"] == "host"
    robot = default(services["robot"]["command"][-1])
    assert (root / "launch" / robot).is_file()


def test_images_install_from_the_locks_and_run_our_commands(dockerfiles, root):
    commands = set(re.findall(r"\"(openvla-[a-z-]+) = ", (root / "src/openvla_ros/setup.py").read_text()))
    commands |= set(re.findall(r"\"(openvla-[a-z-]+) = ", (root / "src/openvla_policy/setup.py").read_text()))
    for name, text in dockerfiles.items():
        assert "scripts/setup.bash" in text, f"{name} does not run scripts/setup.bash, which installs from the locks"
        for used in re.findall(r"(?:CMD|ENTRYPOINT) \[\"([^\"]+)\"", text):
            inside = used.removeprefix("/openvla/")
            assert used in commands | {"bash"} or (inside != used and (root / inside).is_file()), f"{name}: {used}"
        assert not re.search(r"pip3? install|curl|wget", text), f"{name} installs packages that are not in the locks"


def test_build_context_has_no_data_or_secrets(root):
    ignored = (root / ".dockerignore").read_text().split()
    assert {".git", ".venv", "build", "install", "outputs"} <= set(ignored)
    # The default folders and the token of compose.yaml get into no image and no commit.
    compose_text = (root / "docker" / "compose.yaml").read_text()
    defaults = {"docker/" + name for name in re.findall(r":-\./([a-z]+)\}", compose_text)}
    assert defaults == {"docker/token", "docker/bags", "docker/data"} <= set(ignored)
    assert defaults <= set((root / ".gitignore").read_text().split())
    assert "requirements" not in ignored and "src" not in ignored


def test_robot_image_has_the_message_packages_of_the_adapters(dockerfiles, root):
    """All but two that no apt repository has; docs/how-to/docker.md builds them in a derived image."""
    code = "".join(file.read_text() for file in (root / "src" / "openvla_ros" / "openvla_ros").rglob("*.py"))
    used = set(re.findall(r"\"(\w+)/(?:msg|srv|action)/\w+\"", code)) - {"openvla_msgs"}
    base = {
        f"{name}_msgs" for name in ["diagnostic", "geometry", "lifecycle", "rosgraph", "sensor", "std", "trajectory"]
    }
    base |= {"rcl_interfaces", "std_srvs"}  # in ros-base
    page = (root / "docs" / "how-to" / "docker.md").read_text()
    own = {"franka_msgs", "interbotix_xs_msgs"}
    assert own <= used and all(f"`{name}`" in page for name in own)
    installed = set(re.findall(r"ros-jazzy-([\w-]+)", dockerfiles["docker/robot.Dockerfile"]))
    missing = {name for name in used - base - own if name.replace("_", "-") not in installed}
    assert not missing and "joy" in installed, missing
    manifest = (root / "src" / "openvla_ros" / "package.xml").read_text()
    assert not [name for name in used - own if f"<exec_depend>{name}</exec_depend>" not in manifest]


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed; run `make setup`")
def test_hadolint_passes(dockerfiles, root):
    command = ["hadolint", "--config", "docker/hadolint.yaml", *dockerfiles]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # It does read these files: without the exception it reports DL3008.
    bare = ["hadolint", "--no-color", *dockerfiles]
    assert "DL3008" in subprocess.run(bare, cwd=root, capture_output=True, text=True, check=False).stdout
