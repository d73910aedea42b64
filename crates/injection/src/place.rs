//! What a host name means to a pod: a Service, a single pod, or a host elsewhere.

use crate::facts::Facts;
use crate::service::{Service, ServiceKind};

/// What a host name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// A Service, which may not be known (yet).
    Service(Named<'a>),
    /// A single pod: nothing to choose from.
    Pod,
    /// A host that is no Service.
    Host,
}

/// A Service by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) known: Option<&'a Service>,
}

/// From where names are looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Viewpoint<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) cluster_domain: &'a str,
    pub(crate) facts: &'a Facts,
}

impl<'a> Viewpoint<'a> {
    /// What a name (lower case, no trailing dot) stands for in a pod of this namespace, by the rules of its search list.
    pub(crate) fn place(self, host: &str) -> Place<'a> {
        let inside = host.strip_suffix(self.cluster_domain).and_then(|rest| rest.strip_suffix('.'));
        let labels: Vec<&str> = inside.unwrap_or(host).split('.').collect();
        match (labels.as_slice(), inside.is_some()) {
            ([name, namespace, "svc"], _) => self.service(namespace, name),
            ([.., "svc"], true) | ([_, _, _, "svc"], false) | ([.., "pod"], true) => Place::Pod,
            (_, true) => Place::Host,
            ([name], false) => self.service(self.namespace, name),
            ([first, second], false) => self.two_labels(first, second),
            ([_, name, namespace], false) if self.facts.service(namespace, name).is_some() => Place::Pod,
            _ => Place::Host,
        }
    }

    /// `service.namespace`, `pod.service` or `example.com`.
    fn two_labels(self, first: &str, second: &str) -> Place<'a> {
        if self.facts.service(second, first).is_some() {
            return self.service(second, first);
        }
        let own = self.facts.service(self.namespace, second);
        if own.is_some_and(|service| service.kind == ServiceKind::Headless) {
            return Place::Pod;
        }
        if self.facts.is_complete() && self.facts.namespace(second).is_none() {
            return Place::Host;
        }
        self.service(second, first)
    }

    fn service(self, namespace: &str, name: &str) -> Place<'a> {
        let known = self.facts.service(namespace, name);
        Place::Service(Named { namespace: namespace.to_owned(), name: name.to_owned(), known })
    }
}

impl Named<'_> {
    /// The absolute name, with a trailing dot: one question, whatever the search list says.
    pub(crate) fn absolute(&self, cluster_domain: &str) -> String {
        format!("{}.{}.svc.{cluster_domain}.", self.name, self.namespace)
    }

    /// As people of this namespace call it.
    pub(crate) fn title(&self, namespace: &str) -> String {
        if self.namespace == namespace {
            self.name.clone()
        } else {
            format!("{}.{}", self.name, self.namespace)
        }
    }

    /// Every form of its name; the bare one only in its own namespace, elsewhere it means another Service.
    pub(crate) fn forms(&self, namespace: &str, cluster_domain: &str) -> Vec<String> {
        let Named { namespace: own, name, .. } = self;
        let bare = (own == namespace).then(|| name.clone());
        let qualified = [
            format!("{name}.{own}"),
            format!("{name}.{own}.svc"),
            format!("{name}.{own}.svc.{cluster_domain}"),
        ];
        bare.into_iter().chain(qualified).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts() -> Facts {
        let mut facts = Facts::complete();
        for (namespace, name, ip) in
            [("shop", "backend", "10.0.0.1"), ("shop", "web", "None"), ("db", "main", "None")]
        {
            facts.put_namespace(&json!({"metadata": {"name": namespace}}));
            facts.put_service(
                &json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": ip}}),
            );
        }
        facts
    }

    fn place(facts: &Facts, host: &str) -> String {
        let viewpoint = Viewpoint { namespace: "shop", cluster_domain: "cluster.local", facts };
        match viewpoint.place(host) {
            Place::Service(named) => format!("{}/{} {}", named.namespace, named.name, named.known.is_some()),
            Place::Pod => "pod".to_owned(),
            Place::Host => "host".to_owned(),
        }
    }

    #[test]
    fn every_form_of_a_name_finds_the_same_service() {
        let facts = facts();
        for host in ["backend", "backend.shop", "backend.shop.svc", "backend.shop.svc.cluster.local"] {
            assert_eq!(place(&facts, host), "shop/backend true");
        }
        assert_eq!(place(&facts, "main.db"), "db/main true");
        assert_eq!(place(&facts, "late.db"), "db/late false", "it may come later");
        assert_eq!(place(&facts, "late"), "shop/late false");
    }

    #[test]
    fn names_of_single_pods_are_recognised() {
        let facts = facts();
        for host in [
            "web-0.web",
            "web-0.web.shop",
            "web-0.web.shop.svc",
            "web-0.web.shop.svc.cluster.local",
            "10-0-0-1.shop.pod.cluster.local",
        ] {
            assert_eq!(place(&facts, host), "pod", "{host}");
        }
    }

    #[test]
    fn hosts_elsewhere_stay_what_they_are() {
        let facts = facts();
        for host in ["example.com", "api.example.com", "a.b.c.d.e", "x.cluster.local"] {
            assert_eq!(place(&facts, host), "host", "{host}");
        }
        assert_eq!(place(&Facts::unknown(), "db.shared"), "shared/db false", "nothing says that it is none");
    }
}
