//! Every kind of workload, and who gets a sidecar.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use whichpod_cluster::{images, wait_for};

use crate::common::whichpod::has_sidecar;
use crate::common::{PATIENCE, Scenario, annotated, backend, list, pods_of, relay, service, workload};
use crate::stage::Stage;

const UPSTREAMS: &str = "whichpod.io/upstreams";

/// A pod that calls the backend three times and is done.
fn errand() -> Value {
    let script = "for i in 1 2 3; do wget -q -O - http://backend-service:10000/errand || exit 1; done";
    json!({
        "restartPolicy": "Never",
        "containers": [{
            "name": "errand", "image": images::APP, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
        }],
    })
}

impl Scenario {
    /// The errand's pod has ended well, sidecar and all, and the log names the pods that it met.
    fn errand_is_done(&self, job: &str) {
        self.client.wait(&["-n", self.here(), "--for=condition=Complete", job]).unwrap();
        assert!(self.has_sidecar(&[job]), "{job}");
        let lines = self.lines(job, "/errand", 3);
        let endpoints = self.endpoints();
        assert!(
            lines.iter().all(|line| line.status == "200" && endpoints.contains(&line.upstream)),
            "{lines:?}"
        );
        let answered = self.kubectl(&["logs", job, "-c", "errand"]);
        assert_eq!(answered.matches("i am backend in ").count(), 3, "{answered}");
    }
}

#[test]
fn a_service_that_calls_another_is_logged_without_an_ingress() {
    let stage = Stage::shared();
    let _installed = stage.installed();
    let scenario = Scenario::start(stage.client());
    scenario.apply(&annotated(relay("orders", "backend-service:10000"), UPSTREAMS, "backend-service:10000"));
    scenario.rolled_out("deployment/orders");
    // Over one connection that the app keeps: it is each request that gets its pod.
    let lines = scenario.asked_through("orders", 6);
    assert!(lines.windows(2).all(|two| two[0].upstream != two[1].upstream), "{lines:?}");
}

#[test]
fn a_labelled_namespace_gets_sidecars_and_who_opts_out_gets_none() {
    let stage = Stage::shared();
    let _installed = stage.installed();
    let scenario = Scenario::start(stage.client());
    stage.client().run(&["label", "namespace", scenario.here(), "whichpod.io/injection=enabled"]).unwrap();
    // The API server and the webhook hear of the label a moment later.
    let probe = ["run", "probe", "--image=example.test/probe", "--dry-run=server", "-o", "json"];
    wait_for("the label to count", PATIENCE, || {
        Ok(has_sidecar(&serde_json::from_str(&scenario.kubectl(&probe))?).then_some(()))
    })
    .unwrap();
    let out = annotated(relay("loner", "backend-service:10000"), "whichpod.io/inject", "false");
    scenario.apply(&list(&[relay("orders", "backend-service:10000"), out]));
    scenario.rolled_out("deployment/orders");
    scenario.rolled_out("deployment/loner");

    scenario.asked_through("orders", 4);
    let (loner, address) = pods_of(&scenario.client, scenario.here(), "loner").remove(0);
    assert!(!scenario.has_sidecar(&["pod", &loner]));
    assert_eq!(scenario.ask(&format!("http://{address}:8080/test"), 2).len(), 2, "it works as before");
}

#[test]
fn a_pod_that_nobody_owns_gets_a_sidecar() {
    let stage = Stage::shared();
    let _installed = stage.installed();
    let scenario = Scenario::start(stage.client());
    let spec = relay("alone", "backend-service:10000")["spec"]["template"]["spec"].clone();
    let metadata = json!({ "name": "alone", "labels": { "app": "alone" } });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
    scenario.apply(&annotated(pod, UPSTREAMS, "backend-service:10000"));
    scenario.client.wait(&["-n", scenario.here(), "--for=condition=Ready", "pod/alone"]).unwrap();
    scenario.asked_through("alone", 4);
}

#[test]
fn a_job_ends_although_it_has_a_sidecar() {
    let stage = Stage::shared();
    let _installed = stage.installed();
    let scenario = Scenario::start(stage.client());
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "errand" },
        "spec": { "backoffLimit": 0, "template": { "spec": errand() } },
    });
    scenario.apply(&annotated(job, UPSTREAMS, "backend-service:10000"));
    scenario.errand_is_done("job/errand");
}

