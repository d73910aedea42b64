//! Whether it works: an annotated Deployment, in a dry run, must come back with a sidecar.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use whichpod_injection::is_injected;
use whichpod_runtime::exit::Exit;

use crate::cluster::request::{self, Failed, Reason};
use crate::command::Verdict;

pub(super) async fn run(client: &Client, namespace: &str) -> Result<Verdict, Failed> {
    let resource = ApiResource::erase::<Deployment>(&());
    let deployments = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
    let what = || format!("creating a Deployment in namespace {namespace}, in a dry run");
    let invalid =
        |error: serde_json::Error| Failed { what: what(), reason: Reason::Invalid(error.to_string()) };
    let deployment: DynamicObject = serde_json::from_value(deployment()).map_err(invalid)?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let created = request::get(what, deployments.create(&dry_run, &deployment)).await?;
    Ok(verdict(&serde_json::to_value(created).map_err(invalid)?, namespace))
}

/// Passes the Pod Security Standard `restricted`, as its sidecar must.
fn deployment() -> Value {
    let labels = json!({ "app": "whichpod-test" });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "whichpod-test", "annotations": { "whichpod.io/upstreams": "whichpod-test:80" } },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [{
                        "name": "app", "image": "whichpod-test",
                        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                    }],
                },
            },
        },
    })
}

fn verdict(created: &Value, namespace: &str) -> Verdict {
    if is_injected(created) {
        return Verdict { text: "an annotated Deployment gets its sidecar".to_owned(), exit: Exit::Ok };
    }
    let text = format!(
        "An annotated Deployment in namespace {namespace} got no sidecar. Either the API server does not reach the webhook (see \
         its metric apiserver_admission_webhook_fail_open_count, and whether a firewall lets the control plane reach the \
         webhook's port), or the namespace is protected or labelled whichpod.io/injection: disabled (see the webhook's log)."
    );
    Verdict { text, exit: Exit::Unavailable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use whichpod_injection::{Facts, Operation, Options, Request, admit};

    #[test]
    fn the_trial_passes_with_a_webhook_and_fails_without() {
        let mut object = deployment();
        assert_eq!(verdict(&object, "a").exit, Exit::Unavailable);
        let request = Request {
            operation: Operation::Create,
            namespace: "a",
            object: &deployment(),
            old_object: None,
            subresource: None,
            recompute: false,
        };
        let options =
            Options { headless_services: whichpod_injection::HeadlessServices::Deny, ..Options::default() };
        json_patch::patch(&mut object, &admit(&request, &Facts::complete(), &options).patch).unwrap();
        assert_eq!(verdict(&object, "a").exit, Exit::Ok);
    }
}
