//! What the demo runs on: a DNS server, pods, a virtual IP and the real sidecar, all on loopback addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context;
use serde_json::json;
use whichpod_testkit::backend::{Backend, free_port};
use whichpod_testkit::dns::{DnsServer, Pod, Service, Zone};
use whichpod_testkit::sidecar::Sidecar;
use whichpod_testkit::virtual_ip::VirtualIp;

/// The Service's names, as CoreDNS would have them.
pub const HEADLESS: &str = "backend-headless.default.svc.cluster.local";
/// The name that hides the pods behind a virtual IP.
pub const VIRTUAL: &str = "backend-service.default.svc.cluster.local";
/// The upstream that points at [`HEADLESS`].
pub const GOOD: &str = "backend-service";
/// The upstream that points at [`VIRTUAL`]: the mistake that everybody makes first.
pub const TRAP: &str = "the-trap";
/// Cluster DNS answers with 5 s; a second makes the demo shorter.
const TTL: u32 = 1;

/// Everything that runs.
pub struct World {
    /// The pods that are in DNS, by name.
    pub pods: BTreeMap<String, Backend>,
    /// Pods that were taken away; what they counted still counts.
    pub gone: Vec<Backend>,
    /// The real sidecar.
    pub sidecar: Sidecar,
    /// The Service's virtual IP.
    pub virtual_ip: SocketAddr,
    /// The DNS server's address.
    pub dns: SocketAddr,
    zone: Zone,
    service: Service,
    port: u16,
    _dns: DnsServer,
    _virtual_ip: VirtualIp,
}

impl World {
    /// Three pods, both names, and a sidecar that is ready.
    ///
    /// # Errors
    /// When an address of 127.0.0.0/8 cannot be used, or the sidecar does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let addresses: Vec<_> = (1..=4).map(pod_ip).chain([virtual_ip()]).collect();
        let port = free_port(&addresses)?;
        let mut pods = BTreeMap::new();
        for number in 1..=3 {
            let pod = start_pod(number, port).await?;
            pods.insert(pod.name().to_owned(), pod);
        }
        let zone = Zone::new();
        let dns = DnsServer::start(zone.clone()).await?;
        let virtual_ip =
            VirtualIp::start((virtual_ip(), port).into(), pods.values().map(Backend::address).collect())
                .await?;
        let service = Service::new(HEADLESS).ttl(TTL);
        Service::new(VIRTUAL).ttl(TTL).publish_virtual_ip(&zone, virtual_ip.address());
        let sidecar = Sidecar::start(document(dns.address(), port))?;
        let world = Self {
            pods,
            gone: Vec::new(),
            sidecar,
            virtual_ip: virtual_ip.address(),
            dns: dns.address(),
            zone,
            service,
            port,
            _dns: dns,
            _virtual_ip: virtual_ip,
        };
        world.publish();
        anyhow::ensure!(world.sidecar.ready().await, "the sidecar did not become ready");
        Ok(world)
    }

    /// Where the app would connect to.
    ///
    /// # Errors
    /// Never while the sidecar runs.
    pub fn address(&self, upstream: &str) -> anyhow::Result<SocketAddr> {
        self.sidecar.address(upstream).with_context(|| format!("upstream {upstream} has no listener"))
    }

    /// One more pod, as `kubectl scale` makes it: it listens, then DNS knows it.
    ///
    /// # Errors
    /// When its address cannot be bound.
    pub async fn add_pod(&mut self) -> anyhow::Result<String> {
        let pod = start_pod(4, self.port).await?;
        let name = pod.name().to_owned();
        self.pods.insert(name.clone(), pod);
        self.publish();
        Ok(name)
    }

    /// One pod less, as Kubernetes does it: it leaves DNS, and stops gracefully while it may still be asked.
    pub async fn remove_pod(&mut self, name: &str) {
        if let Some(pod) = self.pods.remove(name) {
            self.publish();
            pod.stop().await;
            self.gone.push(pod);
        }
    }

    /// All pods that ever ran.
    pub fn all_pods(&self) -> impl Iterator<Item = &Backend> {
        self.pods.values().chain(&self.gone)
    }

    fn publish(&self) {
        let pods: Vec<_> = self.pods.values().map(|pod| Pod::named(pod.name(), pod.address())).collect();
        self.service.publish_pods(&self.zone, &pods);
    }
}

async fn start_pod(number: u8, port: u16) -> anyhow::Result<Backend> {
    Ok(Backend::start(&format!("backend-{number}"), (pod_ip(number), port).into()).await?)
}

fn pod_ip(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 77, number).into()
}

fn virtual_ip() -> IpAddr {
    Ipv4Addr::new(127, 0, 77, 200).into()
}

fn document(dns: SocketAddr, port: u16) -> serde_json::Value {
    json!({
        "upstreams": [
            {"name": GOOD, "listen": "127.0.0.1:0", "target": format!("{HEADLESS}:http")},
            {"name": TRAP, "listen": "127.0.0.1:0", "target": format!("{VIRTUAL}:{port}")},
        ],
        // Only a demo's pods have loopback addresses.
        "dns": {"servers": [dns.to_string()], "allow_loopback": true},
        "access_log": {"format": "text"},
        "workers": 1,
        "shutdown": {"native_sidecar": true},
    })
}