#[test]
fn the_jobs_of_a_cron_job_end_although_they_have_a_sidecar() {
    let stage = Stage::shared();
    let _installed = stage.installed();
    let scenario = Scenario::start(stage.client());
    let template = json!({ "spec": { "backoffLimit": 0, "template": { "spec": errand() } } });
    let cron_job = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "errands" },
        "spec": { "schedule": "0 0 1 1 *", "jobTemplate": template },
    });
    scenario.apply(&annotated(cron_job, UPSTREAMS, "backend-service:10000"));
    // As the controller does when the time has come.
    scenario.kubectl(&["create", "job", "errand", "--from=cronjob/errands"]);
    scenario.errand_is_done("job/errand");
}

#[test]
fn the_pods_of_a_stateful_set_are_logged_by_their_names() {
    let stage = Stage::shared();
    let _installed = stage.installed();
    let scenario = Scenario::start(stage.client());
    let mut shop = backend("StatefulSet", "shop");
    shop["spec"]["serviceName"] = json!("shop-pods");
    let services =
        [service("shop", "shop", &json!({})), service("shop-pods", "shop", &json!({ "clusterIP": "None" }))];
    scenario.apply(&list(&[services.as_slice(), &[shop]].concat()));
    scenario.rolled_out("statefulset/shop");
    scenario.apply(&annotated(relay("orders", "shop:10000"), UPSTREAMS, "shop:10000"));
    scenario.rolled_out("deployment/orders");

    let (orders, address) = pods_of(&scenario.client, scenario.here(), "orders").remove(0);
    let answered = scenario.ask(&format!("http://{address}:8080/test"), 4);
    let lines = scenario.lines(&format!("pod/{orders}"), "/test", 4);
    let named: Vec<_> = lines.iter().map(|line| line.pod.clone()).collect();
    assert_eq!(named, answered, "{lines:?}");
    let addresses = pods_of(&scenario.client, scenario.here(), "shop");
    for line in &lines {
        let own = addresses.iter().find(|(name, _)| *name == line.pod).unwrap();
        assert_eq!(line.upstream, format!("{}:10000", own.1));
    }
}

#[test]
fn each_grpc_call_on_one_connection_gets_its_pod_and_a_line_that_names_it() {
    let stage = Stage::shared();
    let _installed = stage.installed();
    let scenario = Scenario::start(stage.client());
    // A StatefulSet, so that DNS tells the pods' names.
    let mut users = workload(
        "StatefulSet",
        "users",
        &json!({
            "command": ["/app", "grpc", "50051"],
            "ports": [{ "containerPort": 50051 }],
            "readinessProbe": { "tcpSocket": { "port": 50051 }, "periodSeconds": 1 },
        }),
    );
    users["spec"]["replicas"] = json!(3);
    users["spec"]["serviceName"] = json!("users");
    let ports = json!({ "clusterIP": "None", "ports": [{ "name": "grpc", "port": 50051 }] });
    scenario.apply(&list(&[service("users", "users", &ports), users]));
    scenario.rolled_out("statefulset/users");
    let caller = workload("Deployment", "front", &json!({ "command": ["sleep", "100000"] }));
    scenario.apply(&annotated(caller, UPSTREAMS, "users:50051"));
    scenario.rolled_out("deployment/front");

    let front = ["exec", "deploy/front", "-n", scenario.here(), "-c", "front", "--"];
    let calls = [front.as_slice(), &["/app", "ask-grpc", "users:50051", "9"]].concat();
    let path = "/whichpod.test.Backend/WhoAreYou";
    // CoreDNS hears of the last pod a moment after it is ready.
    let (answered, lines) = wait_for("answers of every pod", PATIENCE, || {
        let so_far = scenario.lines("deploy/front", path, 0).len();
        let answered: Vec<_> = scenario.client.run(&calls)?.lines().map(str::to_owned).collect();
        let lines = scenario.lines("deploy/front", path, so_far + 9).split_off(so_far);
        Ok((answered.iter().collect::<BTreeSet<_>>().len() == 3).then_some((answered, lines)))
    })
    .unwrap();
    let named: Vec<_> = lines.iter().map(|line| line.pod.clone()).collect();
    assert_eq!(named, answered, "{lines:?}");
    let addresses = pods_of(&scenario.client, scenario.here(), "users");
    for (name, address) in &addresses {
        let own = lines.iter().filter(|line| line.pod == *name).count();
        assert_eq!(own, 3, "each pod gets its share of one connection's calls: {lines:?}");
        let there = format!("{address}:50051");
        assert!(lines.iter().all(|line| (line.pod == *name) == (line.upstream == there)), "{lines:?}");
    }
    assert!(lines.iter().all(|line| line.request.ends_with("HTTP/2") && line.status == "200"), "{lines:?}");
}
