//! What in the cluster has a sidecar, and what pods are left with one when the templates are freed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use whichpod_injection::{Kind, names};

use crate::cluster::Cluster;
use crate::cluster::resources::{RESOURCES, Resource, controller};
use crate::exit::Failure;

/// Who made a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    namespace: String,
    kind: String,
    name: String,
}

impl Owner {
    fn new(object: &Value, kind: &str, name: &str) -> Owner {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        Owner { namespace: namespace.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
    }

    /// Tells that pods still have the sidecar, and what to do.
    pub(super) fn line(&self, pods: usize, usual: &str) -> String {
        let Owner { namespace, kind, name } = self;
        let place = if namespace == usual { String::new() } else { format!(" in {namespace}") };
        let (what, remedy) = match kind.as_str() {
            "Pod" | "Job" => {
                ("it has the sidecar for life".to_owned(), "delete it and create it anew".to_owned())
            }
            _ => (
                format!("{pods} of its pods still have the sidecar"),
                format!(
                    "if they are not being replaced, annotate it whichpod.io/inject=false or take the label {} off its \
                     namespace, then kubectl rollout restart",
                    names::NAMESPACE_LABEL
                ),
            ),
        };
        format!("{}/{name}{place}: skipped: {what}\n  warning: {remedy}", kind.to_lowercase())
    }
}

/// Everything with a sidecar.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Workloads that nobody else owns, with a status in their templates.
    pub(super) workloads: Vec<(&'static Resource, Value)>,
    /// Who owns whom, of what owns pods.
    owners: BTreeMap<Owner, Owner>,
    /// Who owns the pods with a sidecar, and how many.
    pods: BTreeMap<Owner, usize>,
}

impl Found {
    /// Looks through a namespace, or everywhere.
    ///
    /// # Errors
    /// If the cluster refuses or cannot be reached.
    pub(super) async fn look(cluster: &Cluster, namespace: Option<&str>) -> Result<Found, Failure> {
        let mut found = Found::default();
        let injected = format!("{}=true", names::INJECTED_LABEL);
        for resource in &RESOURCES {
            let labels = (resource.kind == Kind::Pod).then_some(injected.as_str());
            cluster
                .list_resource(resource, namespace, labels, &mut |object| found.put(resource, object))
                .await?;
        }
        Ok(found)
    }

    fn put(&mut self, resource: &'static Resource, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let own = Owner::new(&object, resource.name, name);
        let owner = controller(&object).map(|(kind, name)| Owner::new(&object, kind, name));
        if resource.kind == Kind::Pod {
            if object["metadata"]["deletionTimestamp"].is_null() {
                *self.pods.entry(owner.unwrap_or(own)).or_default() += 1;
            }
        } else if let Some(owner) = owner {
            self.owners.insert(own, owner);
        } else if resource.is_changeable() && has_sidecar(&object) {
            self.workloads.push((resource, object));
        }
    }

    /// Owners of pods with a sidecar whose templates have none, and how many pods.
    pub(super) fn left(&self) -> BTreeMap<Owner, usize> {
        let freed: BTreeSet<Owner> = self
            .workloads
            .iter()
            .map(|(resource, object)| {
                Owner::new(object, resource.name, object["metadata"]["name"].as_str().unwrap_or_default())
            })
            .collect();
        let mut left = BTreeMap::new();
        for (owner, pods) in &self.pods {
            let mut top = owner;
            while let Some(owner) = self.owners.get(top) {
                top = owner;
            }
            if !freed.contains(top) {
                *left.entry(top.clone()).or_default() += pods;
            }
        }
        left
    }
}

/// Whether whichpod added more to what the pods are made from than that there is to be no sidecar.
pub(super) fn has_sidecar(object: &Value) -> bool {
    let template = Kind::of(object).and_then(|kind| object.pointer(kind.template())).unwrap_or(&Value::Null);
    let lists = ["initContainers", "containers"].map(|list| template["spec"][list].as_array());
    let mut containers = lists.into_iter().flatten().flatten();
    !template["metadata"]["labels"][names::INJECTED_LABEL].is_null()
        || containers.any(|container| container["name"] == names::CONTAINER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::resources::Target;
    use serde_json::json;

    fn resource(kind: &str) -> &'static Resource {
        format!("{kind}/x").parse::<Target>().unwrap().resource
    }

    fn injected(name: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"template": {"metadata": {"labels": {names::INJECTED_LABEL: "true"}}}}})
    }

    #[test]
    fn who_makes_the_pods_that_are_left_is_told_with_the_remedy() {
        let owner = |kind: &str| Owner::new(&injected("web"), kind, "web");
        let line = owner("Deployment").line(2, "shop");
        assert!(
            line.starts_with("deployment/web: skipped: 2 of its pods still have the sidecar\n  warning: "),
            "{line}"
        );
        assert!(line.contains("whichpod.io/injection") && line.contains("rollout restart"), "{line}");
        assert!(owner("Pod").line(1, "").starts_with("pod/web in shop: skipped: it has the sidecar"));
    }

    #[test]
    fn pods_that_were_injected_at_their_start_are_found_with_who_makes_them() {
        let object = |kind: &str, name: &str, owner: Option<(&str, &str)>| {
            let owners: Vec<Value> = owner
                .into_iter()
                .map(|(kind, name)| json!({"kind": kind, "name": name, "controller": true}))
                .collect();
            json!({"apiVersion": resource(kind).api_version, "kind": resource(kind).name,
                "metadata": {"name": name, "namespace": "shop", "ownerReferences": owners}})
        };
        let mut found = Found::default();
        for (kind, name, owner) in [
            ("deployment", "labelled", None),
            ("replicaset", "labelled-1", Some(("Deployment", "labelled"))),
            ("replicaset", "web-1", Some(("Deployment", "web"))),
            ("pod", "labelled-1-a", Some(("ReplicaSet", "labelled-1"))),
            ("pod", "labelled-1-b", Some(("ReplicaSet", "labelled-1"))),
            ("pod", "web-1-a", Some(("ReplicaSet", "web-1"))),
            ("pod", "alone", None),
        ] {
            found.put(resource(kind), object(kind, name, owner));
        }
        found.put(resource("deployment"), injected("web"));
        let owner = |kind: &str, name: &str| Owner::new(&injected(""), kind, name);
        assert_eq!(found.workloads.len(), 1);
        assert_eq!(
            found.left(),
            BTreeMap::from([(owner("Deployment", "labelled"), 2), (owner("Pod", "alone"), 1)])
        );
    }
}
