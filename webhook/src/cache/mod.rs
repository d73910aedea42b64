//! What admission needs to know of the cluster, kept by watches so that no review waits for the network.

pub mod follow;

mod slices;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use whichpod_injection::{Facts, ServiceName, names};

use follow::{Health, Key, Mirror, follow};
use slices::{Slice, Slices};

/// Changes that a slow listener may miss before it has to look at everything.
const CHANGES: usize = 1024;

/// An annotation of kubectl's that holds the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Services, namespaces and numbers of endpoints, as last seen; clones share them.
#[derive(Clone)]
pub struct Cache {
    state: Arc<RwLock<State>>,
    watches: Arc<Watches>,
    changes: broadcast::Sender<ServiceName>,
}

struct State {
    facts: Facts,
    slices: Slices,
    /// The Services that have a twin of ours, by the twin.
    twins: HashMap<ServiceName, ServiceName>,
    /// The namespaces whose label asks for sidecars.
    labelled: BTreeSet<String>,
}

/// The watches' health, by what they watch.
struct Watches {
    services: watch::Sender<Health>,
    namespaces: watch::Sender<Health>,
    slices: watch::Sender<Health>,
}

impl Cache {
    /// Nothing yet.
    pub fn new() -> Self {
        let health = || watch::Sender::new(Health::default());
        let watches = Watches { services: health(), namespaces: health(), slices: health() };
        let state = State {
            facts: Facts::complete(),
            slices: Slices::default(),
            twins: HashMap::new(),
            labelled: BTreeSet::new(),
        };
        Self {
            state: Arc::new(RwLock::new(state)),
            watches: Arc::new(watches),
            changes: broadcast::Sender::new(CHANGES),
        }
    }

