//! From the name a user wrote to the absolute names that are asked.

use std::sync::Arc;

use crate::resolv_conf::{ResolvConf, absolute};

/// What clusters set, for a search list that was put together here.
const CLUSTER_NDOTS: usize = 5;

/// An absolute name that may be what the user meant; lower case, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub name: Arc<str>,
    /// Answered by the cluster's own DNS: if that fails, asking further could find a stranger of the same name.
    pub cluster: bool,
}

/// What the user said about the cluster, instead of what the search list tells.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Overrides<'a> {
    pub namespace: Option<&'a str>,
    pub cluster_domain: Option<&'a str>,
}

/// The absolute names to ask, in their order; empty if `host` is no DNS name (RFC 1035 §2.3.4).
///
/// In a cluster one label is a Service of the own namespace, and a name below `svc.<domain>` is absolute already.
/// Everything else follows the search list and ndots (resolv.conf(5)). A trailing dot makes any name absolute.
pub(crate) fn candidates(host: &str, system: &ResolvConf, overrides: Overrides<'_>) -> Vec<Candidate> {
    let zone = Zone::new(system, overrides);
    let name = absolute(host);
    let mut names = Vec::new();
    if host.ends_with('.') || zone.owns(&name) {
        names.push(name);
    } else if let (false, Some(own)) = (name.contains('.'), zone.own()) {
        names.push(format!("{name}.{own}"));
    } else {
        let searched = zone.search.iter().map(|domain| format!("{name}.{domain}"));
        if name.matches('.').count() >= zone.ndots {
            names.push(name.clone());
            names.extend(searched);
        } else {
            names.extend(searched);
            names.push(name.clone());
        }
    }
    names.retain(|name| is_dns_name(name));
    names.into_iter().map(|name| Candidate { cluster: zone.contains(&name), name: name.into() }).collect()
}

/// The search list as it applies, and what it tells about the cluster.
struct Zone {
    namespace: Option<String>,
    domain: Option<String>,
    search: Vec<String>,
    ndots: usize,
}

impl Zone {
    fn new(system: &ResolvConf, overrides: Overrides<'_>) -> Self {
        let told = system.search.iter().find_map(|entry| {
            let (namespace, rest) = entry.split_once('.')?;
            let domain = rest.strip_prefix("svc.")?;
            (!namespace.is_empty() && !domain.is_empty()).then_some((namespace, domain))
        });
        let domain = overrides.cluster_domain.map(absolute).or_else(|| told.map(|(_, domain)| domain.into()));
        let namespace =
            overrides.namespace.map(absolute).or_else(|| told.map(|(namespace, _)| namespace.into()));
        let Some(domain) = domain else {
            return Self { namespace, domain, search: system.search.clone(), ndots: system.ndots };
        };
        // The cluster's three entries, then the node's own.
        let mut search = Vec::new();
        search.extend(namespace.as_ref().map(|namespace| format!("{namespace}.svc.{domain}")));
        search.push(format!("svc.{domain}"));
        search.push(domain.clone());
        let replaced: Vec<String> = told.map_or_else(Vec::new, |(namespace, domain)| {
            vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()]
        });
        let rest = system.search.iter().filter(|entry| !replaced.contains(entry));
        for entry in rest {
            if !search.contains(entry) {
                search.push(entry.clone());
            }
        }
        let ndots = if told.is_some() { system.ndots } else { system.ndots.max(CLUSTER_NDOTS) };
        Self { namespace, domain: Some(domain), search, ndots }
    }

    /// `<namespace>.svc.<domain>`.
    fn own(&self) -> Option<String> {
        Some(format!("{}.svc.{}", self.namespace.as_ref()?, self.domain.as_ref()?))
    }

    /// True for names of Services and pods: below `svc.<domain>`.
    fn owns(&self, name: &str) -> bool {
        let below =
            |name: &str, domain: &str| name.strip_suffix(domain).is_some_and(|rest| rest.ends_with(".svc."));
        self.domain.as_deref().is_some_and(|domain| below(name, domain))
    }

    fn contains(&self, name: &str) -> bool {
        let below =
            |name: &str, domain: &str| name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        self.domain.as_deref().is_some_and(|domain| below(name, domain))
    }
}

