#!/usr/bin/env bash
# Sets the workspace up: system packages, .venv from the locks in requirements/, ROS 2, colcon build. Every `make`
# target runs it; it does only what changed since the last time, and returns in well under a second when nothing did.
# With --check it does nothing, and its exit status says whether the workspace is up to date.
#
# ROS 2: the installed one where it is sourced (ROS_DISTRO set, rclpy importable), else the Jazzy wheels from PyPI.
# Environment: PYTHON (interpreter for .venv, 3.11 or 3.12), pip's settings (PIP_INDEX_URL, PIP_FIND_LINKS,
# PIP_EXTRA_INDEX_URL, PIP_CERT or pip.conf), OPENVLA_TORCH=cpu|cuda (default: cuda where there is an NVIDIA GPU).
set -euo pipefail

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
STAMPS="$ROOT/build/.setup"
LOG="$ROOT/build/setup.log"
UV_VERSION=0.13.9
CPU_INDEX=https://download.pytorch.org/whl/cpu
cd "$ROOT"
mkdir -p "$STAMPS"

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }

# die WHAT REMEDY
die() {
    printf '\n[setup] FAILED: %s\n        %s\n' "$1" "$2" >&2
    exit 1
}

# In a terminal, count the seconds of a step on one line, until killed or left behind; elsewhere print nothing.
progress() {
    local start=$SECONDS
    [ -t 1 ] || return 0
    while sleep 1 && kill -0 $$ 2> /dev/null; do  # bash starts it with SIGINT ignored
        printf '\r\033[1m[setup]\033[0m %s ... %d s' "$1" $((SECONDS - start))
    done
}

# run WHAT REMEDY COMMAND...: print what is done and how long it took; on failure the end of its output.
run() {
    local what="$1" remedy="$2" start=$SECONDS status=0 counter
    shift 2
    say "$what ..."
    progress "$what" 9>&- &  # without the lock
    counter=$!
    "$@" > "$LOG" 2>&1 || status=$?
    kill "$counter" 2> /dev/null || true
    wait "$counter" 2> /dev/null || true
    [ ! -t 1 ] || printf '\r\033[K'
    if [ "$status" != 0 ]; then
        tail -n 40 "$LOG" >&2
        die "$what" "$remedy (all output: $LOG)"
    fi
    say "$what: done in $((SECONDS - start)) s"
}

# Hash of the contents of files and of standard input.
hash_of() { { cat; sha256sum -- "$@"; } | sha256sum | cut -d' ' -f1; }

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2> /dev/null; }

# ---------------------------------------------------------------- which ROS, which Python, which torch
MODE=wheels
if [ -n "${ROS_DISTRO:-}" ] && /usr/bin/python3 -c 'import rclpy' 2> /dev/null; then
    MODE="ros-$ROS_DISTRO"
    [ "$ROS_DISTRO" = jazzy ] || say "warning: ROS $ROS_DISTRO is sourced; this stack is made for jazzy"
fi

pick_python() {
    local candidate
    if [ "$MODE" != wheels ]; then
        # rclpy is compiled for the system's Python.
        supported /usr/bin/python3 && echo /usr/bin/python3 && return
        die "ROS $ROS_DISTRO runs on $(/usr/bin/python3 -V)" "Use ROS 2 Jazzy, whose Python is 3.12."
    fi
    for candidate in ${PYTHON:-python3.12 python3.11 python3 /usr/bin/python3}; do
        if supported "$candidate"; then
            "$candidate" -c 'import sys; print(sys._base_executable)'  # not that of another environment
            return
        fi
    done
    die "no Python 3.11 or 3.12 among: ${PYTHON:-python3.12, python3.11, python3}" \
        "Install one (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv) or name it: make setup PYTHON=/path"
}

TORCH="${OPENVLA_TORCH:-}"
if [ -z "$TORCH" ]; then
    TORCH=cpu
    [ ! -e /dev/nvidiactl ] || TORCH=cuda
fi
case "$TORCH" in cpu | cuda) ;; *) die "OPENVLA_TORCH=$TORCH" "Choose cpu or cuda." ;; esac

if [ "$MODE" = wheels ]; then
    LOCKS=(requirements/{robot,training,dev,ros}.txt)
else
    LOCKS=(requirements/workstation.txt)
fi

