//! Whether it works: an annotated Deployment, in a dry run, must come back with a sidecar.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;
use whichpod_injection::is_injected;
use whichpod_runtime::exit::Exit;

use crate::cluster::request::{self, Failed, Reason};
use crate::command::Verdict;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Tries, and again for as long as `patience` lasts: the API server and kube-proxy hear of a webhook that is ready a moment
/// later, and until then a workload may pass without it.
pub(super) async fn run(client: &Client, namespace: &str, patience: Duration) -> Result<Verdict, Failed> {
    until_it_works(patience, async || once(client, namespace).await).await
}

async fn until_it_works(
    patience: Duration,
    attempt: impl AsyncFn() -> Result<Verdict, Failed>,
) -> Result<Verdict, Failed> {
    let started = Instant::now();
    loop {
        let verdict = attempt().await;
        if started.elapsed() >= patience || verdict.as_ref().is_ok_and(|verdict| verdict.exit == Exit::Ok) {
            return verdict;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn once(client: &Client, namespace: &str) -> Result<Verdict, Failed> {
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
    use std::cell::Cell;
    use whichpod_injection::{Facts, Operation, Options, Request, admit};

    #[tokio::test(start_paused = true)]
    async fn an_installation_is_over_when_a_sidecar_comes_and_fails_when_none_does() {
        let attempts = Cell::new(0);
        let tried = async |works_at: u32| {
            attempts.set(attempts.get() + 1);
            if attempts.get() == 1 {
                // As long as nobody answers and the policy is Fail.
                let reason = Reason::Refused { code: 500, message: "no endpoints".to_owned() };
                return Err(Failed { what: "creating".to_owned(), reason });
            }
            let exit = if attempts.get() >= works_at { Exit::Ok } else { Exit::Unavailable };
            Ok(Verdict { text: String::new(), exit })
        };
        let patience = Duration::from_secs(240);
        assert_eq!(until_it_works(patience, async || tried(5).await).await.unwrap().exit, Exit::Ok);
        assert_eq!(attempts.replace(0), 5);
        let started = Instant::now();
        let verdict = until_it_works(patience, async || tried(u32::MAX).await).await.unwrap();
        assert_eq!((verdict.exit, started.elapsed()), (Exit::Unavailable, patience));
        attempts.set(0);
        assert!(until_it_works(Duration::ZERO, async || tried(2).await).await.is_err(), "one attempt");
    }

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
