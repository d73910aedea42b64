//! Pods behind a headless Service, with DNS to edit.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use serde_json::{Value, json};
use whichpod_testkit::backend::{Backend, free_port};
use whichpod_testkit::dns::{DnsServer, Pod, Service, Zone};
use whichpod_testkit::scripted::ScriptedBackend;

use crate::rig::Rig;

/// How many addresses a cluster has for pods.
pub const ADDRESSES: u8 = 8;

/// A DNS server, a headless Service, and addresses for pods that no other cluster of this process has.
pub struct Cluster {
    /// What DNS answers.
    pub zone: Zone,
    /// The Service, to publish pods.
    pub service: Service,
    /// The port of all pods.
    pub port: u16,
    network: u8,
    dns: DnsServer,
}

impl Cluster {
    /// Nothing is published yet; records have this TTL, in seconds.
    pub async fn new(ttl: u32) -> Self {
        static NETWORKS: AtomicU8 = AtomicU8::new(1);
        let network = NETWORKS.fetch_add(1, Relaxed);
        let zone = Zone::new();
        let dns = DnsServer::start(zone.clone()).await.expect("a port for DNS");
        let addresses: Vec<_> = (1..=ADDRESSES).map(|number| ip(network, number)).collect();
        let port = free_port(&addresses).expect("a port for the pods");
        let service = Service::new("backend-headless.default.svc.cluster.local").ttl(ttl);
        Self { zone, service, port, network, dns }
    }

    /// The address of the pod with this number, from 1.
    #[must_use]
    pub fn address(&self, number: u8) -> SocketAddr {
        (ip(self.network, number), self.port).into()
    }

    /// Starts `backend-NUMBER`; DNS does not know it yet.
    pub async fn pod(&self, number: u8) -> Backend {
        self.named_pod(&format!("backend-{number}"), number).await
    }

    /// Starts a pod of this name at the address with this number; DNS does not know it yet.
    pub async fn named_pod(&self, name: &str, number: u8) -> Backend {
        Backend::start(name, self.address(number)).await.expect("the pod starts")
    }

    /// Starts pods 1 to `count` and publishes their names.
    pub async fn pods(&self, count: u8) -> Vec<Backend> {
        let mut pods = Vec::new();
        for number in 1..=count {
            pods.push(self.pod(number).await);
        }
        self.publish(&pods);
        pods
    }

    /// DNS knows these pods and no others, by the names that they have themselves.
    pub fn publish<'a>(&self, pods: impl IntoIterator<Item = &'a Backend>) {
        let pods: Vec<_> = pods.into_iter().map(|pod| Pod::named(pod.name(), pod.address())).collect();
        self.service.publish_pods(&self.zone, &pods);
    }

    /// DNS knows the pods at these addresses, without names.
    pub fn publish_addresses(&self, addresses: &[SocketAddr]) {
        let pods: Vec<_> = addresses.iter().copied().map(Pod::unnamed).collect();
        self.service.publish_pods(&self.zone, &pods);
    }

    /// DNS knows the pods at these addresses, by these names.
    pub fn publish_named(&self, pods: &[(&str, SocketAddr)]) {
        let pods: Vec<_> = pods.iter().map(|(name, address)| Pod::named(name, *address)).collect();
        self.service.publish_pods(&self.zone, &pods);
    }

    /// A cluster and a ready sidecar in front of these pods, which DNS names `backend-1` and so on.
    pub async fn in_front_of(pods: &[&ScriptedBackend], settings: Value) -> (Self, Rig) {
        let cluster = Self::new(5).await;
        let names: Vec<_> = (1..=pods.len()).map(|number| format!("backend-{number}")).collect();
        let published: Vec<_> =
            names.iter().map(String::as_str).zip(pods.iter().map(|pod| pod.address())).collect();
        cluster.publish_named(&published);
        let rig = cluster.sidecar(settings).ready().await;
        (cluster, rig)
    }

    /// A sidecar in front of the Service that asks for SRV, so that it learns names; asks again after 100 ms where the
    /// TTL allows. Settings are laid over.
    #[must_use]
    pub fn sidecar(&self, settings: Value) -> Rig {
        self.sidecar_for(&format!("{}:http", self.service.name()), settings)
    }

    /// Like [`sidecar`](Self::sidecar), for another target.
    #[must_use]
    pub fn sidecar_for(&self, target: &str, settings: Value) -> Rig {
        let mut document = json!({"dns": self.dns_settings()});
        crate::rig::lay_over(&mut document, settings);
        Rig::new(target, document)
    }

    /// The configuration's part that lets a sidecar ask here.
    #[must_use]
    pub fn dns_settings(&self) -> Value {
        json!({
            "servers": [self.dns.address().to_string()],
            "allow_loopback": true,
            "refresh_floor": "100ms",
            "hold_empty": "300ms",
        })
    }
}

fn ip(network: u8, number: u8) -> IpAddr {
    Ipv4Addr::new(127, 41, network, number).into()
}