    /// Keeps everything as it is in the cluster, until it is dropped.
    pub async fn run(&self, client: Client) {
        let mut watches = JoinSet::new();
        let cache = self.clone();
        let services = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<Service>(&()));
        watches.spawn(async move {
            let health = &cache.watches.services;
            follow(services, None, "Services", ServiceMirror(cache.clone()), health).await;
        });
        let cache = self.clone();
        let namespaces = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
        watches.spawn(async move {
            let health = &cache.watches.namespaces;
            follow(namespaces, None, "Namespaces", NamespaceMirror(cache.clone()), health).await;
        });
        let cache = self.clone();
        let slices = Api::<Slice>::all(client);
        watches.spawn(async move {
            let health = &cache.watches.slices;
            follow(slices, None, "EndpointSlices", SliceMirror(cache.clone()), health).await;
        });
        while watches.join_next().await.is_some() {}
    }

    /// Waits until every Service and namespace has been seen once. The numbers of endpoints only refine a decision.
    pub async fn synced(&self) {
        // The senders live as long as this.
        let _ = self.watches.services.subscribe().wait_for(Health::is_synced).await;
        let _ = self.watches.namespaces.subscribe().wait_for(Health::is_synced).await;
    }

    /// Whether every Service and namespace has been seen once.
    pub fn is_synced(&self) -> bool {
        self.watches.services.borrow().is_synced() && self.watches.namespaces.borrow().is_synced()
    }

    /// Runs `look` on what is known. It must be quick: changes wait for it.
    pub fn with<T>(&self, look: impl FnOnce(&Facts) -> T) -> T {
        look(&self.read().facts)
    }

    /// The Services that change from now on; with a twin, the Service it stands for. A listener that falls behind is told
    /// so.
    pub fn changes(&self) -> broadcast::Receiver<ServiceName> {
        self.changes.subscribe()
    }

    /// The Services that have a twin of ours.
    pub fn with_twins(&self) -> Vec<ServiceName> {
        self.read().twins.values().cloned().collect()
    }

    /// Says whether a quota or policy forbids the headless twin of a Service, so that users are warned.
    pub fn refuse_twin(&self, service: &ServiceName, refused: bool) {
        self.write().facts.refuse_twin(&service.namespace, &service.name, refused);
    }

    /// The namespaces whose label asks for sidecars.
    pub fn labelled_namespaces(&self) -> Vec<String> {
        self.read().labelled.iter().cloned().collect()
    }

    /// How many twins of ours there are.
    pub fn twins(&self) -> usize {
        self.read().twins.len()
    }

    /// For how long each mirror may have missed changes, by the resource's name.
    pub fn ages(&self, now: Instant) -> [(&'static str, Duration); 3] {
        [
            ("services", self.watches.services.borrow().age(now)),
            ("namespaces", self.watches.namespaces.borrow().age(now)),
            ("endpointslices", self.watches.slices.borrow().age(now)),
        ]
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // What was half written when a thread panicked is one Service at most, and the next event puts it right.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// Returns what has changed: the Service, and the one that it is or was a twin of.
    fn put(&mut self, name: ServiceName, service: &Value) -> Vec<ServiceName> {
        self.facts.put_service(service);
        self.count(&name);
        let twin_of =
            self.facts.service(&name.namespace, &name.name).and_then(|service| service.twin_of.clone());
        let twin_of = twin_of.map(|service| ServiceName { namespace: name.namespace.clone(), name: service });
        let was_twin_of = match twin_of.clone() {
            Some(service) => self.twins.insert(name.clone(), service),
            None => self.twins.remove(&name),
        };
        let mut changed = vec![name];
        changed.extend(was_twin_of.filter(|service| Some(service) != twin_of.as_ref()));
        changed.extend(twin_of);
        changed
    }

    fn remove(&mut self, name: &ServiceName) -> Vec<ServiceName> {
        self.facts.remove_service(&name.namespace, &name.name);
        self.twins.remove(name).into_iter().chain([name.clone()]).collect()
    }

    fn put_namespace(&mut self, name: &str, namespace: &Value) {
        self.facts.put_namespace(namespace);
        let label =
            self.facts.namespace(name).and_then(|namespace| namespace.labels.get(names::NAMESPACE_LABEL));
        if label.is_some_and(|label| label == "enabled") {
            self.labelled.insert(name.to_owned());
        } else {
            self.labelled.remove(name);
        }
    }

    fn remove_namespace(&mut self, name: &str) {
        self.facts.remove_namespace(name);
        self.labelled.remove(name);
    }

    fn count(&mut self, service: &ServiceName) {
        let endpoints = self.slices.count(service);
        self.facts.count_endpoints(&service.namespace, &service.name, endpoints);
    }
}

/// Puts Services into a cache without an API server: for tests and measurements.
pub fn filled(
    services: impl IntoIterator<Item = Value>,
    namespaces: impl IntoIterator<Item = Value>,
) -> Cache {
    let cache = Cache::new();
    let synced = Health::synced();
    cache.watches.services.send_replace(synced.clone());
    cache.watches.namespaces.send_replace(synced);
    {
        let mut state = cache.write();
        for service in services {
            let text =
                |pointer| service.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let name = ServiceName { namespace: text("/metadata/namespace"), name: text("/metadata/name") };
            state.put(name, &service);
        }
        for namespace in namespaces {
            let name =
                namespace.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
            state.put_namespace(&name, &namespace);
        }
    }
    cache
}

struct ServiceMirror(Cache);

impl Mirror<DynamicObject> for ServiceMirror {
    fn put(&mut self, key: &Key, object: &DynamicObject) {
        let service = json!({
            "metadata": { "namespace": key.namespace, "name": key.name, "labels": object.metadata.labels },
            "spec": object.data.get("spec"),
        });
        let changed = self.0.write().put(service_name(key), &service);
        self.tell(changed);
    }

    fn remove(&mut self, key: &Key) {
        let changed = self.0.write().remove(&service_name(key));
        self.tell(changed);
    }
}

impl ServiceMirror {
    fn tell(&self, changed: Vec<ServiceName>) {
        for service in changed {
            // Nobody may listen.
            let _ = self.0.changes.send(service);
        }
    }
}

struct NamespaceMirror(Cache);

impl Mirror<PartialObjectMeta<Namespace>> for NamespaceMirror {
    fn put(&mut self, key: &Key, object: &PartialObjectMeta<Namespace>) {
        let mut annotations = object.metadata.annotations.clone().unwrap_or_default();
        annotations.remove(LAST_APPLIED);
        let namespace = json!({ "metadata": {
            "name": key.name, "labels": object.metadata.labels, "annotations": annotations,
        } });
        self.0.write().put_namespace(&key.name, &namespace);
    }

    fn remove(&mut self, key: &Key) {
        self.0.write().remove_namespace(&key.name);
    }
}

struct SliceMirror(Cache);

impl Mirror<Slice> for SliceMirror {
    fn put(&mut self, key: &Key, slice: &Slice) {
        let mut state = self.0.write();
        for service in state.slices.put(key, slice) {
            state.count(&service);
        }
    }

    fn remove(&mut self, key: &Key) {
        let mut state = self.0.write();
        if let Some(service) = state.slices.remove(key) {
            state.count(&service);
        }
    }
}

fn service_name(key: &Key) -> ServiceName {
    ServiceName { namespace: key.namespace.clone(), name: key.name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn service(name: &str, labels: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": { "namespace": "shop", "name": name, "labels": labels },
            "spec": { "clusterIP": "10.0.0.1", "selector": { "app": name }, "ports": [{ "port": 80 }] },
        }))
        .unwrap()
    }

    #[test]
    fn a_service_that_comes_after_its_endpoints_knows_their_number() {
        let cache = Cache::new();
        let slice: Slice = serde_json::from_value(json!({
            "metadata": { "labels": { "kubernetes.io/service-name": "web" } }, "addressType": "IPv4", "endpoints": [{}, {}],
        }))
        .unwrap();
        SliceMirror(cache.clone()).put(&key("shop", "web-x"), &slice);
        ServiceMirror(cache.clone()).put(&key("shop", "web"), &service("web", &json!(null)));
        let endpoints = || cache.with(|facts| facts.service("shop", "web").unwrap().endpoints);
        assert_eq!(endpoints(), Some(2));
        SliceMirror(cache.clone()).remove(&key("shop", "web-x"));
        assert_eq!(endpoints(), Some(0));
    }

    #[test]
    fn a_change_of_a_twin_is_told_as_one_of_its_service() {
        let cache = Cache::new();
        let mut changes = cache.changes();
        let mut told = || -> Vec<String> {
            std::iter::from_fn(|| changes.try_recv().ok()).map(|name| name.name).collect()
        };
        let labels = json!({ "app.kubernetes.io/managed-by": "whichpod", "whichpod.io/twin-of": "web" });
        let mut mirror = ServiceMirror(cache.clone());
        let twin = key("shop", "web-whichpod");
        mirror.put(&twin, &service("web-whichpod", &labels));
        assert_eq!(told(), ["web-whichpod", "web"]);
        assert_eq!((cache.twins(), cache.with_twins()[0].name.as_str()), (1, "web"));
        mirror.put(&key("shop", "db"), &service("db", &json!({})));
        assert_eq!(told(), ["db"]);
        // Somebody takes the labels off: the twin is missing now.
        mirror.put(&twin, &service("web-whichpod", &json!({})));
        assert_eq!(told(), ["web-whichpod", "web"]);
        mirror.put(&twin, &service("web-whichpod", &labels));
        told();
        mirror.remove(&twin);
        assert_eq!(told(), ["web", "web-whichpod"]);
        assert_eq!(cache.twins(), 0);
    }

    #[test]
    fn a_namespaces_copy_of_itself_is_not_kept() {
        let cache = Cache::new();
        let namespace: PartialObjectMeta<Namespace> = serde_json::from_value(json!({ "metadata": {
            "name": "shop", "labels": { "whichpod.io/injection": "enabled" },
            "annotations": { LAST_APPLIED: "{}", "whichpod.io/redirect": "env" },
        } }))
        .unwrap();
        let mut mirror = NamespaceMirror(cache.clone());
        mirror.put(&key("", "shop"), &namespace);
        let kept = cache.with(|facts| facts.namespace("shop").unwrap().clone());
        assert_eq!(kept.labels.len(), 1);
        assert_eq!(cache.labelled_namespaces(), ["shop"]);
        assert_eq!(kept.annotations.into_keys().collect::<Vec<_>>(), ["whichpod.io/redirect"]);
        mirror.remove(&key("", "shop"));
        assert!(cache.with(|facts| facts.namespace("shop").is_none()));
        assert!(cache.labelled_namespaces().is_empty());
    }

    #[tokio::test]
    async fn nothing_is_answered_from_half_a_list() {
        let cache = Cache::new();
        assert!(!cache.is_synced());
        assert!(filled([], []).is_synced());
        tokio::time::timeout(Duration::from_secs(5), filled([], []).synced()).await.unwrap();
    }
}
