#!/usr/bin/env bash
# Run the container's command in the workspace's environment; exec makes it process 1, which receives the signals.
set -eo pipefail
[ ! -f /opt/ros/jazzy/setup.bash ] || source /opt/ros/jazzy/setup.bash
# Workspace of a derived image with the messages of a robot driver.
[ -z "${OPENVLA_UNDERLAY:-}" ] || source "$OPENVLA_UNDERLAY"
source /openvla/env.bash
exec "$@"
