"""The policy without ROS: `pip install ./src/openvla_policy`, or `colcon build` in a workspace."""

from setuptools import find_packages, setup

NAME = "openvla_policy"

setup(
    name=NAME,
    version="0.1.0",
    description="OpenVLA: image and instruction in, 7-DoF end-effector deltas out. No ROS needed.",
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
    install_requires=[
        "huggingface-hub",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "safetensors",
        "setuptools",
        "tokenizers",
        "torch",
    ],
    extras_require={
        # Hugging Face's classes and LoRA: off the run-time path, because importing them takes seconds.
        "adapters": ["peft", "sentencepiece", "transformers"],
        "quant": ["bitsandbytes", "torchao"],
        "serve": ["fastapi", "httpx", "msgpack", "rich", "uvicorn", "websockets"],
        "test": ["hypothesis", "pytest", "pytest-timeout"],
    },
    entry_points={"console_scripts": ["openvla-serve = openvla_policy.serving.cli:main"]},
    zip_safe=False,
)
