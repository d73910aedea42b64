//! What matters of a Service.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::{self, text};
use crate::names;

/// The name of a Service and its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A Service as injection sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What a lookup of its name gives.
    pub kind: ServiceKind,
    /// Its ports, in their order.
    pub ports: Vec<ServicePort>,
    /// The labels of its pods; empty if somebody else fills in the endpoints.
    pub selector: BTreeMap<String, String>,
    /// DNS names pods that are not ready, too.
    pub publishes_not_ready: bool,
    /// `sessionAffinity: ClientIP`.
    pub client_ip_affinity: bool,
    /// `internalTrafficPolicy: Local`.
    pub node_local: bool,
    /// `trafficDistribution`, if set.
    pub traffic_distribution: Option<String>,
    /// The Service that this one is whichpod's twin of.
    pub twin_of: Option<String>,
    /// How many endpoints it has, where somebody counted them.
    pub endpoints: Option<usize>,
    /// Whether a quota or policy forbids its headless twin.
    pub twin_refused: bool,
}

/// What a lookup of a Service's name gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    /// A virtual IP (also of NodePort and LoadBalancer Services).
    ClusterIp,
    /// The pods.
    Headless,
    /// Another name.
    ExternalName,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Optional where it is the only one.
    pub name: Option<String>,
    /// What clients of the virtual IP connect to.
    pub port: u16,
    /// What pods listen on.
    pub target: TargetPort,
    /// Whether it is a TCP port (else UDP or SCTP).
    pub tcp: bool,
    /// `appProtocol`, if set.
    pub app_protocol: Option<String>,
}

/// The port that pods listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// On every pod the same.
    Number(u16),
    /// Looked up in each pod's declared ports.
    Name(String),
}

impl Service {
    /// Reads a Service from its JSON; `None` if it has no name or namespace.
    pub fn parse(service: &Value) -> Option<Service> {
        let kind = match (text(service, "/spec/type"), text(service, "/spec/clusterIP")) {
            (Some("ExternalName"), _) => ServiceKind::ExternalName,
            (_, Some("None")) => ServiceKind::Headless,
            _ => ServiceKind::ClusterIp,
        };
        let selector = json::members(service, "/spec/selector").into_iter().flatten();
        Some(Service {
            namespace: text(service, "/metadata/namespace")?.to_owned(),
            name: text(service, "/metadata/name")?.to_owned(),
            kind,
            ports: json::items(service, "/spec/ports").iter().filter_map(ServicePort::parse).collect(),
            selector: selector
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            publishes_not_ready: json::is_true(service, "/spec/publishNotReadyAddresses"),
            client_ip_affinity: text(service, "/spec/sessionAffinity") == Some("ClientIP"),
            node_local: text(service, "/spec/internalTrafficPolicy") == Some("Local"),
            traffic_distribution: text(service, "/spec/trafficDistribution").map(str::to_owned),
            twin_of: twin_of(service).map(str::to_owned),
            endpoints: None,
            twin_refused: false,
        })
    }

    /// Its TCP ports.
    pub(crate) fn tcp_ports(&self) -> impl Iterator<Item = &ServicePort> {
        self.ports.iter().filter(|port| port.tcp)
    }

    /// Whether it has a port that the sidecar cannot serve at all.
    pub(crate) fn other_protocols(&self) -> bool {
        self.ports.iter().any(|port| !port.tcp)
    }

    /// Whether pods with these labels are behind it.
    pub(crate) fn selects(&self, labels: &BTreeMap<&str, &str>) -> bool {
        !self.selector.is_empty()
            && self.selector.iter().all(|(key, value)| labels.get(key.as_str()) == Some(&value.as_str()))
    }
}

/// The Service that a twin of whichpod's stands for.
pub(crate) fn twin_of(service: &Value) -> Option<&str> {
    let label = |key| json::member(service, "/metadata/labels", key).and_then(Value::as_str);
    label(names::TWIN_LABEL).filter(|_| label(names::MANAGED_BY_LABEL) == Some(names::MANAGED_BY))
}

impl ServicePort {
    fn parse(port: &Value) -> Option<ServicePort> {
        let number = json::port(port.get("port")?)?;
        let target = match port.get("targetPort") {
            Some(Value::String(name)) if !name.is_empty() => TargetPort::Name(name.clone()),
            Some(target) => TargetPort::Number(json::port(target).unwrap_or(number)),
            None => TargetPort::Number(number),
        };
        Some(ServicePort {
            name: text(port, "/name").filter(|name| !name.is_empty()).map(str::to_owned),
            port: number,
            target,
            tcp: matches!(text(port, "/protocol"), None | Some("TCP")),
            app_protocol: text(port, "/appProtocol").map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_decides_about_a_redirect_is_read() {
        let service = Service::parse(&json!({
            "metadata": {"namespace": "shop", "name": "web", "labels": null},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "selector": {"app": "web"},
                "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose",
                "publishNotReadyAddresses": true,
                "ports": [{"name": "http", "port": 80, "targetPort": "web", "appProtocol": "http"},
                          {"port": 53, "protocol": "UDP"}, {"port": 0}, null]}}))
        .unwrap();
        assert_eq!(service.kind, ServiceKind::ClusterIp);
        assert!(service.client_ip_affinity && service.node_local && service.publishes_not_ready);
        assert_eq!(service.traffic_distribution.as_deref(), Some("PreferClose"));
        assert_eq!(service.ports.len(), 2);
        assert_eq!(service.ports[0].target, TargetPort::Name("web".into()));
        assert_eq!((service.ports[1].target.clone(), service.ports[1].tcp), (TargetPort::Number(53), false));
        assert!(service.other_protocols());
        assert!(service.selects(&BTreeMap::from([("app", "web"), ("x", "y")])));
        assert!(!service.selects(&BTreeMap::from([("app", "db")])));
    }

    #[test]
    fn only_our_own_label_makes_a_twin() {
        let with = |labels: Value| {
            Service::parse(&json!({"metadata": {"namespace": "a", "name": "b-whichpod", "labels": labels},
                "spec": {"clusterIP": "None"}}))
            .unwrap()
            .twin_of
        };
        assert_eq!(with(json!({"whichpod.io/twin-of": "b"})), None);
        assert_eq!(
            with(json!({"whichpod.io/twin-of": "b", "app.kubernetes.io/managed-by": "whichpod"})),
            Some("b".to_owned())
        );
    }

    #[test]
    fn a_service_without_a_selector_selects_nothing() {
        let service =
            Service::parse(&json!({"metadata": {"namespace": "a", "name": "b"}, "spec": null})).unwrap();
        assert!(!service.selects(&BTreeMap::new()));
        assert_eq!(Service::parse(&json!({"metadata": {"name": "b"}})), None);
    }
}
