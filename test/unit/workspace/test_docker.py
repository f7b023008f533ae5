"""docker/: what can be checked with no Docker daemon. The images themselves have never been built here."""

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
    """`${NAME:-default}` as compose reads it when NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_every_service_can_be_built_and_has_one_profile(compose, dockerfiles, root):
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
    # The same image is described once more only where it says the same.
    assert services["sim"]["build"] == services["robot"]["build"]
    assert set(services["server"]["secrets"]) <= set(compose["secrets"])
    for name in ("server", "training"):
        assert services[name]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    for name in ("robot", "sim"):
        assert services[name]["network_mode"] == services[name]["ipc"] == "host"
    robot = default(services["robot"]["command"][-1])
    assert (root / "launch" / robot).is_file()


def test_what_the_images_run_and_copy_exists(dockerfiles, root):
    commands = set(re.findall(r"\"(openvla-[a-z-]+) = ", (root / "src/openvla_ros/setup.py").read_text()))
    commands |= set(re.findall(r"\"(openvla-[a-z-]+) = ", (root / "src/openvla_policy/setup.py").read_text()))
    for name, text in dockerfiles.items():
        assert "scripts/setup.bash" in text, f"{name} installs from the locks"
        for used in re.findall(r"(?:CMD|ENTRYPOINT) \[\"([^\"]+)\"", text):
            inside = used.removeprefix("/openvla/")
            assert used in commands | {"bash"} or (inside != used and (root / inside).is_file()), f"{name}: {used}"
        assert not re.search(r"pip3? install|curl|wget", text), f"{name} gets packages beside the locks"
    ignored = (root / ".dockerignore").read_text().split()
    assert {".git", ".venv", "build", "install", "outputs"} <= set(ignored)
    # What compose.yaml keeps beside itself by default gets into no image and no commit: the server's token above all.
    compose_text = (root / "docker" / "compose.yaml").read_text()
    kept = {"docker/" + name for name in re.findall(r":-\./([a-z]+)\}", compose_text)}
    assert kept == {"docker/token", "docker/bags", "docker/data"} <= set(ignored)
    assert kept <= set((root / ".gitignore").read_text().split())
    assert "requirements" not in ignored and "src" not in ignored


def test_the_robot_s_image_has_the_messages_that_the_code_looks_for(dockerfiles, root):
    """All but the two that are on no apt repository, which docs/how-to/docker.md builds in a derived image."""
    code = "".join(file.read_text() for file in (root / "src" / "openvla_ros" / "openvla_ros").rglob("*.py"))
    used = set(re.findall(r"\"(\w+)/(?:msg|srv|action)/\w+\"", code)) - {"openvla_msgs"}
    base = {
        f"{name}_msgs" for name in ["diagnostic", "geometry", "lifecycle", "rosgraph", "sensor", "std", "trajectory"]
    }
    base |= {"rcl_interfaces", "std_srvs"}  # of ros-base itself
    page = (root / "docs" / "how-to" / "docker.md").read_text()
    own = {"franka_msgs", "interbotix_xs_msgs"}
    assert own <= used and all(f"`{name}`" in page for name in own)
    installed = set(re.findall(r"ros-jazzy-([\w-]+)", dockerfiles["docker/robot.Dockerfile"]))
    missing = {name for name in used - base - own if name.replace("_", "-") not in installed}
    assert not missing and "joy" in installed, missing
    manifest = (root / "src" / "openvla_ros" / "package.xml").read_text()
    assert not [name for name in used - own if f"<exec_depend>{name}</exec_depend>" not in manifest]


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint (requirements/dev.txt) is not installed: make setup")
def test_hadolint_has_nothing_to_say(dockerfiles, root):
    command = ["hadolint", "--config", "docker/hadolint.yaml", *dockerfiles]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # It does read these files: without the exception it would complain.
    bare = ["hadolint", "--no-color", *dockerfiles]
    assert "DL3008" in subprocess.run(bare, cwd=root, capture_output=True, text=True, check=False).stdout
