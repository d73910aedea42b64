//! From the names of a target to the pods: which questions are asked, in which order.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::answer::{self, Absence, Said, Service};
use crate::name::Candidate;
use crate::refresh::{Outcome, Pods};
use crate::resolv_conf::Family;
use crate::resolver::{Kind, Question, Resolver, Response};
use crate::set::{Found, normalise};
use crate::upstream::{DnsStats, TargetPort};

/// Aliases that are followed from response to response.
const MAX_ALIASES: usize = 8;
/// SRV targets without an address in the response: up to so many are asked one by one, more are asked for at once over
/// TCP, where nothing is left out.
const FEW_TARGETS: usize = 4;
/// SRV targets that are asked one by one if TCP did not tell them either.
const MAX_TARGETS: usize = 128;
/// How many of them at the same time.
const TARGETS_AT_ONCE: usize = 8;

/// Asks for one upstream.
pub(crate) struct Asker<'a> {
    pub resolver: &'a dyn Resolver,
    pub stats: &'a DnsStats,
    pub family: Family,
    pub allow_loopback: bool,
}

/// Why a name has no pods to offer.
enum Miss {
    Absent(Absence),
    Failed(String),
}

/// Addresses and for how many seconds they hold.
struct Addresses {
    ips: Vec<IpAddr>,
    ttl: u32,
}

