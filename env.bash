# Source this file from bash, in any folder: `source /path/to/env.bash`. It sets up the shell for the workspace's Python,
# ROS 2 and commands.
# On a ROS workstation source /opt/ros/<distro>/setup.bash first (as always); elsewhere ROS comes from .venv.
# Safe to source twice, and under `set -eu`.

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    echo "env.bash sets up the shell that sources it: use \`source env.bash\`" >&2
    exit 1
fi

_openvla_env() {
    local root venv
    root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
    venv="$root/.venv"

    if [ ! -f "$root/install/setup.bash" ] || [ ! -x "$venv/bin/python" ]; then
        echo "env.bash: $root is not set up yet: run \`make setup\` there" >&2
        return 1
    fi
    if grep -qi '^include-system-site-packages *= *true' "$venv/pyvenv.cfg"; then
        if [ -z "${ROS_DISTRO:-}" ]; then
            echo "env.bash: this workspace was built on an installed ROS 2, which is not sourced:" \
                "source /opt/ros/<distro>/setup.bash first" >&2
            return 1
        fi
    else
        # The ROS wheels are in the environment, which therefore is an ament prefix. Their .pth starts Python again to find
        # its libraries, unless a variable says that this was done, maybe for another environment: unset it.
        case ":${AMENT_PREFIX_PATH:-}:" in
            *":$venv:"*) ;;
            *) export AMENT_PREFIX_PATH="$venv${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}" ;;
        esac
        unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
    fi

    export OPENVLA_HOME="$root" VIRTUAL_ENV="$venv"
    unset PYTHONHOME
    local rest=":$PATH:"
    rest="${rest//":$root/build/bin:"/:}"
    rest="${rest//":$venv/bin:"/:}"
    rest="${rest#:}"
    export PATH="$root/build/bin:$venv/bin:${rest%:}"

    # colcon's scripts read unset variables and end with false tests.
    local flags="$-"
    set +eu
    . "$root/install/setup.bash"
    case "$flags" in *e*) set -e ;; esac
    case "$flags" in *u*) set -u ;; esac

    # Camera frames need more shared memory than Fast DDS's default (see the file).
    export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-$root/config/dds/fastdds.xml}"

    # MuJoCo renders on an NVIDIA GPU (egl), else with the display's window system (its default), else in software.
    if [ -z "${MUJOCO_GL:-}" ]; then
        if [ -e /dev/nvidiactl ] && ldconfig -p 2>/dev/null | grep -q libEGL_nvidia; then
            export MUJOCO_GL=egl
        elif [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
            export MUJOCO_GL=osmesa
        fi
    fi
}

if _openvla_env; then
    unset -f _openvla_env
else
    unset -f _openvla_env
    return 1
fi
