#!/bin/sh
# Installs the Debian packages that the tests with real peers need, if any is missing.
set -eu

# PostgreSQL's first installation would make a database of its own.
if [ "$(id -u)" = 0 ] && [ ! -e /etc/postgresql-common ]; then
    mkdir -p /etc/postgresql-common/createcluster.d
    printf 'create_main_cluster = false\n' >/etc/postgresql-common/createcluster.d/none.conf
fi

exec "$(dirname "$0")/../install-debian.sh" curl mariadb-client mariadb-server nginx-light postgresql postgresql-client \
    python3-websockets redis-server redis-tools util-linux
