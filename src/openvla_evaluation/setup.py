"""openvla_evaluation without ROS: `pip install ./src/openvla_evaluation`, or `colcon build` in a workspace."""

from setuptools import find_packages, setup

NAME = "openvla_evaluation"

setup(
    name=NAME,
    version="0.1.0",
    description="Tasks, trial plans, statistics and reports for judging robot policies. No ROS needed.",
    license="MIT",
    maintainer="OpenVLA ROS maintainers",
    maintainer_email="maintainers@openvla-ros.org",
    python_requires=">=3.11",
    packages=find_packages(exclude=["test", "test.*"]),
    package_data={NAME: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["imageio-ffmpeg", "numpy", "pillow", "pydantic>=2.12", "pyyaml", "scipy", "setuptools"],
    extras_require={"test": ["hypothesis", "pytest", "pytest-timeout"]},
    zip_safe=False,
)
