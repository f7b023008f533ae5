"""The policy without ROS: `pip install ./src/openvla_policy`, or `colcon build` in a workspace."""

from setuptools import find_packages, setup

NAME = "openvla_policy"

# The policy in this process; for CPUs without CUDA's libraries install torch from download.pytorch.org/whl/cpu first.
LOCAL = ["huggingface-hub", "safetensors", "tokenizers", "torch"]
CLIENT = ["httpx", "msgpack", "websockets"]

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
    install_requires=["numpy", "opencv-python-headless", "pillow", "setuptools"],
    extras_require={
        "local": LOCAL,
        "client": CLIENT,
        "serve": [*LOCAL, *CLIENT, "fastapi", "prometheus-client", "rich", "tyro", "uvicorn"],
        "quant": [*LOCAL, "bitsandbytes", "torchao"],
        # Hugging Face's classes and LoRA: not used to run a policy, as importing them takes seconds.
        "adapters": [*LOCAL, "peft", "sentencepiece", "transformers"],
        "test": ["hypothesis", "pytest", "pytest-timeout"],
    },
    entry_points={"console_scripts": ["openvla-serve = openvla_policy.serving.cli:main"]},
    zip_safe=False,
)
