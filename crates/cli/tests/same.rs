//! By hand and by the webhook: the same bytes, on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod command;

use command::whichpod_with;
use serde_json::{Value, json};
use whichpod_tests_admission::{Installation, User, backend, deployment, service, sidecar};

const UPSTREAMS: &str = "whichpod.io/upstreams";

/// The pod template.
fn template(object: &Value) -> Value {
    match object["kind"].as_str().unwrap() {
        "CronJob" => object["spec"]["jobTemplate"]["spec"]["template"].clone(),
        _ => object["spec"]["template"].clone(),
    }
}

#[test]
fn what_inject_prints_is_what_the_webhook_would_make_of_it_to_the_byte() {
    let installation = Installation::new("same").unwrap();
    let _replica = installation.start(&[]).unwrap();
    let user = User::new(&installation, "same").unwrap();
    user.serve(&service("users", &json!([{ "name": "http", "port": 8080 }]))).unwrap();
    user.serve(&backend()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // The webhook is registered by its address here, so its options cannot be looked up.
    std::fs::write(folder.path().join("options.yaml"), "image: whichpod-sidecar:test\n").unwrap();
    let by_hand = |object: &Value, flags: &[&str]| -> Value {
        let kubeconfig = installation.client().kubeconfig().to_str().unwrap();
        let base =
            ["inject", "-f", "-", "-o", "json", "--options", "options.yaml", "--kubeconfig", kubeconfig];
        let arguments = [base.as_slice(), &["-n", user.name()], flags].concat();
        let ran = whichpod_with(folder.path(), &arguments, &object.to_string());
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.json()
    };

    let with_env = |annotations: &Value| {
        let mut object = deployment(annotations);
        object["spec"]["template"]["spec"]["containers"][0]["env"] =
            json!([{ "name": "URL", "value": "http://backend-service:10000" }]);
        object
    };
    let cron_job = |annotations: &Value| {
        json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "app", "annotations": annotations },
            "spec": { "schedule": "0 0 1 1 *", "jobTemplate": { "spec": { "template": {
                "metadata": { "labels": { "app": "app" } },
                "spec": { "restartPolicy": "Never", "containers": [{ "name": "app", "image": "example.test/app" }] },
            } } } },
        })
    };
    let names = json!({ UPSTREAMS: "backend-service:10000, users:8080" });
    let env = json!({ UPSTREAMS: "backend-service:10000", "whichpod.io/redirect": "env" });
    let upstreams = ["--upstream", "backend-service:10000", "--upstream", "users:8080"];
    // What the webhook is given; what is given to the command, with which flags.
    let cases: [(Value, Value, &[&str]); 5] = [
        (deployment(&names), deployment(&names), &[]),
        (deployment(&names), deployment(&json!({})), &upstreams),
        (with_env(&env), with_env(&env), &[]),
        (with_env(&env), with_env(&json!({})), &["--upstream", "backend-service:10000", "--redirect", "env"]),
        (cron_job(&names), cron_job(&json!({})), &upstreams),
    ];
    for (annotated, given, flags) in cases {
        let (webhooks, _) = user.dry_run(&annotated).unwrap();
        let printed = by_hand(&given, flags);
        let (ours, told) = user.dry_run(&printed).unwrap();
        assert!(told.is_empty(), "{told}");
        assert_eq!(template(&ours).to_string(), template(&webhooks).to_string(), "{flags:?}");
        let of = |object: &Value| template(object)["spec"].clone();
        assert_eq!(sidecar(&of(&ours)), sidecar(&of(&printed)), "the API server adds nothing to it");
    }
}
