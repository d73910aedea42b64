//! The app's own ports: with 127.77.0.1:P bound by the sidecar, the app's 0.0.0.0:P would fail, and the sidecar is first.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::facts::Facts;
use crate::json::{self, text};
use crate::names::annotation;
use crate::service::TargetPort;
use crate::warning::Obstacle;
use crate::workload::Pod;

/// The TCP ports of a pod's app, as far as they are declared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AppPorts {
    /// Each with where it is declared.
    declared: BTreeMap<u16, String>,
    /// What the pod's sysctl says, if it has one.
    lowest: Option<u16>,
}

impl AppPorts {
    /// The ports of containers, of their probes and hooks, of the Services that select the pod, and those of the
    /// annotation.
    pub(crate) fn of(pod: Pod<'_>, namespace: &str, facts: &Facts, annotated: &BTreeSet<u16>) -> AppPorts {
        let mut ports = AppPorts { declared: BTreeMap::new(), lowest: pod.lowest_port() };
        for (_, container) in pod.containers() {
            let name = text(container, "/name").unwrap_or("a container");
            for port in json::items(container, "/ports") {
                if matches!(text(port, "/protocol"), None | Some("TCP")) {
                    ports.declare(port.get("containerPort").and_then(json::port), || {
                        format!("containerPort of {name}")
                    });
                }
            }
            for port in handler_ports(container) {
                ports.declare(Some(port), || format!("a probe of {name}"));
            }
        }
        for service in facts.selecting(namespace, &pod.labels()) {
            for port in service.tcp_ports() {
                if let TargetPort::Number(number) = port.target {
                    ports.declare(Some(number), || format!("targetPort of {}", service.name));
                }
            }
        }
        for port in annotated {
            ports.declare(Some(*port), || annotation::key(annotation::APP_PORTS));
        }
        ports
    }

    /// Why the sidecar must not listen on a port, on whatever address.
    pub(crate) fn obstacle(&self, port: u16) -> Option<Obstacle> {
        match (self.declared.get(&port), self.lowest) {
            (Some(source), _) => Some(Obstacle::Clash { port, source: source.clone() }),
            (None, Some(lowest)) if port < lowest => Some(Obstacle::LowPort { port, lowest }),
            _ => None,
        }
    }

    /// The first port from `wanted` on that neither the app nor the sidecar has.
    pub(crate) fn free(&self, wanted: u16, taken: &BTreeSet<u16>) -> Option<u16> {
        let in_order = (wanted..=u16::MAX).chain(1024..wanted);
        in_order.into_iter().find(|port| self.obstacle(*port).is_none() && !taken.contains(port))
    }

    /// Whether the pod says itself which ports are low.
    pub(crate) fn has_lowest(&self) -> bool {
        self.lowest.is_some()
    }

    fn declare(&mut self, port: Option<u16>, source: impl FnOnce() -> String) {
        if let Some(port) = port {
            self.declared.entry(port).or_insert_with(source);
        }
    }
}

/// Port numbers of probes and lifecycle hooks; names are those of declared ports.
fn handler_ports(container: &Value) -> impl Iterator<Item = u16> {
    const HANDLERS: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let handlers = HANDLERS.into_iter().filter_map(|path| json::at(container, path));
    handlers.flat_map(|handler| {
        ["/httpGet", "/tcpSocket", "/grpc"].into_iter().filter_map(|action| {
            let action = json::at(handler, action)?;
            // A probe of another host says nothing about this pod.
            let elsewhere = text(action, "/host").is_some_and(|host| !host.is_empty() && !is_loopback(host));
            action.get("port").filter(|_| !elsewhere).and_then(json::port)
        })
    })
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_declared_port_of_the_app_is_known() {
        let mut facts = Facts::complete();
        facts.put_service(&json!({"metadata": {"namespace": "shop", "name": "web"},
            "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "web"}, "ports": [
                {"port": 80, "targetPort": 8006}, {"port": 81, "targetPort": "named"}, {"port": 82, "targetPort": 8099, "protocol": "UDP"}]}}));
        let pod = json!({"metadata": {"labels": {"app": "web", "x": "y"}}, "spec": {
            "initContainers": [{"name": "init", "ports": [{"containerPort": 8007}]}],
            "containers": [{"name": "app",
                "ports": [{"containerPort": 8001}, {"containerPort": 8002, "protocol": "UDP"}],
                "livenessProbe": {"httpGet": {"port": 8003}}, "readinessProbe": {"tcpSocket": {"port": "8004"}},
                "startupProbe": {"grpc": {"port": 8005}},
                "lifecycle": {"preStop": {"httpGet": {"port": 8009, "host": "elsewhere.example"}}}}]}});
        let ports = AppPorts::of(Pod(&pod), "shop", &facts, &BTreeSet::from([8008]));
        let known: Vec<u16> = ports.declared.keys().copied().collect();
        assert_eq!(known, [8001, 8003, 8004, 8005, 8006, 8007, 8008]);
        assert_eq!(
            ports.obstacle(8006),
            Some(Obstacle::Clash { port: 8006, source: "targetPort of web".to_owned() })
        );
        assert_eq!(ports.obstacle(8002), None);
    }

    #[test]
    fn a_port_that_the_pod_reserves_is_no_port_for_the_sidecar() {
        let sysctl = |value: &str| json!({"spec": {"securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": value}]}}});
        let ports = |pod: &Value| AppPorts::of(Pod(pod), "a", &Facts::unknown(), &BTreeSet::new());
        assert_eq!(ports(&sysctl("80")).obstacle(80), None);
        assert_eq!(ports(&sysctl("81")).obstacle(80), Some(Obstacle::LowPort { port: 80, lowest: 81 }));
        assert_eq!(ports(&sysctl("x")).obstacle(1023), Some(Obstacle::LowPort { port: 1023, lowest: 1024 }));
        assert_eq!(ports(&json!({})).obstacle(80), None);
    }

    #[test]
    fn a_free_port_is_found_even_at_the_end_of_the_range() {
        let pod = json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 65535}]}]}});
        let ports = AppPorts::of(Pod(&pod), "a", &Facts::unknown(), &BTreeSet::new());
        assert_eq!(ports.free(65535, &BTreeSet::from([1024])), Some(1025));
        assert_eq!(ports.free(9901, &BTreeSet::from([9901])), Some(9902));
    }
}
