//! Changing an object that others may change, too.

use serde_json::Value;
use whichpod_injection::Item;

use crate::cluster::resources::{Resource, Target};
use crate::cluster::{Cluster, WriteError};
use crate::exit::{Exit, Failure};

/// How often somebody may get in between.
const ATTEMPTS: usize = 5;

/// What is to become of an object; nothing if it is none that whichpod could change.
pub type Decide<'d> = &'d dyn Fn(&Value) -> Option<Item>;

/// Decides about an object and makes the change; decides anew if the object has changed in the meantime. `None` if it is
/// gone.
///
/// # Errors
/// If the cluster refuses or cannot be reached.
pub async fn change(
    cluster: &Cluster,
    resource: &Resource,
    object: &Value,
    decide: Decide<'_>,
) -> Result<Option<Item>, Failure> {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let named = |failure: Failure| {
        let kind = resource.name.to_lowercase();
        Failure { message: format!("{kind}/{name} in {namespace}: {}", failure.message), ..failure }
    };
    let mut newer = None;
    for _ in 0..ATTEMPTS {
        let object = newer.as_ref().unwrap_or(object);
        let Some(item) = decide(object) else { return Ok(None) };
        if item.outcome.patch.is_empty() {
            return Ok(Some(item));
        }
        match cluster.patch(resource, object, &item.outcome.patch).await {
            Ok(()) => return Ok(Some(item)),
            Err(WriteError::Failed(failure)) => return Err(named(failure)),
            Err(WriteError::Conflict) => {}
        }
        let read = cluster.read(resource, namespace, name).await.map_err(named)?;
        let Some(read) = read else { return Ok(None) };
        newer = Some(read);
    }
    Err(named(Failure::new(Exit::Failed, "others keep changing it; try again")))
}

/// What became of the object that the command line names.
///
/// # Errors
/// If it is gone.
pub fn decided(target: &Target, item: Option<Item>) -> Result<Item, Failure> {
    item.ok_or_else(|| Failure::new(Exit::NoInput, format!("{target} was deleted in the meantime")))
}

/// Refuses what the API server would refuse.
///
/// # Errors
/// For a pod or a Job.
pub fn check_changeable(target: &Target) -> Result<(), Failure> {
    if target.resource.is_changeable() {
        return Ok(());
    }
    let remedy = "delete it and create it anew from its changed manifest (whichpod inject and uninject -f FILE), or \
                  change the workload that makes it";
    Err(Failure::usage(format!("{target}: its containers cannot be changed once it exists; {remedy}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::scripted::{cluster, refusal};
    use serde_json::json;
    use whichpod_injection::{Outcome, Reason};

    fn object(version: &str, replicas: u64) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": replicas},
            "metadata": {"name": "web", "namespace": "shop", "resourceVersion": version}})
    }

    /// Wants the number of replicas as an annotation.
    fn decide(object: &Value) -> Option<Item> {
        let patch = json!([{"op": "add", "path": "/metadata/annotations", "value": {"n": object["spec"]["replicas"]}}]);
        let outcome = Outcome {
            reason: Reason::Injected,
            denied: None,
            patch: serde_json::from_value(patch).unwrap(),
            warnings: Vec::new(),
            twins: Vec::new(),
        };
        let text = |text: &str| text.to_owned();
        Some(Item { kind: text("Deployment"), namespace: text("shop"), name: text("web"), outcome })
    }

    fn target() -> Target {
        "deploy/web".parse().unwrap()
    }

    #[tokio::test]
    async fn what_somebody_else_changed_in_the_meantime_is_not_lost() {
        let answers = vec![(409, refusal(409)), (200, object("2", 7)), (200, object("3", 7))];
        let (cluster, asked) = cluster(answers);
        let changed = change(&cluster, target().resource, &object("1", 3), &decide).await.unwrap();
        assert_eq!(changed.unwrap().outcome.reason, Reason::Injected);
        let asked = asked.lock().unwrap();
        let path = "/apis/apps/v1/namespaces/shop/deployments/web";
        let requests: Vec<&str> = asked.iter().map(|(request, _)| request.as_str()).collect();
        let patch = format!("PATCH {path}?&fieldManager=whichpod");
        assert_eq!(requests, [patch.clone(), format!("GET {path}"), patch]);
        let version =
            |number: &str| json!({"op": "replace", "path": "/metadata/resourceVersion", "value": number});
        assert_eq!((&asked[0].1[0], &asked[2].1[0]), (&version("1"), &version("2")));
        assert_eq!(asked[2].1[1]["value"], json!({"n": 7}));
    }

    #[tokio::test]
    async fn it_ends_when_others_never_rest() {
        let conflicts = (0..ATTEMPTS).flat_map(|_| [(409, refusal(409)), (200, object("2", 1))]).collect();
        let (cluster, asked) = cluster(conflicts);
        let failure = change(&cluster, target().resource, &object("1", 1), &decide).await.unwrap_err();
        assert!(failure.message.contains("deployment/web in shop: others keep changing it"), "{failure}");
        assert_eq!(asked.lock().unwrap().len(), 2 * ATTEMPTS);
    }

    #[tokio::test]
    async fn what_is_gone_needs_no_change() {
        let (cluster, _) = cluster(vec![(409, refusal(409)), (404, refusal(404))]);
        assert!(change(&cluster, target().resource, &object("1", 1), &decide).await.unwrap().is_none());
        assert_eq!(decided(&target(), None).unwrap_err().exit, Exit::NoInput);
    }
}
