#!/usr/bin/env bash
# Compile requirements/*.in to the locks requirements/*.txt. Run it after changing an .in file, then `make setup`.
# `bash scripts/lock.bash --upgrade` updates all packages. Needs .venv (for uv) and the network.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../requirements"

uv=../.venv/bin/uv
export UV_CUSTOM_COMPILE_COMMAND="bash scripts/lock.bash"
# One version for both Pythons, with markers where platforms differ.
options=(--universal --python-version 3.11 --fork-strategy fewest --annotation-style line --quiet)
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# compile OUTPUT ARGUMENTS...: one lock.
compile() {
    "$uv" pip compile "${options[@]}" --output-file "$@" > /dev/null
    sed -i "s#,\? *-c $work/all.txt##" "$1"
    echo "requirements/$1: $(grep -c '^[a-zA-Z]' "$1") packages"
}

# Resolve everything together (keeping present versions without --upgrade), so that all locks fit into one environment;
# then write one lock for each use.
cat robot.txt training.txt dev.txt ros.txt 2> /dev/null | sort -u > "$work/all.txt" || true
"$uv" pip compile "${options[@]}" --overrides overrides.in robot.in training.in dev.in ros.in \
    --output-file "$work/all.txt" "$@" > /dev/null
for use in robot training dev ros; do
    rm -f "$use.txt"
    compile "$use.txt" --overrides overrides.in --constraints "$work/all.txt" "$use.in"
done
compile cuda.txt --constraints "$work/all.txt" cuda.in "$@"
compile workstation.txt --overrides overrides.in --constraints workstation.in robot.in training.in dev.in "$@"