impl Asker<'_> {
    /// The first candidate that has pods. A candidate of the cluster that cannot be asked stops the search: a stranger
    /// of the same name elsewhere is worse than no answer. Others are passed over, as glibc does.
    pub(crate) async fn pods(&self, candidates: &[Candidate], port: &TargetPort) -> Outcome {
        let (mut failed, mut absent) = (None, Vec::new());
        for candidate in candidates {
            let outcome = match port {
                TargetPort::Number(port) => self.by_address(&candidate.name, *port).await,
                TargetPort::Name(port) => self.by_service(&candidate.name, port).await,
            };
            match outcome {
                Ok(pods) => return Outcome::Pods(pods),
                Err(Miss::Absent(Absence::Name)) => absent.push(format!("{} does not exist", candidate.name)),
                Err(Miss::Absent(Absence::Kind)) => absent.push(format!("{} has no address", candidate.name)),
                Err(Miss::Failed(reason)) if candidate.cluster => return Outcome::Failed(reason.into()),
                Err(Miss::Failed(reason)) => failed = failed.or(Some(reason)),
            }
        }
        match failed {
            Some(reason) => Outcome::Failed(reason.into()),
            None => Outcome::Absent(absent.join(", ").into()),
        }
    }

    /// Whether `ip` is the virtual IP of `service`; `None` if it cannot be known now.
    pub(crate) async fn is_virtual_ip(&self, ip: IpAddr, service: &str) -> Option<bool> {
        let name = answer::reverse_name(ip);
        let response = self.ask(&name, Kind::Ptr, false).await.ok()?;
        Some(answer::is_name_of(&response, &name, service))
    }

    async fn by_address(&self, name: &Arc<str>, port: u16) -> Result<Pods, Miss> {
        let Addresses { ips, ttl } = self.addresses(name).await?;
        let found = ips.into_iter().map(|ip| Found { address: SocketAddr::new(ip, port), identity: None });
        self.accept(name, found.collect(), ttl)
    }

    /// The port by its name; where the Service's only port has none, by the Service's own name, which lists all ports.
    async fn by_service(&self, name: &Arc<str>, port: &str) -> Result<Pods, Miss> {
        let named = format!("_{port}._tcp.{name}").into();
        let (services, ttl) = match self.services(&named).await {
            Err(Miss::Absent(_)) => {
                let all = self.services(name).await?;
                match one_port_each(&all.0) {
                    true => all,
                    false => {
                        return Err(Miss::Failed(format!(
                            "{named} does not exist, and SRV {name} has several ports for one pod; ask for one of the Service's port names, or a number"
                        )));
                    }
                }
            }
            named => named?,
        };
        let found = services.into_iter().flat_map(|service| {
            let identity = answer::pod_name(&service.target, name);
            let port = service.port;
            service.addresses.into_iter().map(move |ip| Found {
                address: SocketAddr::new(ip.to_canonical(), port),
                identity: identity.clone(),
            })
        });
        self.accept(name, found.collect(), ttl)
    }

    /// Takes the addresses out that are refused; an answer of nothing else is a failure, so that the last set is kept.
    fn accept(&self, name: &Arc<str>, mut found: Vec<Found>, ttl: u32) -> Result<Pods, Miss> {
        let mut refused = Vec::new();
        found.retain(|found| {
            let refuse = answer::is_refused(found.address.ip(), self.allow_loopback);
            if refuse {
                refused.push(found.address.ip());
            }
            !refuse
        });
        self.stats.refused.fetch_add(refused.len() as u64, Ordering::Relaxed);
        match (found.is_empty(), refused.is_empty()) {
            (true, true) => Err(Miss::Absent(Absence::Kind)),
            (true, false) => Err(Miss::Failed(refusal(name, &refused))),
            (false, _) => Ok(Pods {
                found: normalise(found),
                ttl: Duration::from_secs(ttl.into()),
                asked: Some(Arc::clone(name)),
                refused,
            }),
        }
    }

    /// All services at a name with all addresses of their targets.
    async fn services(&self, name: &Arc<str>) -> Result<(Vec<Service>, u32), Miss> {
        let missing = |services: &[Service]| -> HashSet<Arc<str>> {
            let without = services.iter().filter(|service| service.addresses.is_empty());
            without.map(|service| Arc::clone(&service.target)).collect()
        };
        let (mut services, mut ttl) = self.services_as_told(name, false).await?;
        if missing(&services).len() > FEW_TARGETS {
            // If TCP is closed, the targets can still be asked one by one.
            if let Ok(whole) = self.services_as_told(name, true).await {
                (services, ttl) = whole;
            }
        }
        let targets = missing(&services);
        if targets.len() > MAX_TARGETS {
            return Err(Miss::Failed(format!(
                "SRV {name} has {} targets without address, more than {MAX_TARGETS}; allow TCP to the DNS server, which tells them all",
                targets.len()
            )));
        }
        let asked: Vec<(Arc<str>, Option<Addresses>)> = stream::iter(targets)
            .map(|target| async move {
                match self.addresses(&target).await {
                    Ok(addresses) => Ok((target, Some(addresses))),
                    Err(Miss::Absent(_)) => Ok((target, None)),
                    Err(failed) => Err(failed),
                }
            })
            .buffer_unordered(TARGETS_AT_ONCE)
            .try_collect()
            .await?;
        let asked: HashMap<Arc<str>, Option<Addresses>> = asked.into_iter().collect();
        for service in services.iter_mut().filter(|service| service.addresses.is_empty()) {
            if let Some(Some(addresses)) = asked.get(&service.target) {
                service.addresses.clone_from(&addresses.ips);
                ttl = ttl.min(addresses.ttl);
            }
        }
        Ok((services, ttl))
    }

    async fn services_as_told(&self, name: &Arc<str>, whole: bool) -> Result<(Vec<Service>, u32), Miss> {
        self.follow(name, Kind::Srv, whole, |response, name| answer::services(response, name, self.family))
            .await
    }

    /// Of the family that is asked first, else of the other.
    async fn addresses(&self, name: &Arc<str>) -> Result<Addresses, Miss> {
        let (first, second) = match self.family {
            Family::V4 => (Kind::A, Kind::Aaaa),
            Family::V6 => (Kind::Aaaa, Kind::A),
        };
        let addresses = match self.follow(name, first, false, answer::addresses).await {
            Err(Miss::Absent(Absence::Kind)) => self.follow(name, second, false, answer::addresses).await,
            said => said,
        };
        addresses.map(|(ips, ttl)| Addresses { ips, ttl })
    }

    /// Asks, and asks on where an alias leads.
    async fn follow<T>(
        &self,
        name: &Arc<str>,
        kind: Kind,
        whole: bool,
        said: impl Fn(&Response, &Arc<str>) -> Said<T>,
    ) -> Result<(T, u32), Miss> {
        let (mut asked, mut alias_ttl) = (Arc::clone(name), u32::MAX);
        for _ in 0..MAX_ALIASES {
            let response = self.ask(&asked, kind, whole).await.map_err(Miss::Failed)?;
            match said(&response, &asked) {
                Said::This(value, ttl) => return Ok((value, ttl.min(alias_ttl))),
                Said::Absent(absence) => return Err(Miss::Absent(absence)),
                Said::Alias(next, ttl) => (asked, alias_ttl) = (next, alias_ttl.min(ttl)),
                Said::Loop => break,
            }
        }
        Err(Miss::Failed(format!("{kind} {name} is a chain of aliases that does not end")))
    }

    async fn ask(&self, name: &Arc<str>, kind: Kind, whole: bool) -> Result<Response, String> {
        self.stats.queries.fetch_add(1, Ordering::Relaxed);
        let question = Question { name: Arc::clone(name), kind, whole };
        self.resolver.lookup(question).await.map_err(|error| error.to_string())
    }
}

/// True if no target has two ports.
fn one_port_each(services: &[Service]) -> bool {
    let mut ports = HashMap::new();
    services.iter().all(|service| *ports.entry(&service.target).or_insert(service.port) == service.port)
}

/// What is said about addresses that no pod has.
pub(crate) fn refusal(name: &str, refused: &[IpAddr]) -> String {
    let list: Vec<String> = refused.iter().take(5).map(ToString::to_string).collect();
    let remedy = match refused.iter().any(|ip| ip.to_canonical().is_loopback()) {
        true => "correct the DNS record, or set dns.allow_loopback for a test",
        false => "correct the DNS record",
    };
    format!("{name} has addresses that no pod can have: {}; {remedy}", list.join(", "))
}
