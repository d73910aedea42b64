//! Which twins are asked for: what the status annotations of the pods with a sidecar say. It is the truth whoever
//! admitted them, needs no message between replicas, and keeps admission without side effects.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::api::PartialObjectMeta;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use whichpod_injection::{ServiceName, names, twin, twins_wanted};

use crate::cache::follow::{Health, Key, Mirror, follow};

/// The wishes of all pods; clones share them.
#[derive(Clone)]
pub(super) struct Wanted {
    state: Arc<Mutex<State>>,
    wishes: mpsc::UnboundedSender<ServiceName>,
}

#[derive(Default)]
struct State {
    pods: HashMap<Key, Vec<ServiceName>>,
    services: HashMap<ServiceName, usize>,
    /// By the twins' names.
    twins: HashMap<ServiceName, ServiceName>,
}

impl Wanted {
    /// Nothing yet; the receiver is told of every Service that is asked for the first time.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<ServiceName>) {
        let (wishes, receiver) = mpsc::unbounded_channel();
        (Self { state: Arc::default(), wishes }, receiver)
    }

    /// Follows the pods with a sidecar, until it is dropped.
    pub(super) async fn follow(self, client: Client) {
        let pods = Api::<PartialObjectMeta<Pod>>::all(client);
        let unobserved = watch::Sender::new(Health::default());
        follow(pods, Some(names::INJECTED_LABEL), "pods with a sidecar", self, &unobserved).await;
    }

    pub(super) fn contains(&self, service: &ServiceName) -> bool {
        self.lock().services.contains_key(service)
    }

    /// The Services whose twins would bear this name.
    pub(super) fn with_twin_named(&self, twin: &ServiceName) -> Vec<ServiceName> {
        self.lock().twins.get(twin).into_iter().cloned().collect()
    }

    pub(super) fn all(&self) -> Vec<ServiceName> {
        self.lock().services.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one of whole entries.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mirror<PartialObjectMeta<Pod>> for Wanted {
    fn put(&mut self, key: &Key, pod: &PartialObjectMeta<Pod>) {
        let status = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(names::STATUS));
        let object = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "annotations": { names::STATUS: status } } });
        let wants = twins_wanted(&object);
        let mut state = self.lock();
        if state.pods.get(key) == Some(&wants) {
            return;
        }
        state.forget(key);
        for service in state.remember(key, wants) {
            // The receiver ends with the leader's work, and so does this.
            let _ = self.wishes.send(service);
        }
    }

    fn remove(&mut self, key: &Key) {
        self.lock().forget(key);
    }
}

impl State {
    /// Returns what nobody wanted before.
    fn remember(&mut self, key: &Key, wants: Vec<ServiceName>) -> Vec<ServiceName> {
        let mut new = Vec::new();
        for service in &wants {
            let count = self.services.entry(service.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.twins.insert(twin_name(service), service.clone());
                new.push(service.clone());
            }
        }
        if !wants.is_empty() {
            self.pods.insert(key.clone(), wants);
        }
        new
    }

    fn forget(&mut self, key: &Key) {
        for service in self.pods.remove(key).unwrap_or_default() {
            let Some(count) = self.services.get_mut(&service) else { continue };
            *count -= 1;
            if *count == 0 {
                self.services.remove(&service);
                self.twins.remove(&twin_name(&service));
            }
        }
    }
}

fn twin_name(service: &ServiceName) -> ServiceName {
    ServiceName { namespace: service.namespace.clone(), name: twin::twin_name(&service.name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceName {
        ServiceName { namespace: "shop".to_owned(), name: name.to_owned() }
    }

    fn key(name: &str) -> Key {
        Key { namespace: "shop".to_owned(), name: name.to_owned() }
    }

    fn pod(status: &str) -> PartialObjectMeta<Pod> {
        let annotations = json!({ names::STATUS: status });
        serde_json::from_value(json!({ "metadata": { "annotations": annotations } })).unwrap()
    }

    fn asking(services: &[&str]) -> PartialObjectMeta<Pod> {
        let twins: Vec<_> = services.iter().map(|name| service(name)).collect();
        pod(&json!({ "version": "1.0.0", "twins": twins }).to_string())
    }

    #[test]
    fn a_twin_is_wanted_as_long_as_one_pod_asks_for_it() {
        let (mut wanted, mut wishes) = Wanted::new();
        wanted.put(&key("a"), &asking(&["web", "db"]));
        wanted.put(&key("b"), &asking(&["web"]));
        wanted.put(&key("a"), &asking(&["web", "db"]));
        assert_eq!(
            [wishes.try_recv().ok(), wishes.try_recv().ok(), wishes.try_recv().ok()],
            [Some(service("web")), Some(service("db")), None]
        );
        assert_eq!(wanted.with_twin_named(&service("web-whichpod")), [service("web")]);
        wanted.remove(&key("a"));
        assert!(wanted.contains(&service("web")) && !wanted.contains(&service("db")));
        wanted.put(&key("b"), &asking(&[]));
        assert!(wanted.all().is_empty() && wanted.with_twin_named(&service("web-whichpod")).is_empty());
    }

    #[test]
    fn a_status_that_nobody_can_read_asks_for_nothing() {
        let (mut wanted, _wishes) = Wanted::new();
        for (number, status) in
            ["", "{}", "[]", "nonsense", r#"{"version":"1","twins":"web"}"#].into_iter().enumerate()
        {
            wanted.put(&key(&number.to_string()), &pod(status));
        }
        assert!(wanted.all().is_empty());
    }
}
