"""The workspace: manifests declare what the code imports, commands exist, locks are complete, set-up works."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("openvla_policy", "openvla_evaluation", "openvla_ros", "openvla_training")
LOCKS = ("robot", "training", "dev", "ros", "cuda", "workstation")

# rosdep key of an imported module. None: rosdep has none, so that the module is in the locks only.
ROSDEP = {
    "PIL": "python3-pil",
    "absl": None,
    "apache_beam": None,
    "array_record": None,
    "bitsandbytes": None,
    "cv2": "python3-opencv",
    "fastapi": "python3-fastapi",
    "google_crc32c": None,
    "grain": None,
    "httpx": "python3-httpx",
    "huggingface_hub": "python3-huggingface-hub-pip",
    "imageio_ffmpeg": "ffmpeg",
    "jinja2": "python3-jinja2",
    "json_numpy": None,
    "matplotlib": "python3-matplotlib",
    "mcap": None,
    "mink": None,
    "mcap_ros2": None,
    "mujoco": "python3-mujoco-pip",
    "msgpack": "python3-msgpack",
    "numpy": "python3-numpy",
    "peft": None,
    "prometheus_client": "python3-prometheus-client",
    "pyarrow": None,
    "pydantic": "python3-pydantic",
    "rich": "python3-rich",
    "robosuite": None,
    "rosbags": "python3-rosbags-pip",
    "ruckig": None,
    "safetensors": None,
    "scipy": "python3-scipy",
    "sentencepiece": None,
    "starlette": "python3-fastapi",  # a dependency of FastAPI
    "tensorboard": "python3-tensorboard-pip",
    "tensorflow_datasets": None,
    "tokenizers": None,
    "torch": "python3-torch",
    "torchao": None,
    "tqdm": "python3-tqdm",
    "transformers": "python3-transformers-pip",
    "tyro": None,
    "uvicorn": "python3-uvicorn",
    "wandb": None,
    "websockets": "python3-websockets",
    "yaml": "python3-yaml",
    "zstandard": None,
}
# Optional at run time: no lock has them.
OPTIONAL = {"launch", "launch_ros", "tensorflow", "wandb"}


def manifest(package: str) -> ElementTree.Element:
    return ElementTree.parse(ROOT / "src" / package / "package.xml").getroot()


def dependencies(package: str, *kinds: str) -> set[str]:
    return {str(element.text) for kind in kinds for element in manifest(package).iter(kind)}


def setup_arguments(package: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the arguments of setuptools.setup() in setup.py, run where colcon runs it."""
    caught: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: caught.update(arguments))
    monkeypatch.chdir(ROOT / "src" / package)
    runpy.run_path(str(ROOT / "src" / package / "setup.py"))
    return caught


