//! What the operator need not say because it can be found out: whether native sidecars work, the cluster's domain and
//! its DNS.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::ListParams;
use kube::{Api, Client};
use whichpod_injection::Options;
use whichpod_runtime::readiness::Pending;

use super::request::{self, Failed, Reason};

/// Clusters are upgraded while the webhook runs.
const EVERY: Duration = Duration::from_secs(10 * 60);
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Nodes asked for at a time; each is some 20 KB.
const PAGE: u32 = 200;
/// The first minor version whose API server and kubelets know native sidecars without being asked to.
const NATIVE_SINCE: u32 = 29;
/// Kubelets may be three minor versions older than their API server (the version skew policy), so from here on there is
/// no need to look at them.
const NATIVE_EVERYWHERE_SINCE: u32 = NATIVE_SINCE + 3;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What to find out; the rest was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Whether API server and kubelets know native sidecars.
    pub native_sidecars: bool,
    /// The cluster's domain.
    pub domain: bool,
    /// The addresses of the cluster's DNS.
    pub dns: bool,
}

/// Finds out, again every ten minutes, what the options don't say. `pending` is dropped when it is known for the first
/// time.
pub async fn run(client: Client, wanted: Wanted, options: Arc<ArcSwap<Options>>, pending: Pending) {
    let mut pending = Some(pending);
    let resolv_conf = std::fs::read(RESOLV_CONF).unwrap_or_default();
    loop {
        let mut next = Options::clone(&options.load());
        match find_out(&client, wanted, &resolv_conf, &mut next).await {
            Ok(()) => {
                let current = options.load();
                if pending.is_some() || differs(&current, &next) {
                    tracing::info!(
                        native_sidecars = next.native_sidecars,
                        cluster_domain = next.cluster_domain,
                        cluster_dns = ?next.cluster_dns,
                        "the cluster"
                    );
                    options.store(Arc::new(next));
                }
                pending = None;
                tokio::time::sleep(EVERY).await;
            }
            Err(error) => {
                tracing::warn!("{error}");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

fn differs(one: &Options, other: &Options) -> bool {
    let facts = |options: &Options| {
        (options.native_sidecars, options.cluster_domain.clone(), options.cluster_dns.clone())
    };
    facts(one) != facts(other)
}

async fn find_out(
    client: &Client,
    wanted: Wanted,
    resolv_conf: &[u8],
    options: &mut Options,
) -> Result<(), Failed> {
    if wanted.native_sidecars {
        options.native_sidecars = native_sidecars(client).await?;
    }
    let resolver = Resolver::of(resolv_conf);
    if let (true, Some(resolver)) = (wanted.domain, &resolver) {
        options.cluster_domain.clone_from(&resolver.domain);
    }
    if wanted.dns {
        options.cluster_dns = match resolver {
            Some(resolver) => resolver.servers,
            None => kube_dns(client).await?,
        };
    }
    Ok(())
}

async fn native_sidecars(client: &Client) -> Result<bool, Failed> {
    let version = request::get(|| "the API server's version".to_owned(), client.apiserver_version()).await?;
    let Some(minor) = minor(&version.major, &version.minor) else {
        tracing::warn!(major = version.major, minor = version.minor, "an API server of an unknown version");
        return Ok(false);
    };
    if !(NATIVE_SINCE..NATIVE_EVERYWHERE_SINCE).contains(&minor) {
        return Ok(minor >= NATIVE_SINCE);
    }
    match oldest_kubelet(client).await {
        Ok(oldest) => Ok(oldest.is_none_or(|oldest| oldest >= NATIVE_SINCE)),
        // A kubelet that does not know them would never start the pod's other containers.
        Err(Failed { reason: Reason::Forbidden(reason), .. }) => {
            tracing::warn!(
                "{reason}: no native sidecars, because a kubelet may be too old; say --native-sidecar=true if none is"
            );
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn oldest_kubelet(client: &Client) -> Result<Option<u32>, Failed> {
    let nodes = Api::<Node>::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    let mut oldest: Option<u32> = None;
    loop {
        let list = request::get(|| "the nodes' versions".to_owned(), nodes.list(&page)).await?;
        let minors = list.items.iter().map(|node| {
            let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
            info.and_then(|info| minor_of_kubelet(&info.kubelet_version)).unwrap_or(0)
        });
        oldest = oldest.into_iter().chain(minors).min();
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(oldest),
        }
    }
}

/// The minor version of Kubernetes 1; vendors append signs to it (`29+`). Later major versions know everything.
fn minor(major: &str, minor: &str) -> Option<u32> {
    let number = |text: &str| -> Option<u32> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).map_or(text, |end| &text[..end]);
        digits.parse().ok()
    };
    match number(major)? {
        0 => Some(0),
        1 => number(minor),
        _ => Some(u32::MAX),
    }
}

/// `v1.29.4-gke.100`
fn minor_of_kubelet(version: &str) -> Option<u32> {
    let mut parts = version.strip_prefix('v')?.split('.');
    minor(parts.next()?, parts.next()?)
}

/// The Service of the cluster's DNS, which bears this name whatever answers there.
async fn kube_dns(client: &Client) -> Result<Vec<IpAddr>, Failed> {
    let services = Api::<Service>::namespaced(client.clone(), "kube-system");
    let service =
        request::get(|| "Service kube-system/kube-dns".to_owned(), services.get_opt("kube-dns")).await?;
    let spec = service.and_then(|service| service.spec);
    let addresses = spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
    Ok(addresses.iter().filter_map(|address| address.parse().ok()).collect())
}

/// What a resolv.conf that the kubelet wrote for a pod says.
#[derive(Debug, PartialEq, Eq)]
struct Resolver {
    domain: String,
    servers: Vec<IpAddr>,
}

impl Resolver {
    /// `None` for a machine's own, which has no `svc` domain (also that of a pod on its node's network).
    fn of(resolv_conf: &[u8]) -> Option<Self> {
        let (config, _) = resolv_conf::Config::parse_with_errors(resolv_conf);
        let domain = config.get_search()?.iter().find_map(|domain| domain.strip_prefix("svc."))?;
        let servers = config.nameservers.iter().map(IpAddr::from).collect();
        Some(Self { domain: domain.trim_end_matches('.').to_owned(), servers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_of_every_vendor_are_understood() {
        assert_eq!(minor("1", "29"), Some(29));
        assert_eq!(minor("1", "31+"), Some(31));
        assert_eq!(minor("2", "0"), Some(u32::MAX));
        assert_eq!(minor("", "29"), None);
        assert_eq!(minor("1", "x"), None);
        assert_eq!(minor_of_kubelet("v1.28.15-eks-94953ac"), Some(28));
        assert_eq!(minor_of_kubelet("v1.35.4"), Some(35));
        assert_eq!(minor_of_kubelet("v1.30+k3s"), Some(30));
        assert_eq!(minor_of_kubelet("unknown"), None);
    }

    #[test]
    fn a_pods_resolv_conf_tells_domain_and_servers_and_a_machines_nothing() {
        let pod = b"search whichpod-system.svc.example.org svc.example.org example.org lan\nnameserver 10.96.0.10\n\
            nameserver fd00::10\noptions ndots:5\n";
        let servers = vec!["10.96.0.10".parse().unwrap(), "fd00::10".parse().unwrap()];
        assert_eq!(Resolver::of(pod), Some(Resolver { domain: "example.org".to_owned(), servers }));
        assert_eq!(Resolver::of(b"nameserver 192.0.2.53\nsearch example.com\n"), None);
        assert_eq!(Resolver::of(b""), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (minor(&text, &text), minor_of_kubelet(&text), Resolver::of(&bytes));
        }
    }
}
