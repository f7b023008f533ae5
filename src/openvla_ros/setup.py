"""The ROS 2 package; it installs the workspace's launch/, config/ and checkpoints/ into share/openvla_ros."""

from glob import glob
from os import walk
from os.path import dirname, join, realpath, relpath

from setuptools import find_packages, setup

NAME = "openvla_ros"

# The workspace's top folder. colcon runs this file from src/openvla_ros, or, with --symlink-install, through a link in
# build/openvla_ros: use the file's real path, made relative, since setuptools refuses absolute paths.
TOP = relpath(join(dirname(realpath(__file__)), "..", ".."))


def tree(folder: str) -> list[tuple[str, list[str]]]:
    """A top-level folder's files as data_files, with its subfolders."""
    entries = []
    for path, _, files in walk(join(TOP, folder)):
        kept = [join(path, name) for name in sorted(files) if not name.startswith(".")]
        if kept:
            entries.append((join("share", NAME, relpath(path, TOP)), kept))
    return entries


setup(
    name=NAME,
    version="0.1.0",
    description="The OpenVLA policy on a robot: nodes, safety gate, robot adapters, recording, simulation.",
    license="MIT",
    maintainer="OpenVLA ROS maintainers",
    maintainer_email="maintainers@openvla-ros.org",
    python_requires=">=3.11",
    packages=find_packages(exclude=["test", "test.*"]),
    package_data={NAME: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(glob(join(TOP, "launch", "*.launch.py")))),
        *tree("config"),
        *tree("checkpoints"),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "policy_node = openvla_ros.nodes.policy.policy_node:main",
            "bridge_node = openvla_ros.nodes.bridge.bridge_node:main",
            "sim_node = openvla_ros.nodes.sim.sim_node:main",
            "recorder_node = openvla_ros.nodes.recorder.recorder_node:main",
            "teleop_node = openvla_ros.nodes.teleop.teleop_node:main",
            "lifecycle_manager = openvla_ros.nodes.lifecycle_manager:main",
            "doctor = openvla_ros.apps.doctor.cli:main",
            "openvla-doctor = openvla_ros.apps.doctor.cli:main",
            "openvla-demo = openvla_ros.evaluation.demo:main",
            "openvla-collect = openvla_ros.evaluation.collect:main",
            "openvla-record = openvla_ros.apps.record:main",
            "openvla-teleop = openvla_ros.apps.teleop:main",
            "openvla-recover = openvla_ros.apps.recover:main",
        ],
    },
    zip_safe=False,
)
