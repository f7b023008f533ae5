# The GPU server and training: ROS 2 from the Jazzy wheels, torch with CUDA from requirements/cuda.txt. See README.md here.
FROM ubuntu:24.04 AS environment

SHELL ["/bin/bash", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates cmake g++ libegl1 libgl1 libosmesa6 make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /openvla
COPY . .
# No GPU is visible during a build: say that there will be one.
RUN OPENVLA_TORCH=cuda bash scripts/setup.bash && rm -rf /root/.cache
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
ENTRYPOINT ["/openvla/docker/entrypoint.bash"]

FROM environment AS gpu
CMD ["python", "-m", "openvla_ros.nodes.policy_node"]

FROM environment AS training
# Data sets, checkpoints and the models' cache live on the host.
VOLUME ["/data"]
ENV HF_HOME=/data/huggingface
CMD ["bash"]
