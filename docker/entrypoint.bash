#!/usr/bin/env bash
# Runs the container's command in the workspace's environment, as process 1's replacement, so that signals reach it.
set -eo pipefail
[ ! -f /opt/ros/jazzy/setup.bash ] || source /opt/ros/jazzy/setup.bash
# A workspace of a derived image, with the driver's messages.
[ -z "${OPENVLA_UNDERLAY:-}" ] || source "$OPENVLA_UNDERLAY"
source /openvla/env.bash
exec "$@"
