//! The configuration files of a node's programs.

use crate::folder::Folder;
use crate::node::{DNS_SERVICE, Dns, NODE_ADDRESS, NODE_NAME, POD_RANGE};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;

/// Where on the node's loopback CoreDNS answers `/ready`.
pub(crate) const DNS_PORT: u16 = 8181;
/// Where kube-proxy answers `/healthz`: well once it has set up all Services it knows.
pub(crate) const PROXY_PORT: u16 = 10256;
/// Where the kubelet answers `/healthz`.
pub(crate) const KUBELET_PORT: u16 = 10248;

pub(crate) fn scheduler(kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "clientConnection": { "kubeconfig": kubeconfig },
        "leaderElection": { "leaderElect": false },
    })
}

pub(crate) fn proxy(kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": kubeconfig },
        "hostnameOverride": NODE_NAME,
        "mode": "iptables",
        "detectLocalMode": "ClusterCIDR", "clusterCIDR": POD_RANGE,
        // The table's size belongs to the whole machine.
        "conntrack": { "maxPerCore": 0 },
        "healthzBindAddress": format!("127.0.0.1:{PROXY_PORT}"), "metricsBindAddress": "127.0.0.1:10249",
    })
}

pub(crate) fn kubelet(folder: &Folder, containerd: &str) -> Result<Value> {
    let group = folder.path().file_name().context("the folder has no name")?.to_string_lossy();
    Ok(json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": false },
            "x509": { "clientCAFile": folder.path().join("certificates/authority.crt") },
        },
        // Who has a certificate of the cluster's authority is the API server.
        "authorization": { "mode": "AlwaysAllow" },
        "containerRuntimeEndpoint": format!("unix://{containerd}"),
        "clusterDNS": [DNS_SERVICE], "clusterDomain": "cluster.local",
        "resolvConf": folder.path().join("resolv.conf"),
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{group}"), "failCgroupV1": false,
        // The limits of the machine, its swap and its settings are not the node's to change.
        "enforceNodeAllocatable": [], "failSwapOn": false, "oomScoreAdj": 0,
        // However full the machine's disk is.
        "evictionHard": { "memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%" },
        "imageGCHighThresholdPercent": 100,
        // Tests compare every line with every answer: none may be rotated away.
        "containerLogMaxSize": "500Mi",
        "readOnlyPort": 0, "healthzBindAddress": "127.0.0.1", "healthzPort": KUBELET_PORT,
        "registerNode": true, "nodeStatusUpdateFrequency": "2s",
    }))
}

pub(crate) fn network() -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "pods",
        "plugins": [
            {
                "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": "/run/cni",
                    "ranges": [[{ "subnet": POD_RANGE }]], "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// CoreDNS is a process on the node, and this is how pods reach it.
pub(crate) fn dns_service() -> Value {
    let ports = ["UDP", "TCP"].map(|protocol| {
        json!({ "name": format!("dns-{}", protocol.to_lowercase()), "protocol": protocol, "port": 53 })
    });
    json!({
        "apiVersion": "v1", "kind": "List",
        "items": [
            {
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": "kube-dns", "namespace": "kube-system" },
                "spec": { "clusterIP": DNS_SERVICE, "ports": ports },
            },
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "name": "kube-dns", "namespace": "kube-system",
                    "labels": { "kubernetes.io/service-name": "kube-dns" },
                },
                "endpoints": [{ "addresses": [NODE_ADDRESS], "conditions": { "ready": true } }],
                "ports": ports,
            },
        ],
    })
}

pub(crate) fn corefile(kubeconfig: &Path, dns: Dns) -> String {
    include_str!("../config/Corefile")
        .replace("{address}", &NODE_ADDRESS.to_string())
        .replace("{ready}", &DNS_PORT.to_string())
        .replace("{kubeconfig}", &kubeconfig.to_string_lossy())
        .replace("{ttl}", &dns.ttl.to_string())
        .replace("{pod_names}", if dns.pod_names { "endpoint_pod_names" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_corefiles_differ_in_what_pods_are_called() {
        let text = |pod_names| corefile(Path::new("/k"), Dns { pod_names, ttl: 30 });
        assert!(text(true).contains("endpoint_pod_names") && !text(false).contains("endpoint_pod_names"));
        for placeholder in ["{address}", "{ready}", "{kubeconfig}", "{ttl}", "{pod_names}"] {
            assert!(!text(true).contains(placeholder) && !text(false).contains(placeholder));
        }
        assert!(text(true).contains("ttl 30"));
    }
}
