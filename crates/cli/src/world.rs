//! What decides about workloads besides what they say themselves: the cluster's Services and namespaces, or nothing but
//! the manifests (`--offline`), and the operator's options.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use whichpod_injection::twin::{self, Step, twin_name};
use whichpod_injection::{Facts, Item, Kind, Options};

use crate::ask::{OptionFlags, base_options};
use crate::cluster::{self, Cluster};
use crate::exit::Failure;
use crate::output;

/// Everything that [`whichpod_injection::inject`] wants to know.
pub struct World {
    /// The namespace of objects that don't say theirs.
    pub namespace: String,
    /// Services and namespaces.
    pub facts: Facts,
    /// What the operator decided.
    pub options: Options,
    /// Whether somebody makes headless twins.
    twins_are_made: bool,
    /// By namespace and name.
    services: BTreeMap<(String, String), Value>,
}

impl World {
    /// Takes what the text says; makes no connection.
    ///
    /// # Errors
    /// If the options are wrong.
    pub fn offline(namespace: Option<&str>, flags: &OptionFlags) -> Result<World, Failure> {
        let options = flags.of_file()?.unwrap_or_else(base_options);
        Ok(World {
            namespace: namespace.unwrap_or("default").to_owned(),
            facts: Facts::unknown(),
            options: flags.lay_over(options)?,
            twins_are_made: false,
            services: BTreeMap::new(),
        })
    }

    /// Asks the cluster about everything that these documents, and what is asked for, may depend on.
    ///
    /// # Errors
    /// If the cluster cannot be reached, or the options are wrong.
    pub async fn online(
        cluster: &Cluster,
        documents: &[Value],
        annotations: &[(String, String)],
        flags: &OptionFlags,
    ) -> Result<World, Failure> {
        let asked = annotations.iter().map(|(_, value)| value.clone());
        let text: Vec<String> = documents.iter().map(Value::to_string).chain(asked).collect();
        let namespaces = namespaces(documents, &cluster.namespace);
        let known = cluster::known(cluster, &namespaces, &text.join("\n"), flags).await?;
        for note in &known.notes {
            output::tell(&format!("note: {note}"));
        }
        let named = known.services.into_iter().filter_map(|service| Some((name_of(&service)?, service)));
        Ok(World {
            namespace: cluster.namespace.clone(),
            facts: known.facts,
            options: known.options,
            twins_are_made: known.installed != Some(false),
            services: named.collect(),
        })
    }

    /// Puts in the Services and namespaces that come with the manifests and that the cluster does not have yet.
    pub fn add(&mut self, documents: &[Value]) {
        for object in documents.iter().flat_map(objects) {
            match (object["apiVersion"].as_str(), object["kind"].as_str()) {
                (Some("v1"), Some("Service")) => {
                    let mut service = object.clone();
                    if service["metadata"]["namespace"].is_null() && service["metadata"].is_object() {
                        service["metadata"]["namespace"] = json!(self.namespace);
                    }
                    let Some(name) = name_of(&service) else { continue };
                    if !self.services.contains_key(&name) {
                        self.facts.put_service(&service);
                        self.services.insert(name, service);
                    }
                }
                (Some("v1"), Some("Namespace")) => {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    if self.facts.namespace(name).is_none() {
                        self.facts.put_namespace(object);
                    }
                }
                _ => {}
            }
        }
    }

    /// The headless twins that these workloads ask for and that do not exist.
    pub fn missing_twins(&self, items: &[Item]) -> Vec<Value> {
        let wanted: BTreeSet<_> = items.iter().flat_map(|item| &item.outcome.twins).collect();
        let missing = wanted.into_iter().filter_map(|name| {
            let find = |service: &str| self.services.get(&(name.namespace.clone(), service.to_owned()));
            match twin::step(find(&name.name)?, find(&twin_name(&name.name))) {
                Step::Create(twin) => Some(twin),
                Step::Nothing | Step::Replace(_) | Step::Recreate(_) | Step::Foreign => None,
            }
        });
        missing.collect()
    }

    /// Tells the user of headless twins that nobody will make.
    pub fn tell_of_twins(&self, missing: &[Value]) {
        for twin in missing.iter().filter(|_| !self.twins_are_made) {
            let name = twin["metadata"]["name"].as_str().unwrap_or_default();
            output::tell(&format!(
                "note: no webhook makes the headless Service {name}, and without it the log shows a virtual IP; add --twins"
            ));
        }
    }
}

/// Whether there is anything that could have a sidecar.
pub fn has_workloads(documents: &[Value]) -> bool {
    !namespaces(documents, "").is_empty()
}

/// The namespaces of all workloads.
fn namespaces(documents: &[Value], default: &str) -> BTreeSet<String> {
    let workloads = documents.iter().flat_map(objects).filter(|object| Kind::of(object).is_some());
    workloads.map(|object| object["metadata"]["namespace"].as_str().unwrap_or(default).to_owned()).collect()
}

/// A document itself, or what is in the list that it is.
pub fn objects(document: &Value) -> Vec<&Value> {
    let is_list = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    match document["items"].as_array().filter(|_| is_list) {
        Some(items) => items.iter().flat_map(objects).collect(),
        None => vec![document],
    }
}

fn name_of(object: &Value) -> Option<(String, String)> {
    let text = |key: &str| Some(object["metadata"][key].as_str()?.to_owned());
    Some((text("namespace")?, text("name")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use whichpod_injection::{Ask, inject};

    fn service(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}})
    }

    fn deployment() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"template": {"metadata": {}, "spec": {"containers": [{"name": "web"}]}}}})
    }

    #[test]
    fn services_of_the_same_manifests_count() {
        let mut world = World::offline(Some("shop"), &OptionFlags::default()).unwrap();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [service("backend"), deployment()]});
        world.add(&[list]);
        assert!(world.facts.service("shop", "backend").is_some());
        let ask = Ask {
            namespace: "shop".to_owned(),
            annotations: vec![("upstreams".to_owned(), "backend:80".to_owned())],
            recompute: false,
        };
        let (_, items) = inject(&deployment(), &ask, &world.facts, &world.options);
        let twins = world.missing_twins(&items);
        assert_eq!(twins.len(), 1);
        assert_eq!(twins[0]["metadata"]["name"], "backend-whichpod");
        world.add(&twins);
        assert_eq!(world.missing_twins(&items), Vec::<Value>::new());
    }

    #[test]
    fn the_namespaces_are_those_of_workloads() {
        let mut elsewhere = deployment();
        elsewhere["metadata"]["namespace"] = json!("other");
        let mut here = deployment();
        here["metadata"]["namespace"] = json!(null);
        let list = json!({"kind": "List", "items": [elsewhere, service("backend")]});
        assert_eq!(
            namespaces(&[list, here], "shop"),
            BTreeSet::from(["other".to_owned(), "shop".to_owned()])
        );
    }
}
