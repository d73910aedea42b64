//! What the caller looked up beforehand: plain data that the webhook's watch caches and the command line both fill.
//! Every lookup is by index; nothing is copied.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::json;
use crate::names;
use crate::service::{Service, ServiceKind};

/// Namespaces and Services as last seen.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    complete: bool,
    namespaces: HashMap<String, Namespace>,
    services: HashMap<String, Services>,
}

/// The labels and annotations of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// All annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The Services of one namespace. Those with a selector are found by its first pair.
#[derive(Debug, Clone, Default)]
struct Services {
    by_name: BTreeMap<String, Service>,
    by_selector: HashMap<String, HashMap<String, BTreeSet<String>>>,
}

impl Facts {
    /// Nothing is known, and a Service that is not here may exist all the same (`--offline`).
    pub fn unknown() -> Facts {
        Facts::default()
    }

    /// Everything there is will be put in; what is not here does not exist (yet).
    pub fn complete() -> Facts {
        Facts { complete: true, ..Facts::default() }
    }

    /// Whether what is not here is missing in the cluster.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Puts in a namespace, or what became of it.
    pub fn put_namespace(&mut self, namespace: &Value) {
        let Some(name) = json::text(namespace, "/metadata/name") else { return };
        let pairs = |pointer: &str| {
            let members = json::members(namespace, pointer).into_iter().flatten();
            members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
        };
        let value =
            Namespace { labels: pairs("/metadata/labels"), annotations: pairs("/metadata/annotations") };
        self.namespaces.insert(name.to_owned(), value);
    }

    /// Takes out a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Puts in a Service from its JSON, or what became of it.
    pub fn put_service(&mut self, service: &Value) {
        if let Some(service) = Service::parse(service) {
            let old = self.service(&service.namespace, &service.name);
            let (endpoints, twin_refused) =
                old.map_or((None, false), |old| (old.endpoints, old.twin_refused));
            let services = self.services.entry(service.namespace.clone()).or_default();
            services.put(Service { endpoints, twin_refused, ..service });
        }
    }

    /// Takes out a Service.
    pub fn remove_service(&mut self, namespace: &str, name: &str) {
        if let Some(services) = self.services.get_mut(namespace) {
            services.remove(name);
        }
    }

    /// Says how many endpoints a Service has.
    pub fn count_endpoints(&mut self, namespace: &str, name: &str, endpoints: usize) {
        let services = self.services.get_mut(namespace);
        if let Some(service) = services.and_then(|services| services.by_name.get_mut(name)) {
            service.endpoints = Some(endpoints);
        }
    }

    /// Says whether a quota or policy forbids the headless twin of a Service.
    pub fn refuse_twin(&mut self, namespace: &str, name: &str, refused: bool) {
        let services = self.services.get_mut(namespace);
        if let Some(service) = services.and_then(|services| services.by_name.get_mut(name)) {
            service.twin_refused = refused;
        }
    }

    /// A namespace, if it is known.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    /// A Service, if it is known.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(namespace)?.by_name.get(name)
    }

    /// The Services of a namespace, by name.
    pub fn services(&self, namespace: &str) -> impl Iterator<Item = &Service> {
        self.services.get(namespace).into_iter().flat_map(|services| services.by_name.values())
    }

    /// The Services that pods with these labels are behind, by name.
    pub(crate) fn selecting(&self, namespace: &str, labels: &BTreeMap<&str, &str>) -> Vec<&Service> {
        let Some(services) = self.services.get(namespace) else { return Vec::new() };
        let candidates = labels.iter().flat_map(|(key, value)| services.with_first_pair(key, value));
        let mut selecting: Vec<&Service> = candidates.filter(|service| service.selects(labels)).collect();
        selecting.sort_unstable_by_key(|service| &service.name);
        selecting
    }

    /// The headless Services with the same selector, by name.
    pub(crate) fn headless_twins(&self, service: &Service) -> impl Iterator<Item = &Service> {
        let services = self.services.get(&service.namespace);
        let first = service.selector.first_key_value();
        let candidates = services
            .zip(first)
            .into_iter()
            .flat_map(|(services, (key, value))| services.with_first_pair(key, value));
        candidates.filter(|twin| twin.kind == ServiceKind::Headless && twin.selector == service.selector)
    }
}