def console_scripts() -> list[tuple[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        return [
            (package, entry)
            for package in PACKAGES
            for entry in setup_arguments(package, patch).get("entry_points", {}).get("console_scripts", [])
        ]


def imported_modules(file: Path) -> set[str]:
    """Return the top-level modules that a file imports, without those under TYPE_CHECKING."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(file.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).split(".")[0])
        pending.extend(ast.iter_child_nodes(node))
    return names


def third_party(package: str) -> dict[str, Path]:
    """Return each module from outside the package and the standard library with a file that imports it."""
    found: dict[str, Path] = {}
    files = sorted((ROOT / "src" / package / package).rglob("*.py"))
    if package == "openvla_ros":
        files += sorted((ROOT / "launch").glob("*.py"))
    for file in files:
        for name in imported_modules(file) - set(sys.stdlib_module_names) - {package}:
            found.setdefault(name, file)
    return found


def locked(name: str) -> dict[str, str]:
    """Return the packages and versions of one lock whose markers apply to this machine."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    result = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
        text = line.split("#")[0].strip()
        if text:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate():
                result[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return result


@pytest.mark.parametrize(("package", "entry"), console_scripts(), ids=lambda value: value.split(" ")[0])
def test_console_script_resolves(package: str, entry: str) -> None:
    module, function = entry.split("=")[1].strip().split(":")
    assert module.startswith(package)
    assert callable(getattr(importlib.import_module(module), function))


def test_only_openvla_commands_are_on_path(root: Path) -> None:
    """`convert`, for one, is also ImageMagick's."""
    scripts = {entry.split(" ")[0] for _, entry in console_scripts()}
    on_path = {path.name for path in (root / "build" / "bin").iterdir()}
    assert on_path == {name for name in scripts if name.startswith("openvla-")}
    assert all(os.access(root / "build" / "bin" / name, os.X_OK) for name in on_path)


@pytest.mark.parametrize("package", PACKAGES)
def test_manifest_declares_every_imported_module(package: str) -> None:
    declared = dependencies(package, "depend", "exec_depend")
    wrong = []
    for module, file in third_party(package).items():
        key = ROSDEP.get(module, module)  # a ROS package has the name of its module
        if key is not None and key not in declared:
            wrong.append(f"{file.relative_to(ROOT)} imports {module}: {package}/package.xml lacks {key}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_third_party_import_is_locked(package: str) -> None:
    """A module counts as locked when its distribution is in a lock, not just on this machine."""
    distributions = importlib.metadata.packages_distributions()
    from packaging.utils import canonicalize_name

    lock = {name for use in ("robot", "training", "ros") for name in locked(use)}
    ours = {"openvla_msgs", *PACKAGES}
    wrong = []
    for module, file in third_party(package).items():
        if module in OPTIONAL | ours:
            continue
        names = {canonicalize_name(name) for name in distributions.get(module, [module])}  # a lone .so has none
        # A ROS wheel contains the metadata of its Python module: ros-std-msgs that of std-msgs.
        if not (names | {f"ros-{name}" for name in names}) & lock:
            wrong.append(f"{file.relative_to(ROOT)} imports {module}: not in requirements/*.in")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["openvla_msgs", *PACKAGES])
def test_manifest_is_complete(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    element = manifest(package)
    assert element.findtext("name") == package
    assert element.findtext("license") == "MIT"
    maintainer = element.find("maintainer")
    assert maintainer is not None and re.fullmatch(r"[\w.-]+@[\w-]+(\.[\w-]+)+", maintainer.get("email", ""))
    if package in PACKAGES:
        assert element.findtext("export/build_type") == "ament_python"
        arguments = setup_arguments(package, monkeypatch)
        assert arguments["version"] == element.findtext("version")
        # Without it `colcon test` runs no test and succeeds.
        assert "pytest" in arguments["extras_require"]["test"]


@pytest.mark.parametrize("folder", ["launch", "config"])
def test_launch_and_config_files_are_installed(root: Path, folder: str) -> None:
    share = root / "install" / "openvla_ros" / "share" / "openvla_ros"
    pattern = "*.launch.py" if folder == "launch" else "*"
    wanted = {
        path.relative_to(root)
        for path in (root / folder).rglob(pattern)
        if path.is_file() and not path.name.startswith(".") and "__pycache__" not in path.parts
    }
    assert wanted
    for path in wanted:
        installed = share / path
        assert installed.exists(), f"{installed} is missing or a dangling link; run make setup"
        assert installed.read_bytes() == (root / path).read_bytes()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_modules_is_a_package(package: str) -> None:
    """find_packages() silently leaves out a folder without __init__.py."""
    top = ROOT / "src" / package / package
    folders = {path.parent for path in top.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_interfaces_are_built_and_their_fields_commented(root: Path) -> None:
    msgs = root / "src" / "openvla_msgs"
    cmake = (msgs / "CMakeLists.txt").read_text()
    files = [path for kind in ("msg", "srv", "action") for path in (msgs / kind).glob(f"*.{kind}")]
    assert len(files) == 13
    assert sorted(re.findall(r'"((?:msg|srv|action)/.*)"', cmake)) == sorted(str(p.relative_to(msgs)) for p in files)
    for path in files:
        module = importlib.import_module(f"openvla_msgs.{path.parent.name}")
        assert hasattr(module, path.stem)
        # A comment is above each block of fields; blank lines separate blocks.
        for section in path.read_text().split("---"):
            for block in re.split(r"\n\s*\n", section):
                fields = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
                if any("=" not in line for line in fields):
                    assert block.strip().startswith("#"), f"{path.name}: no comment above {fields[0]!r}"


@pytest.mark.parametrize("name", LOCKS)
def test_lock_is_exact(name: str) -> None:
    """One version of each package, from PyPI: no local build, no path; and no TensorFlow."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    for line in text.splitlines():
        assert line.startswith("#") or re.match(r"[a-z0-9-]+(\[[a-z,]+\])?==[^ +@]+( |$)", line), line
    assert not re.search(r"^(tensorflow|tensorflow-cpu|torchvision|timm|opencv-python)==", text, re.MULTILINE)
    if name != "cuda":
        assert not re.search(r"^(nvidia-|triton)", text, re.MULTILINE)


def test_locks_agree() -> None:
    """Robot, training, dev and ros are installed together with --no-deps: one version of each package."""
    versions: dict[str, set[str]] = {}
    for name in ("robot", "training", "dev", "ros", "cuda"):
        for package, version in locked(name).items():
            versions.setdefault(package, set()).add(version)
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}


def test_locks_are_complete() -> None:
    """Every dependency of a locked package is locked, because --no-deps installs no other."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    left_out = {"numba", "opencv-python", "triton", "cuda-bindings", "cuda-toolkit"}  # requirements/overrides.in
    together = {name for use in ("robot", "training", "dev", "ros") for name in locked(use)}
    missing = set()
    for package in together:
        for text in importlib.metadata.requires(package) or []:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            if name not in together | left_out and not name.startswith("nvidia-"):
                missing.add(f"{package} needs {name}")
    assert missing == set()


def test_environment_has_the_locked_versions() -> None:
    if os.environ.get("ROS_DISTRO"):
        pytest.skip("a sourced ROS has its own versions")
    wrong = {}
    for use in ("robot", "training", "dev", "ros"):
        for package, version in locked(use).items():
            installed = importlib.metadata.version(package).split("+")[0]
            if installed != version:
                wrong[package] = f"{installed} instead of {version}"
    assert wrong == {}


def run_bash(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {"HOME": os.environ["HOME"], "PATH": "/usr/local/bin:/usr/bin:/bin"}
    ros = {name: os.environ[name] for name in ("ROS_DISTRO", "AMENT_PREFIX_PATH") if os.environ.get("ROS_DISTRO")}
    return subprocess.run(
        ["bash", "-c", script], env={**base, **ros, **environment}, cwd="/", capture_output=True, text=True, timeout=300
    )


def test_env_bash_works_in_any_folder_twice_and_in_strict_mode(root: Path) -> None:
    script = f"""
        set -euo pipefail
        source '{root}/env.bash'
        first="$PATH $AMENT_PREFIX_PATH $PYTHONPATH"
        source '{root}/env.bash'
        [ "$first" = "$PATH $AMENT_PREFIX_PATH $PYTHONPATH" ] || {{ echo "differs: $first"; exit 1; }}
        case "$-" in *e*u*) ;; *) echo "lost set -eu: $-"; exit 1 ;; esac
        command -v openvla-demo
        python -c 'import openvla_msgs.msg, openvla_policy, openvla_evaluation, openvla_ros, openvla_training'
        echo imported
        ! command -v train
    """
    result = run_bash(script)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{root}/build/bin/openvla-demo" in result.stdout
    assert "imported" in result.stdout


def test_env_bash_keeps_a_given_renderer_and_dds_profile(root: Path) -> None:
    script = f"source '{root}/env.bash'; echo $MUJOCO_GL $FASTRTPS_DEFAULT_PROFILES_FILE"
    result = run_bash(script, MUJOCO_GL="egl", FASTRTPS_DEFAULT_PROFILES_FILE="/mine.xml")
    assert result.stdout.split() == ["egl", "/mine.xml"]


def test_env_bash_before_setup_names_make_setup(tmp_path: Path, root: Path) -> None:
    (tmp_path / "env.bash").write_text((root / "env.bash").read_text())
    result = run_bash(f"source '{tmp_path}/env.bash'")
    assert result.returncode != 0
    assert "make setup" in result.stderr and str(tmp_path) in result.stderr


@pytest.fixture
def bare_copy(tmp_path: Path, root: Path) -> Path:
    """Return a copy of what scripts/setup.bash needs, not set up yet."""
    if os.environ.get("ROS_DISTRO"):
        pytest.skip("for machines without an installed ROS")
    for folder in ("scripts", "requirements", "src/openvla_msgs"):
        (tmp_path / "copy" / folder).mkdir(parents=True)
        for file in (root / folder).iterdir():
            if file.is_file():
                (tmp_path / "copy" / folder / file.name).write_bytes(file.read_bytes())
    return tmp_path / "copy"


def test_setup_refuses_another_python(bare_copy: Path) -> None:
    python = bare_copy / "python-from-elsewhere"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    result = run_bash(f"bash '{bare_copy}/scripts/setup.bash'", PYTHON=str(python))
    assert result.returncode == 1
    assert "no Python 3.11 or 3.12" in result.stderr and str(python) in result.stderr
    assert not (bare_copy / ".venv").exists()


def test_setup_names_missing_system_packages_it_cannot_install(bare_copy: Path, tmp_path: Path) -> None:
    """PATH has everything but cmake and apt-get."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for tool in Path(folder).iterdir():
            if tool.name not in ("cmake", "apt-get") and not (tools / tool.name).is_symlink():
                (tools / tool.name).symlink_to(tool)
    result = run_bash(f"bash '{bare_copy}/scripts/setup.bash'", PATH=str(tools), PYTHON=sys.executable)
    assert result.returncode == 1
    assert "system packages are missing: cmake" in result.stderr
    assert re.search(r"sudo apt-get install .* cmake", result.stderr)
    assert not (bare_copy / ".venv").exists()


def test_second_setup_does_nothing_and_is_quick(root: Path) -> None:
    """It also fails when the workspace is not built from the present sources."""
    chosen = {name: os.environ[name] for name in ("PYTHON", "OPENVLA_TORCH") if name in os.environ}
    result = run_bash(f"time -p bash '{root}/scripts/setup.bash' --check", **chosen)
    assert result.returncode == 0 and result.stdout == "", result.stdout + result.stderr
    cpu = sum(float(seconds) for seconds in re.findall(r"^(?:user|sys) (\S+)$", result.stderr, re.MULTILINE))
    assert cpu < 3  # [s]; the wall time depends on the load
