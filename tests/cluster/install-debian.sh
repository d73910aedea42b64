#!/bin/sh
# Installs the Debian packages that a whole node needs (the control plane alone needs none), if any is missing.
set -eu

packages="containerd runc containernetworking-plugins iproute2 iptables conntrack busybox-static nginx-light util-linux"

missing=""
for package in $packages; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || true
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "missing:$missing; run as root: apt-get update && apt-get install --yes --no-install-recommends$missing" >&2
    exit 1
fi

# Only the programs are wanted: containerd and nginx must not start as services of this machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update
# shellcheck disable=SC2086 # a list of words
apt-get install --yes --no-install-recommends $missing