impl Namespace {
    /// The value of the label that decides about injection.
    pub(crate) fn injection(&self) -> Option<&str> {
        self.labels.get(names::NAMESPACE_LABEL).map(String::as_str)
    }
}

impl Services {
    fn put(&mut self, service: Service) {
        self.remove(&service.name);
        if let Some((key, value)) = service.selector.first_key_value() {
            let values = self.by_selector.entry(key.clone()).or_default();
            values.entry(value.clone()).or_default().insert(service.name.clone());
        }
        self.by_name.insert(service.name.clone(), service);
    }

    fn remove(&mut self, name: &str) {
        let Some(service) = self.by_name.remove(name) else { return };
        let Some((key, value)) = service.selector.first_key_value() else { return };
        let Some(values) = self.by_selector.get_mut(key) else { return };
        if let Some(names) = values.get_mut(value) {
            names.remove(name);
            if names.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.by_selector.remove(key);
        }
    }

    fn with_first_pair(&self, key: &str, value: &str) -> impl Iterator<Item = &Service> {
        let names = self.by_selector.get(key).and_then(|values| values.get(value));
        names.into_iter().flatten().filter_map(|name| self.by_name.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn service(name: &str, selector: &Value, headless: bool) -> Value {
        let ip = if headless { "None" } else { "10.0.0.1" };
        json!({"metadata": {"namespace": "shop", "name": name},
            "spec": {"clusterIP": ip, "selector": selector, "ports": [{"port": 80}]}})
    }

    #[test]
    fn a_changed_or_deleted_service_leaves_no_trace_in_the_indexes() {
        let mut facts = Facts::complete();
        let labels = BTreeMap::from([("app", "web"), ("tier", "front")]);
        facts.put_service(&service("web", &json!({"app": "web"}), false));
        facts.count_endpoints("shop", "web", 7);
        facts.put_service(&service("web", &json!({"app": "web", "tier": "front"}), false));
        assert_eq!(facts.service("shop", "web").unwrap().endpoints, Some(7));
        assert_eq!(facts.selecting("shop", &labels).len(), 1);
        facts.put_service(&service("web", &json!({"app": "other"}), false));
        assert!(facts.selecting("shop", &labels).is_empty());
        facts.remove_service("shop", "web");
        assert!(facts.service("shop", "web").is_none());
        assert!(facts.services["shop"].by_selector.is_empty());
    }

    #[test]
    fn a_twin_has_exactly_the_same_selector() {
        let mut facts = Facts::complete();
        facts.put_service(&service("web", &json!({"app": "web"}), false));
        facts.put_service(&service("b", &json!({"app": "web"}), true));
        facts.put_service(&service("a", &json!({"app": "web"}), true));
        facts.put_service(&service("narrow", &json!({"app": "web", "tier": "x"}), true));
        let twins = facts.headless_twins(facts.service("shop", "web").unwrap());
        assert_eq!(twins.map(|twin| twin.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_walk_would_find(
            selectors in prop::collection::vec(prop::collection::btree_map("[ab]", "[xy]", 0..3), 1..12),
            labels in prop::collection::btree_map("[abc]", "[xy]", 0..4),
        ) {
            let mut facts = Facts::complete();
            for (index, selector) in selectors.iter().enumerate() {
                // Some Services are put in twice, with another selector the second time.
                facts.put_service(&service(&format!("s{}", index % 7), &json!(selector), false));
            }
            let labels: BTreeMap<&str, &str> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let walked: Vec<&Service> = facts.services("shop").filter(|service| service.selects(&labels)).collect();
            prop_assert_eq!(facts.selecting("shop", &labels), walked);
        }
    }
}
