//! What the webhook has in its caches, looked up once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;
use whichpod_injection::native::{self, Native};
use whichpod_injection::{Facts, Options};

use super::installed::{Installed, installed};
use super::request::Cluster;
use crate::ask::{OptionFlags, base_options};
use crate::exit::{Exit, Failure};

/// What is known of a cluster.
pub struct Known {
    /// Services and namespaces.
    pub facts: Facts,
    /// Every Service as it is.
    pub services: Vec<Value>,
    /// What the operator decided.
    pub options: Options,
    /// Whether a webhook (and with it the controller that makes headless twins) is installed, where that is known.
    pub installed: Option<bool>,
    /// What could not be found out, to be told.
    pub notes: Vec<String>,
}

/// Looks up what decides about workloads in these namespaces; `text` is everything that they say.
///
/// # Errors
/// If the cluster cannot be reached, or the options are wrong. What is refused becomes a note.
pub async fn known(
    cluster: &Cluster,
    namespaces: &BTreeSet<String>,
    text: &str,
    flags: &OptionFlags,
) -> Result<Known, Failure> {
    let mut notes = Vec::new();
    let (options, installed) = options(cluster, flags, &mut notes).await?;
    let (mut facts, services) = services(cluster, namespaces, &mut notes).await?;
    for name in namespaces {
        // One that does not exist may come with the same manifests.
        let namespace = allowed(cluster.get("/api/v1/namespaces", name).await, &mut notes)?;
        if let Some(namespace) = namespace.flatten() {
            facts.put_namespace(&namespace);
        }
    }
    count_endpoints(cluster, &services, namespaces, text, &mut facts).await?;
    Ok(Known { facts, services, options, installed, notes })
}

async fn options(
    cluster: &Cluster,
    flags: &OptionFlags,
    notes: &mut Vec<String>,
) -> Result<(Options, Option<bool>), Failure> {
    let installed = installed(cluster).await?;
    let is_installed = match &installed {
        Installed::Yes(_) => Some(true),
        Installed::No => Some(false),
        Installed::Unknown(_) => None,
    };
    let (mut options, native_is_said, domain_is_said) = match (flags.of_file()?, installed) {
        (Some(options), _) => {
            let domain_is_said = options.cluster_domain != base_options().cluster_domain;
            (options, false, domain_is_said)
        }
        (None, Installed::Yes(said)) => (said.options, said.native_sidecars, said.cluster_domain),
        (None, Installed::No) => (base_options(), false, false),
        (None, Installed::Unknown(why)) => {
            notes.push(format!(
                "the options of an installed webhook are not known ({why}); the defaults are taken, or give --options FILE"
            ));
            (base_options(), false, false)
        }
    };
    if !domain_is_said && flags.cluster_domain.is_none() {
        let config = cluster.get("/api/v1/namespaces/kube-system/configmaps", "coredns").await;
        let config = allowed(config, &mut Vec::new())?.flatten();
        options.cluster_domain = config.as_ref().and_then(domain).unwrap_or(options.cluster_domain);
    }
    let mut options = flags.lay_over(options)?;
    if !native_is_said {
        options.native_sidecars &= native_sidecars(cluster, notes).await?;
    }
    if options.cluster_dns.is_empty() {
        let dns = cluster.get("/api/v1/namespaces/kube-system/services", "kube-dns").await;
        let dns = allowed(dns, &mut Vec::new())?.flatten();
        options.cluster_dns = dns.map(|service| addresses(&service)).unwrap_or_default();
    }
    Ok((options, is_installed))
}

/// Whether API server and kubelets know native sidecars, by the webhook's rule.
async fn native_sidecars(cluster: &Cluster, notes: &mut Vec<String>) -> Result<bool, Failure> {
    let version = allowed(cluster.get("", "version").await, notes)?.flatten().unwrap_or_default();
    let text = |key: &str| version[key].as_str().unwrap_or_default();
    match native::of_api_server(text("major"), text("minor")) {
        Native::Yes => Ok(true),
        Native::No => Ok(false),
        Native::AskKubelets => {
            let mut all = true;
            let mut look = |node: Value| {
                let version = node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or_default();
                all &= native::of_kubelet(version);
            };
            let listed = allowed(cluster.list("/api/v1/nodes", None, &mut look).await, notes)?;
            Ok(listed.is_some() && all)
        }
    }
}

