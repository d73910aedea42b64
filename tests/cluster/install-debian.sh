#!/bin/sh
# Installs the Debian packages that a whole node needs (the control plane alone needs none), if any is missing.
set -eu
exec "$(dirname "$0")/../install-debian.sh" containerd runc containernetworking-plugins iproute2 iptables conntrack \
    busybox-static nginx-light util-linux