# ---------------------------------------------------------------- what changed
# The path is part of the key: scripts in .venv and links in install/ contain it.
ENV_KEY="$(hash_of "${LOCKS[@]}" requirements/cuda.txt scripts/setup.bash <<< "$ROOT $MODE $TORCH ${PYTHON:-}")"
# Python sources are linked, not copied; new files in launch/ and config/ must be linked too, so their names count.
mapfile -t SOURCES < <(find src -type f \( -path 'src/openvla_msgs/*' -o -name package.xml -o -name setup.py \
    -o -name setup.cfg -o -name __init__.py -path 'src/*/*/__init__.py' -not -path 'src/*/*/*/*' \) | sort)
BUILD_KEY="$({ find launch config checkpoints -type f 2> /dev/null || true; } | sort | hash_of "${SOURCES[@]}")-$ENV_KEY"

is_done() { [ "$(cat "$STAMPS/$1" 2> /dev/null)" = "$2" ]; }
up_to_date() {
    is_done env "$ENV_KEY" && is_done build "$BUILD_KEY" && [ -x "$VENV/bin/python" ] && [ -f install/setup.bash ]
}

if up_to_date; then exit 0; fi
if [ "${1:-}" = --check ]; then
    die "the workspace's environment or build is older than its sources" "Bring it up to date: make setup"
fi

# One set-up at a time: `make demo` and `make test` may run concurrently.
exec 9> "$STAMPS/lock"
flock --nonblock 9 || { say "another set-up of this workspace is running; waiting for it"; flock 9; }
if up_to_date; then exit 0; fi
BEGIN=$SECONDS

# ---------------------------------------------------------------- system packages
if [ -z "${PYTHON:-}" ] && supported "$VENV/bin/python"; then PY="$VENV/bin/python"; else PY="$(pick_python)"; fi
py_package="python$("$PY" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
# Test for the programs, not for packages: they may be installed in another way.
missing=()
command -v cmake > /dev/null || missing+=(cmake)
command -v make > /dev/null || missing+=(make)
command -v c++ > /dev/null || missing+=(g++)
"$PY" -c 'import ensurepip, venv' 2> /dev/null || missing+=("$py_package-venv")
"$PY" -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2> /dev/null || missing+=("$py_package-dev")
# Not grep -q: it stops reading, and under pipefail a program that is still writing then counts as failed.
if ! { ldconfig -p || /sbin/ldconfig -p; } 2> /dev/null | grep libOSMesa > /dev/null; then
    missing+=(libosmesa6)  # MuJoCo's software rendering
fi
if [ ${#missing[@]} -gt 0 ]; then
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo -n)
    command="apt-get install -y --no-install-recommends ${missing[*]}"
    if ! command -v apt-get > /dev/null || ! "${sudo[@]}" true 2> /dev/null; then
        die "system packages are missing: ${missing[*]}" "Install them, then run this again: sudo $command"
    fi
    run "apt-get update" "Is the network up?" "${sudo[@]}" apt-get update -qq
    # shellcheck disable=SC2086
    run "$command" "Install them by hand, then run this again." "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive $command
fi

# ---------------------------------------------------------------- .venv
uv_install() {
    "$VENV/bin/uv" pip install --python "$VENV/bin/python" --compile-bytecode "$@"
}

# uv does not read pip's settings: pass them on.
pass_pip_settings() {
    local settings name variable value
    settings="$("$VENV/bin/pip" config list)"
    while read -r name variable; do
        value="$(sed -n "s/^[a-z:]*\.$name='\(.*\)'$/\1/p" <<< "$settings" | head -n 1)"
        [ -z "$value" ] || [ -n "${!variable:-}" ] || export "$variable=${value//\\n/ }"
    done <<< 'index-url UV_DEFAULT_INDEX
extra-index-url UV_EXTRA_INDEX_URL
find-links UV_FIND_LINKS
cert SSL_CERT_FILE'
    # As pip does: use the machine's certificates, and the locked version from any index.
    export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}" UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
    export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}"
}

install_torch() {
    local version
    version="$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' "${LOCKS[0]}")"
    if [ "$TORCH" = cuda ]; then
        uv_install --no-deps -r requirements/cuda.txt
    # A build without CUDA saves gigabytes: from the index in use, or PyTorch's own.
    elif ! uv_install --no-deps "torch==$version+cpu" && ! uv_install --no-deps --index "$CPU_INDEX" "torch==$version+cpu"; then
        echo "no CPU build of torch $version is available: installing PyPI's with its CUDA libraries"
        uv_install --no-deps -r requirements/cuda.txt
    fi
}

