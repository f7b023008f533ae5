# The robot PC: ROS 2 Jazzy from the base image, everything else from requirements/workstation.txt. docs/how-to/docker.md.
FROM ros:jazzy-ros-base

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends \
        cmake g++ libosmesa6 make python3-colcon-common-extensions python3-dev python3-venv \
        ros-jazzy-control-msgs ros-jazzy-controller-manager-msgs ros-jazzy-cv-bridge \
        ros-jazzy-diagnostic-msgs ros-jazzy-domain-coordinator ros-jazzy-foxglove-bridge ros-jazzy-joy ros-jazzy-launch-ros \
        ros-jazzy-moveit-msgs ros-jazzy-realsense2-camera ros-jazzy-rmw-fastrtps-cpp \
        ros-jazzy-rosidl-default-generators ros-jazzy-tf2-msgs ros-jazzy-usb-cam \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /openvla
COPY . .
RUN source /opt/ros/jazzy/setup.bash && OPENVLA_TORCH=cpu bash scripts/setup.bash && rm -rf /root/.cache

ENTRYPOINT ["/openvla/docker/entrypoint.bash"]
CMD ["openvla-doctor"]