/// All Services, or those of the namespaces where nobody may see all.
async fn services(
    cluster: &Cluster,
    namespaces: &BTreeSet<String>,
    notes: &mut Vec<String>,
) -> Result<(Facts, Vec<Value>), Failure> {
    let mut services = Vec::new();
    let mut facts = Facts::complete();
    match cluster.list("/api/v1/services", None, &mut |service| services.push(service)).await {
        Err(failure) if failure.exit == Exit::NoPermission => {
            services.clear();
            facts = Facts::unknown();
            for namespace in namespaces {
                let collection = format!("/api/v1/namespaces/{namespace}/services");
                let listed = cluster.list(&collection, None, &mut |service| services.push(service)).await;
                allowed(listed, notes)?;
            }
        }
        listed => listed?,
    }
    for service in &services {
        facts.put_service(service);
    }
    Ok((facts, services))
}

/// Counts endpoints where it can matter: in the workloads' namespaces, and in those that they name (`db.shared`).
async fn count_endpoints(
    cluster: &Cluster,
    services: &[Value],
    namespaces: &BTreeSet<String>,
    text: &str,
    facts: &mut Facts,
) -> Result<(), Failure> {
    let of_services = services.iter().filter_map(|service| service["metadata"]["namespace"].as_str());
    let named: BTreeSet<&str> =
        of_services.filter(|name| namespaces.contains(*name) || text.contains(&format!(".{name}"))).collect();
    for namespace in named {
        let mut counts: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        let mut count = |slice: Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let service = text(&slice["metadata"]["labels"]["kubernetes.io/service-name"]);
            let family = counts.entry(service).or_default().entry(text(&slice["addressType"])).or_default();
            *family += slice["endpoints"].as_array().map_or(0, Vec::len);
        };
        let collection = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        // Without the numbers every Service is taken for a small one.
        if allowed(cluster.list(&collection, None, &mut count).await, &mut Vec::new())?.is_none() {
            continue;
        }
        let own: Vec<String> = facts.services(namespace).map(|service| service.name.clone()).collect();
        for name in own {
            // A pod with two addresses is in a slice of each family.
            let endpoints = counts.get(&name).and_then(|families| families.values().max()).copied();
            facts.count_endpoints(namespace, &name, endpoints.unwrap_or(0));
        }
    }
    Ok(())
}

/// Turns a refusal into a note.
fn allowed<T>(result: Result<T, Failure>, notes: &mut Vec<String>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(failure) if failure.exit == Exit::NoPermission => {
            notes.push(failure.message);
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// The domain that CoreDNS serves, by its configuration: `kubernetes cluster.local in-addr.arpa {`. A webhook finds the same
/// in its own resolv.conf, which is not to be had here.
fn domain(config: &Value) -> Option<String> {
    let corefile = config["data"]["Corefile"].as_str()?;
    let mut words = corefile.lines().map(str::split_whitespace);
    let domain =
        words.find_map(|mut words| (words.next() == Some("kubernetes")).then(|| words.next()).flatten())?;
    let domain = domain.trim_end_matches('.');
    let is_name =
        !domain.is_empty() && domain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    (is_name && !domain.ends_with(".arpa")).then(|| domain.to_owned())
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let all = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    all.filter_map(|address| address.as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_domain_is_what_coredns_serves() {
        let of = |corefile: &str| domain(&json!({"data": {"Corefile": corefile}}));
        let usual = ".:53 {\n    errors\n    kubernetes example.org in-addr.arpa ip6.arpa {\n       pods insecure\n    }\n}\n";
        assert_eq!(of(usual).as_deref(), Some("example.org"));
        assert_eq!(of("kubernetes cluster.local. {").as_deref(), Some("cluster.local"));
        for other in ["", "kubernetes", "kubernetes {", "kubernetes in-addr.arpa {", "# kubernetes x"] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(domain(&json!({})), None);
    }

    #[test]
    fn the_dns_servers_are_the_addresses_of_kube_dns() {
        let addresses = |spec: Value| addresses(&json!({"spec": spec}));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            addresses(json!({"clusterIP": "10.0.0.10", "clusterIPs": ["10.0.0.10", "fd00::a"]})),
            [address("10.0.0.10"), address("fd00::a")]
        );
        assert_eq!(addresses(json!({"clusterIP": "None", "clusterIPs": ["None"]})), Vec::<IpAddr>::new());
    }
}
