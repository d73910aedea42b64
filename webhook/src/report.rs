//! Workloads that ask for a sidecar and run without one, because they are older than the webhook or came while it was
//! away. Nothing is restarted that nobody asked to: their owners are told.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::runtime::events::EventType;
use kube::{Api, Client};
use serde_json::Value;
use whichpod_injection::{Facts, Operation, Options, Reason, Request, admit, is_injected, names};

use crate::cache::Cache;
use crate::cluster::list;
use crate::cluster::request::Failed;
use crate::events::Events;
use crate::metrics::Uninjected;

/// The first search waits until a rollout of the webhook itself is over.
const FIRST: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_secs(10 * 60);

/// Searches for workloads without their sidecar.
#[derive(Clone)]
pub struct Report {
    client: Client,
    cache: Cache,
    options: Arc<ArcSwap<Options>>,
    events: Events,
    found: Arc<Uninjected>,
}

/// Something that lacks its sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lacking {
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
}

impl Report {
    /// Nothing is done before [`Self::run`].
    pub fn new(
        client: Client,
        cache: Cache,
        options: Arc<ArcSwap<Options>>,
        events: Events,
        found: Arc<Uninjected>,
    ) -> Self {
        Self { client, cache, options, events, found }
    }

    /// Searches again and again, until it is dropped.
    pub async fn run(&self) {
        self.cache.synced().await;
        tokio::time::sleep(FIRST).await;
        let mut told = HashSet::new();
        loop {
            match self.search().await {
                Ok(lacking) => {
                    self.found.workloads.store(lacking.len(), Relaxed);
                    self.found.searches.fetch_add(1, Relaxed);
                    for one in lacking.difference(&told) {
                        self.tell(one).await;
                    }
                    told = lacking;
                }
                Err(error) => tracing::warn!("the search for workloads without their sidecar: {error}"),
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn search(&self) -> Result<HashSet<Lacking>, Failed> {
        let mut lacking = HashSet::new();
        for resource in [
            ApiResource::erase::<Deployment>(&()),
            ApiResource::erase::<StatefulSet>(&()),
            ApiResource::erase::<DaemonSet>(&()),
            ApiResource::erase::<CronJob>(&()),
        ] {
            let all = Api::all_with(self.client.clone(), &resource);
            self.each(&all, &resource, ListParams::default(), |object| lacking.extend(of(object))).await?;
        }
        // Where a namespace's label asks, only the pods themselves are changed.
        let without = ListParams::default().labels(&format!("!{}", names::INJECTED_LABEL));
        let resource = ApiResource::erase::<Pod>(&());
        for namespace in self.cache.labelled_namespaces() {
            let pods = Api::namespaced_with(self.client.clone(), &namespace, &resource);
            self.each(&pods, &resource, without.clone(), |pod| lacking.extend(owner_of(pod))).await?;
        }
        Ok(lacking)
    }

    /// Calls `found` for every object that would get a sidecar if it were made now, and has none.
    async fn each(
        &self,
        api: &Api<DynamicObject>,
        resource: &ApiResource,
        parameters: ListParams,
        mut found: impl FnMut(&Value),
    ) -> Result<(), Failed> {
        let options = self.options.load_full();
        list::each(api, resource, parameters, |object| {
            if self.cache.with(|facts| lacks_sidecar(object, facts, &options)) {
                found(object);
            }
        })
        .await
    }

    async fn tell(&self, lacking: &Lacking) {
        let Lacking { api_version, kind, namespace, name, uid } = lacking;
        let restart = match kind.as_str() {
            "Deployment" | "StatefulSet" | "DaemonSet" => {
                format!("kubectl rollout restart {}/{name} -n {namespace}", kind.to_lowercase())
            }
            "CronJob" => "change it in any way, or wait for its next Job".to_owned(),
            _ => "restart its pods".to_owned(),
        };
        tracing::info!(kind, namespace, name, "asks for a sidecar and runs without one");
        let regarding = ObjectReference {
            api_version: Some(api_version.clone()),
            kind: Some(kind.clone()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        };
        let note = format!(
            "Asks for whichpod's sidecar and runs without it, being older than the webhook; to add it: {restart}"
        );
        self.events.publish(EventType::Warning, "NotInjected", "Search", note, &regarding).await;
    }
}

/// Whether an object would get a sidecar if it were made now, and has none.
fn lacks_sidecar(object: &Value, facts: &Facts, options: &Options) -> bool {
    if is_injected(object) || is_over(object) {
        return false;
    }
    let namespace = text(object, "/metadata/namespace").unwrap_or_default();
    let request = Request {
        operation: Operation::Create,
        namespace,
        object,
        old_object: None,
        subresource: None,
        recompute: false,
    };
    admit(&request, facts, options).reason == Reason::Injected
}

/// Whether it is a pod that has ended.
fn is_over(object: &Value) -> bool {
    matches!(text(object, "/status/phase"), Some("Succeeded" | "Failed"))
}

fn of(object: &Value) -> Option<Lacking> {
    let namespace = text(object, "/metadata/namespace")?.to_owned();
    described(object, "/metadata/name", "/metadata/uid", namespace)
}

/// Whom to tell about a pod: its owner, else the pod itself.
fn owner_of(pod: &Value) -> Option<Lacking> {
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let controller = owners.into_iter().flatten().find(|owner| owner["controller"] == true);
    let Some(owner) = controller else { return of(pod) };
    let namespace = text(pod, "/metadata/namespace")?.to_owned();
    described(owner, "/name", "/uid", namespace)
}

fn described(object: &Value, name: &str, uid: &str, namespace: String) -> Option<Lacking> {
    let of = |pointer: &str| text(object, pointer).map(str::to_owned);
    Some(Lacking {
        api_version: of("/apiVersion")?,
        kind: of("/kind")?,
        namespace,
        name: of(name)?,
        uid: of(uid).unwrap_or_default(),
    })
}

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(annotations: &Value) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "namespace": "shop", "name": "nginx", "uid": "u", "annotations": annotations },
            "spec": { "template": { "metadata": {}, "spec": { "containers": [{ "name": "nginx" }] } } },
        })
    }

    fn cache() -> Cache {
        let service = json!({
            "metadata": { "namespace": "shop", "name": "web" },
            "spec": { "clusterIP": "10.0.0.1", "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
        });
        let namespace =
            json!({ "metadata": { "name": "shop", "labels": { "whichpod.io/injection": "enabled" } } });
        crate::cache::filled([service], [namespace])
    }

    fn lacks(object: &Value) -> bool {
        cache().with(|facts| lacks_sidecar(object, facts, &Options::default()))
    }

    #[test]
    fn only_who_asks_and_has_none_lacks_a_sidecar() {
        let asking = deployment(&json!({ "whichpod.io/upstreams": "web:80" }));
        assert!(lacks(&asking));
        assert!(!lacks(&deployment(&json!({}))));
        assert!(!lacks(&deployment(
            &json!({ "whichpod.io/upstreams": "web:80", "whichpod.io/inject": "false" })
        )));
        let mut injected = asking;
        let request = Request {
            operation: Operation::Create,
            namespace: "shop",
            object: &injected.clone(),
            old_object: None,
            subresource: None,
            recompute: false,
        };
        let outcome = cache().with(|facts| admit(&request, facts, &Options::default()));
        json_patch::patch(&mut injected, &outcome.patch).unwrap();
        assert!(!lacks(&injected));
    }

    #[test]
    fn a_pod_of_a_labelled_namespace_names_its_owner() {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "shop", "name": "app-1", "uid": "p" },
            "spec": { "containers": [{ "name": "app" }] }, "status": { "phase": "Running" },
        });
        assert!(lacks(&pod));
        assert_eq!(owner_of(&pod).unwrap().name, "app-1");
        pod["metadata"]["ownerReferences"] = json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app", "uid": "r", "controller": true }]);
        let owner = owner_of(&pod).unwrap();
        assert_eq!(
            (owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()),
            ("ReplicaSet", "app", "r")
        );
        pod["status"]["phase"] = json!("Succeeded");
        assert!(!lacks(&pod), "it has ended");
    }
}
