# The GPU server and training: torch with CUDA from requirements/cuda.txt, ROS 2 from the Jazzy wheels. docs/how-to/docker.md.
FROM ubuntu:24.04 AS environment

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates cmake g++ libegl1 libgl1 libosmesa6 make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /openvla
COPY . .
# No GPU is visible during a build: force the CUDA lock.
RUN OPENVLA_TORCH=cuda bash scripts/setup.bash && rm -rf /root/.cache
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
ENTRYPOINT ["/openvla/docker/entrypoint.bash"]

FROM environment AS server
EXPOSE 8000
CMD ["openvla-serve", "/checkpoint", "--host", "0.0.0.0", "--token-file", "/run/secrets/token"]

FROM environment AS training
# Datasets, checkpoints and the model cache are on the host.
VOLUME ["/data"]
ENV HF_HOME=/data/huggingface
CMD ["bash"]
