#!/bin/sh
# Installs the Debian packages that the tests with real peers need, if any is missing.
set -eu

packages="curl mariadb-client mariadb-server nginx-light postgresql postgresql-client python3-websockets redis-server redis-tools util-linux"

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

# Only the programs are wanted: none of them must start as a service of this machine, nor make a database of its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
mkdir -p /etc/postgresql-common/createcluster.d
printf 'create_main_cluster = false\n' >/etc/postgresql-common/createcluster.d/none.conf

export DEBIAN_FRONTEND=noninteractive
apt-get update
# shellcheck disable=SC2086 # a list of words
apt-get install --yes --no-install-recommends $missing
