"""Datasets and training, without ROS; a ROS package so that one `colcon build` builds the whole workspace."""

from setuptools import find_packages, setup

NAME = "openvla_training"

# The short names are for `ros2 run openvla_training convert`, as ROS has them with underscores; the long ones, with
# hyphens, are all that env.bash puts on PATH.
COMMANDS = {
    "convert": "openvla_training.bags.cli:main",
    "export_bag": "openvla_training.bags.export:main",
    "inspect_data": "openvla_training.rlds.inspect.cli:main",
    "lerobot": "openvla_training.lerobot.cli:main",
    "mixture": "openvla_training.openx.cli:main",
    "train": "openvla_training.trainer.cli:main",
    "finetune": "openvla_training.trainer.cli:finetune_main",
    "merge": "openvla_training.trainer.cli:merge_main",
    "stats": "openvla_training.rlds.cli:stats_main",
}

setup(
    name=NAME,
    version="0.1.0",
    description="Datasets and training of OpenVLA policies: rosbag2 to RLDS, LeRobot, Open X-Embodiment, fine-tuning.",
    license="MIT",
    maintainer="OpenVLA ROS maintainers",
    maintainer_email="maintainers@openvla-ros.org",
    python_requires=">=3.11",
    packages=find_packages(exclude=["test", "test.*"]),
    package_data={NAME: ["py.typed", "rlds/inspect/*.jinja"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            f"{command} = {target}"
            for name, target in COMMANDS.items()
            for command in (name, f"openvla-{name.replace('_', '-')}")
        ],
    },
    zip_safe=False,
)
