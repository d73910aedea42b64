//! What would be left behind: workloads with a sidecar, whose headless twins nobody would keep in step any more.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, ListParams};
use kube::{Api, Client};
use serde_json::Value;
use whichpod_injection::{is_injected, names};
use whichpod_runtime::exit::Exit;

use crate::cluster::list;
use crate::cluster::request::Failed;
use crate::command::Verdict;

pub(super) async fn look(client: &Client) -> Result<Verdict, Failed> {
    let mut left = Vec::new();
    for resource in [
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<StatefulSet>(&()),
        ApiResource::erase::<DaemonSet>(&()),
        ApiResource::erase::<ReplicaSet>(&()),
        ApiResource::erase::<CronJob>(&()),
        ApiResource::erase::<Job>(&()),
    ] {
        let all = Api::all_with(client.clone(), &resource);
        list::each(&all, &resource, ListParams::default(), |object| left.extend(line(object))).await?;
    }
    let resource = ApiResource::erase::<Pod>(&());
    let pods = Api::all_with(client.clone(), &resource);
    let marked = ListParams::default().labels(names::INJECTED_LABEL);
    list::each(&pods, &resource, marked, |pod| left.extend(line(pod))).await?;
    Ok(verdict(&left))
}

/// The line for an object that somebody would have to change: with a sidecar, and nobody's copy.
fn line(object: &Value) -> Option<String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let owned = owners.into_iter().flatten().any(|owner| owner["controller"] == true);
    if owned || !is_injected(object) {
        return None;
    }
    let kind = text("/kind")?.to_lowercase();
    Some(format!("{kind}/{} in {}", text("/metadata/name")?, text("/metadata/namespace")?))
}

fn verdict(left: &[String]) -> Verdict {
    if left.is_empty() {
        return Verdict { text: "no workload carries a sidecar of whichpod".to_owned(), exit: Exit::Ok };
    }
    let text = format!(
        "These workloads carry a sidecar of whichpod. They would go on working, but the headless Services that their sidecars \
         ask would no longer follow the Services they stand for.\n  {}\nTake the sidecars out first with `whichpod uninject --all \
         --apply`, or uninstall all the same with `helm uninstall --no-hooks`.",
        left.join("\n  ")
    );
    Verdict { text, exit: Exit::TempFail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use whichpod_injection::{Facts, Operation, Options, Request, admit};

    #[test]
    fn what_carries_a_sidecar_and_is_nobodys_copy_is_listed() {
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "namespace": "shop", "name": "nginx", "annotations": { "whichpod.io/upstreams": "web:80" } },
            "spec": { "template": { "metadata": {}, "spec": { "containers": [{ "name": "nginx" }] } } },
        });
        assert_eq!(line(&object), None);
        let before = object.clone();
        let request = Request {
            operation: Operation::Create,
            namespace: "shop",
            object: &before,
            old_object: None,
            subresource: None,
            recompute: false,
        };
        json_patch::patch(&mut object, &admit(&request, &Facts::unknown(), &Options::default()).patch)
            .unwrap();
        let listed = line(&object).unwrap();
        assert_eq!(listed, "deployment/nginx in shop");
        object["metadata"]["ownerReferences"] = json!([{ "controller": true }]);
        assert_eq!(line(&object), None, "its owner is listed");

        let verdict = verdict(&[listed]);
        assert_eq!(verdict.exit, Exit::TempFail);
        assert!(
            verdict.text.contains("\n  deployment/nginx in shop\n") && verdict.text.contains("--no-hooks")
        );
    }

    #[test]
    fn nothing_left_is_no_reason_to_fail() {
        assert_eq!(verdict(&[]).exit, Exit::Ok);
    }
}
