//! Kubernetes Services as CoreDNS shows them.

use std::net::{IpAddr, SocketAddr};

use super::zone::{Contents, ServiceRecord, Zone, key, reverse};

/// A Service's names; publishes pods or a virtual IP under them.
#[derive(Debug, Clone)]
pub struct Service {
    name: String,
    port_name: String,
    ttl: u32,
}

/// A pod behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The first label of its name, where DNS tells it (StatefulSets); else its dashed address takes its place.
    pub name: Option<String>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Pod {
    /// A pod whose name DNS tells.
    pub fn named(name: &str, address: SocketAddr) -> Self {
        Self { name: Some(name.to_owned()), address }
    }

    /// A pod of a Deployment: DNS tells its address alone.
    pub fn unnamed(address: SocketAddr) -> Self {
        Self { name: None, address }
    }

    fn label(&self) -> String {
        let dashed = || self.address.ip().to_string().replace(['.', ':'], "-");
        self.name.clone().unwrap_or_else(dashed)
    }
}

impl Service {
    /// A Service by its whole name, as in `backend-headless.default.svc.cluster.local.`; its port is called `http`, its
    /// TTL is 5 s (CoreDNS's default). Nothing is published yet.
    pub fn new(name: &str) -> Self {
        Self { name: key(name), port_name: "http".to_owned(), ttl: 5 }
    }

    /// Gives the port another name; with an empty one there is no `_port._tcp` record.
    pub fn port_name(self, port_name: &str) -> Self {
        Self { port_name: port_name.to_owned(), ..self }
    }

    /// Gives all its records another TTL, in seconds.
    pub fn ttl(self, ttl: u32) -> Self {
        Self { ttl, ..self }
    }

    /// The whole name, with the last dot.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name that SRV is asked for, with the last dot.
    pub fn srv_name(&self) -> String {
        format!("_{}._tcp.{}", self.port_name, self.name)
    }

    /// The pod's whole name, with the last dot.
    pub fn pod_name(&self, pod: &Pod) -> String {
        key(&format!("{}.{}", pod.label(), self.name))
    }

    /// A headless Service with these pods, instead of whatever was published before: A and SRV records of the Service, A
    /// and PTR records of each pod. Without pods the name does not exist, as with CoreDNS.
    pub fn publish_pods(&self, zone: &Zone, pods: &[Pod]) {
        zone.edit(|contents| {
            contents.remove_tree(&self.name);
            for pod in pods {
                let (name, ip) = (self.pod_name(pod), pod.address.ip());
                self.add_address(contents, &self.name, ip);
                self.add_address(contents, &name, ip);
                self.add_srv(contents, &name, pod.address);
                contents.records(&reverse(ip)).pointers.push(name);
            }
        });
    }

    /// A Service with a virtual IP (type ClusterIP), instead of whatever was published before: the reverse of the virtual
    /// IP is the Service's own name, by which it can be told from a pod.
    pub fn publish_virtual_ip(&self, zone: &Zone, address: SocketAddr) {
        zone.edit(|contents| {
            contents.remove_tree(&self.name);
            self.add_address(contents, &self.name, address.ip());
            self.add_srv(contents, &self.name, address);
            contents.records(&reverse(address.ip())).pointers.push(self.name.clone());
        });
    }

    fn add_address(&self, contents: &mut Contents, name: &str, address: IpAddr) {
        let records = contents.records(name);
        records.addresses_ttl = self.ttl;
        if !records.addresses.contains(&address) {
            records.addresses.push(address);
        }
    }

    /// SRV records are at `_port._tcp.service` and at the Service's own name.
    fn add_srv(&self, contents: &mut Contents, target: &str, address: SocketAddr) {
        let record = ServiceRecord { target: target.to_owned(), port: address.port(), address: address.ip() };
        let named = (!self.port_name.is_empty()).then(|| self.srv_name());
        for name in [Some(self.name.clone()), named].into_iter().flatten() {
            let records = contents.records(&name);
            records.services_ttl = self.ttl;
            records.services.push(record.clone());
        }
    }
}