# The ROS wheels' CMake exports contain the include folders of the machine that built them.
fix_wheels() {
    local python_include numpy_include
    python_include="$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
    numpy_include="$("$VENV/bin/python" -c 'import numpy; print(numpy.get_include())')"
    find "$VENV/share" -name '*Export.cmake' -print0 | xargs -0 -r sed -i -E \
        -e "s#/opt/python/[^/;\"]+/lib/python[0-9.]+/site-packages/numpy/_?core/include#$numpy_include#g" \
        -e "s#/opt/python/[^/;\"]+/include/python[0-9.]+#$python_include#g"
    if grep -rl --include='*Export.cmake' /opt/python/ "$VENV/share"; then
        echo "these files still contain folders of the machine that built the ROS wheels"
        return 1
    fi
}

if ! is_done env "$ENV_KEY" || [ ! -x "$VENV/bin/python" ]; then
    site_packages=false
    [ "$MODE" = wheels ] || site_packages=true
    # An environment that fits is updated; any other is created again, and so is what was built with it.
    if ! supported "$VENV/bin/python" || ! "$VENV/bin/pip" --version > /dev/null 2>&1 \
        || ! grep -qi "^include-system-site-packages *= *$site_packages" "$VENV/pyvenv.cfg" \
        || ! grep -qs "$VENV/bin" "$VENV/bin/pip" \
        || { [ -n "${PYTHON:-}" ] && ! "$VENV/bin/python" -V | grep -qF "$("$PY" -V)"; }; then
        PY="$(pick_python)"
        rm -rf "$VENV" build/openvla_* build/bin install
        options=()
        [ "$MODE" = wheels ] || options=(--system-site-packages)
        run "creating .venv with $("$PY" -V) ($PY)" "Is $py_package-venv installed?" "$PY" -m venv "${options[@]}" "$VENV"
    fi
    rm -f "$STAMPS/env"
    run "fetching uv, the installer" "Is the network up, and PyPI (or PIP_INDEX_URL) reachable?" \
        "$VENV/bin/python" -m pip install -q --disable-pip-version-check "uv==$UV_VERSION"
    pass_pip_settings
    run "installing torch ($TORCH)" "Is the network up, and is there 1 GB of disk space (5 GB with CUDA)?" install_torch
    arguments=()
    for lock in "${LOCKS[@]}"; do arguments+=(-r "$lock"); done
    run "installing the locked Python packages (1 GB)" "Is the network up, and is there disk space in $ROOT?" \
        uv_install --no-deps "${arguments[@]}"
    if [ "$MODE" = wheels ]; then
        run "fixing the ROS wheels' CMake files" "Please report this; scripts/setup.bash needs a change." fix_wheels
    fi
    echo "$ENV_KEY" > "$STAMPS/env"
fi

# ---------------------------------------------------------------- colcon
build() {
    export VIRTUAL_ENV="$VENV" PATH="$VENV/bin:$PATH"
    unset _ROS_WHEELS_BOOTSTRAP_COMPLETE COLCON_PREFIX_PATH PYTHONHOME
    [ "$MODE" != wheels ] || { export AMENT_PREFIX_PATH="$VENV"; unset ROS_DISTRO PYTHONPATH CMAKE_PREFIX_PATH; }
    # With .venv's Python, so that the installed commands start with it.
    "$VENV/bin/python" -m colcon build --symlink-install --event-handlers console_direct+ \
        --cmake-args "-DPython3_EXECUTABLE=$VENV/bin/python" -DBUILD_TESTING=OFF
}

link_commands() {
    local command
    rm -rf build/bin
    mkdir -p build/bin
    # Only names that begin with openvla-: other programs are called `convert` and `train` too.
    for command in install/*/lib/*/openvla-*; do
        ln -s "../../$command" build/bin/
    done
}

run "colcon build" "Fix what the output names; after a change of ROS or Python: make clean, then again." build
link_commands
echo "$BUILD_KEY" > "$STAMPS/build"
say "the workspace is ready after $((SECONDS - BEGIN)) s; \`source env.bash\` sets up a shell for it"
