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
use whichpod_injection::native::{self, Native};
use whichpod_runtime::readiness::Pending;

use super::request::{self, Failed, Reason};

/// Clusters are upgraded while the webhook runs.
const EVERY: Duration = Duration::from_secs(10 * 60);
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Nodes asked for at a time; each is some 20 KB.
const PAGE: u32 = 200;
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
    match native::of_api_server(&version.major, &version.minor) {
        Native::Yes => Ok(true),
        Native::No => Ok(false),
        Native::AskKubelets => match every_kubelet_knows_them(client).await {
            Err(Failed { reason: Reason::Forbidden(reason), .. }) => {
                tracing::warn!(
                    "{reason}: no native sidecars, because a kubelet may be too old; say --native-sidecar=true if none is"
                );
                Ok(false)
            }
            known => known,
        },
    }
}

async fn every_kubelet_knows_them(client: &Client) -> Result<bool, Failed> {
    let nodes = Api::<Node>::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    let knows = |node: &Node| {
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        info.is_some_and(|info| native::of_kubelet(&info.kubelet_version))
    };
    loop {
        let list = request::get(|| "the nodes' versions".to_owned(), nodes.list(&page)).await?;
        if !list.items.iter().all(knows) {
            return Ok(false);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(true),
        }
    }
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
        fn no_text_makes_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Resolver::of(&bytes);
        }
    }
}
