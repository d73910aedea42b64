# Runs first in the node's own namespaces. Arguments: the working folder, the node's address, the range of all addresses.
set -eu
folder=$1 address=$2 range=$3

# What the programs insist on writing outside their folders goes into the working folder, or into memory.
mkdir -p "$folder/log" /var/lib/cni
mount --bind "$folder/log" /var/log
mount -t tmpfs tmpfs /var/lib/cni
mount -t tmpfs tmpfs /run

# The kubelet insists on these values, which belong to the whole machine: it is shown them, and nothing changes.
mkdir "$folder/sysctl"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    name=${setting%=*}
    shown="$folder/sysctl/$(basename "$name")"
    echo "${setting#*=}" >"$shown"
    mount --bind "$shown" "/proc/sys/$name"
done

# Not every kernel has dummy devices; a bridge without ports can hold the node's address as well.
ip link set lo up
ip link add node0 type bridge
ip address add "$address/32" dev node0
ip link set node0 up
# A Service's address is only replaced after a route was found for it.
ip route add "$range" dev node0 src "$address"

echo 1 >/proc/sys/net/ipv4/ip_forward
# Pods on one bridge must pass the packet filter, or a Service would not work between them.
[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || modprobe br_netfilter
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