/// RFC 1035 §2.3.4: labels of 1 to 63 bytes, 253 bytes in all (without the root's). Any printable byte may be in a
/// label, because DNS allows it; `_` is common.
fn is_dns_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| (1..=63).contains(&label.len()))
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pod() -> ResolvConf {
        ResolvConf::parse(
            b"search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
              nameserver 10.96.0.10\noptions ndots:5\n",
        )
    }

    fn names(host: &str, system: &ResolvConf, overrides: Overrides<'_>) -> Vec<String> {
        candidates(host, system, overrides).into_iter().map(|candidate| candidate.name.to_string()).collect()
    }

    fn in_pod(host: &str) -> Vec<String> {
        names(host, &pod(), Overrides::default())
    }

    #[test]
    fn one_label_is_a_service_of_the_own_namespace_and_costs_one_question() {
        assert_eq!(in_pod("backend"), ["backend.shop.svc.cluster.local"]);
        assert_eq!(in_pod("BackEnd"), ["backend.shop.svc.cluster.local"]);
    }

    #[test]
    fn two_labels_follow_the_search_list() {
        assert_eq!(
            in_pod("backend.prod"),
            [
                "backend.prod.shop.svc.cluster.local",
                "backend.prod.svc.cluster.local",
                "backend.prod.cluster.local",
                "backend.prod.corp.example",
                "backend.prod"
            ]
        );
    }

    #[test]
    fn a_full_service_name_is_not_searched() {
        assert_eq!(in_pod("backend.prod.svc.cluster.local"), ["backend.prod.svc.cluster.local"]);
    }

    #[test]
    fn a_trailing_dot_is_absolute() {
        assert_eq!(in_pod("api.example.com."), ["api.example.com"]);
        assert_eq!(in_pod("backend."), ["backend"]);
    }

    #[test]
    fn enough_dots_are_asked_as_they_stand_first() {
        let list = in_pod("a.b.c.d.e.com");
        assert_eq!(list[0], "a.b.c.d.e.com");
        assert_eq!(list.len(), 5);
    }

    #[test]
    fn by_hand_resolv_conf_decides_even_for_one_label() {
        let system = ResolvConf::parse(b"search corp.example\n");
        assert_eq!(names("backend", &system, Overrides::default()), ["backend.corp.example", "backend"]);
        assert_eq!(names("a.b", &system, Overrides::default()), ["a.b", "a.b.corp.example"]);
        assert_eq!(names("backend", &ResolvConf::default(), Overrides::default()), ["backend"]);
    }

    #[test]
    fn what_the_user_says_beats_the_search_list() {
        let told = Overrides { namespace: Some("prod"), cluster_domain: Some("k8s.example.") };
        assert_eq!(names("backend", &pod(), told), ["backend.prod.svc.k8s.example"]);
        assert_eq!(
            names("backend.x", &pod(), told),
            [
                "backend.x.prod.svc.k8s.example",
                "backend.x.svc.k8s.example",
                "backend.x.k8s.example",
                "backend.x.corp.example",
                "backend.x"
            ]
        );
        let namespace_only = Overrides { namespace: Some("prod"), ..Overrides::default() };
        assert_eq!(names("backend", &pod(), namespace_only), ["backend.prod.svc.cluster.local"]);
    }

    #[test]
    fn outside_a_cluster_a_told_cluster_is_searched_first() {
        let told = Overrides { namespace: Some("prod"), cluster_domain: Some("cluster.local") };
        assert_eq!(names("backend", &ResolvConf::default(), told), ["backend.prod.svc.cluster.local"]);
        assert_eq!(
            names("backend.dev", &ResolvConf::default(), told)[0],
            "backend.dev.prod.svc.cluster.local"
        );
        let no_namespace = Overrides { namespace: None, cluster_domain: Some("cluster.local") };
        assert_eq!(names("backend", &ResolvConf::default(), no_namespace)[0], "backend.svc.cluster.local");
    }

    #[test]
    fn only_the_cluster_s_own_names_stop_the_search_when_they_fail() {
        let list = candidates("backend.prod", &pod(), Overrides::default());
        assert_eq!(list.iter().map(|c| c.cluster).collect::<Vec<_>>(), [true, true, true, false, false]);
    }

    #[test]
    fn what_is_no_dns_name_is_not_asked() {
        for host in
            ["", ".", "..", "a..b", "a b", "a\\b", "ä", &"a".repeat(64), &format!("{}.", "a.".repeat(127))]
        {
            assert_eq!(in_pod(host), Vec::<String>::new(), "{host:?}");
        }
    }

    #[test]
    fn a_name_too_long_for_the_search_list_is_still_asked_as_it_stands() {
        let host = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(50));
        assert_eq!(in_pod(&host), [host]);
    }

    proptest! {
        #[test]
        fn every_candidate_is_a_dns_name(host in ".{0,80}", search in prop::collection::vec("[a-zA-Z0-9.]{0,40}", 0..6), ndots in 0..16usize) {
            let system = ResolvConf { servers: Vec::new(), search: search.iter().map(|s| absolute(s)).collect(), ndots };
            for candidate in candidates(&host, &system, Overrides::default()) {
                prop_assert!(is_dns_name(&candidate.name));
            }
        }
    }
}
