//! Change without loss: well-behaved apps are scaled, rolled and deleted under load, the webhook is rolled, CoreDNS is
//! away and the API server is restarted. whichpod may add no failure, and every line must name the pod that answered.
#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, reason = "the helpers are part of a test too")]

#[path = "change/journal.rs"]
mod journal;
#[path = "change/load.rs"]
mod load;

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use whichpod_cluster::{Client, Component, Dns, Node, images, wait_for};

use common::explain::OnFailure;
use common::{PATIENCE, backend, list, nginx, pods, relay, rolled_out, service, whichpod};
use journal::Journal;
use load::{Done, Load, Tally};

/// What the tests ask of: two callers with a sidecar, and one without for comparison, each by its Service's virtual IP.
const WITH_SIDECAR: [&str; 2] = ["nginx-test", "orders"];
const CONTROL: &str = "plain-orders";
/// Requests a second to each caller.
const RATE: u32 = 130;
const AT_LEAST: usize = 50_000;
/// Everything takes less than this.
const MONTH: Duration = Duration::from_secs(20 * 60);
/// How long DNS is away.
const OUTAGE: Duration = Duration::from_secs(60);
/// An unanswered question is asked again after this long at the latest.
const BACK: Duration = Duration::from_secs(10);
/// A pod that is to end answers for so long: endpoints, kube-proxy and DNS answers lag behind.
const PAUSE: u32 = 10;

/// As a good app does: it goes on for a while when it is to end, then finishes what runs.
fn well_behaved(mut deployment: Value) -> Value {
    let pod = &mut deployment["spec"]["template"]["spec"];
    pod["terminationGracePeriodSeconds"] = json!(40);
    pod["containers"][0]["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": PAUSE } } });
    deployment["spec"]["strategy"] = json!({ "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } });
    deployment
}

fn called_relay(name: &str) -> Vec<Value> {
    let ports = json!({ "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] });
    vec![relay(name, "backend-service:10000"), service(name, name, &ports)]
}

fn objects() -> Value {
    let mut objects =
        vec![backend("Deployment", "backend"), service("backend-service", "backend", &json!({}))];
    let mut callers: Vec<_> = nginx::objects("nginx-test", "backend-service:10000");
    callers.extend(called_relay("orders"));
    for caller in &mut callers {
        caller["metadata"]["annotations"]["whichpod.io/upstreams"] = json!("backend-service:10000");
    }
    objects.extend(callers);
    objects.extend(called_relay(CONTROL));
    for deployment in objects.iter_mut().filter(|object| object["kind"] == "Deployment") {
        *deployment = well_behaved(deployment.take());
        if deployment["metadata"]["name"] != "backend" {
            deployment["spec"]["replicas"] = json!(2);
        }
    }
    list(&objects)
}

/// Everything that happens in an ordinary month, within minutes.
fn change(node: &mut Node, here: &str) -> Done {
    let started = Instant::now();
    let client = node.client().clone();
    let run = |words: &[&str]| client.run(&[words, &["-n", here]].concat()).unwrap();
    let settled = |deployment: &str| rolled_out(&client, here, &format!("deployment/{deployment}"));
    let restart = |deployment: &str| {
        run(&["rollout", "restart", &format!("deployment/{deployment}")]);
        settled(deployment);
    };
    let mut forced = BTreeSet::new();

    for replicas in ["5", "1", "3"] {
        step(&format!("scale to {replicas}"));
        run(&["scale", "deployment/backend", &format!("--replicas={replicas}")]);
        settled("backend");
    }
    step("delete a pod");
    run(&["delete", "pod", &first_pod(&client, here), "--wait=false"]);
    settled("backend");
    step("delete a pod by force");
    let victim = first_pod(&client, here);
    run(&["delete", "pod", &victim, "--force", "--grace-period=0"]);
    forced.insert(victim);
    settled("backend");
    for round in 1..=3 {
        step(&format!("roll the backend ({round})"));
        restart("backend");
        if round < 3 {
            step(&format!("roll the callers ({round})"));
            for caller in WITH_SIDECAR.into_iter().chain([CONTROL]) {
                run(&["rollout", "restart", &format!("deployment/{caller}")]);
            }
            for caller in WITH_SIDECAR.into_iter().chain([CONTROL]) {
                settled(caller);
            }
        }
    }
    step("roll the webhook");
    client.run(&["rollout", "restart", "deployment/whichpod", "-n", whichpod::NAMESPACE]).unwrap();
    client.rolled_out(whichpod::NAMESPACE, "whichpod").unwrap();
    step("restart the API server");
    node.restart(Component::ApiServer).unwrap();
    step("stop CoreDNS for a while");
    let away = Instant::now();
    node.without(Component::Dns, |_| rest(OUTAGE)).unwrap();
    // Names come back with the next answer.
    let without_dns = away..Instant::now() + BACK;
    step("roll the backend once more");
    restart("backend");
    Done { started, forced, without_dns }
}

fn first_pod(client: &Client, here: &str) -> String {
    pods(client, here).0.pop_first().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "how long something is away is what is tested")]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

#[expect(clippy::print_stderr, reason = "where it was when something failed")]
fn step(what: &str) {
    eprintln!("{what}");
}

#[test]
fn change_costs_no_request_and_no_line_is_wrong() {
    let mut node = Node::start_own().unwrap();
    node.set_dns(Dns { pod_names: true, ttl: 5 }).unwrap();
    let client = node.client().clone();
    for image in images::all().unwrap() {
        client.import(|| Ok(image)).unwrap();
    }
    whichpod::install(&client, &[]);
    let namespace = client.namespace("change").unwrap();
    let here = namespace.name();
    let _explain = OnFailure::of(&client, &[here, whichpod::NAMESPACE]);
    client.pipe(&["apply", "-n", here, "-f", "-"], &objects().to_string()).unwrap();
    for deployment in ["backend", CONTROL].into_iter().chain(WITH_SIDECAR) {
        rolled_out(&client, here, &format!("deployment/{deployment}"));
    }
    // Before the load: the twin is there, and every caller's sidecar has heard of it.
    client.wait(&["-n", here, "--for=create", "service/backend-service-whichpod"]).unwrap();

    let journal = Journal::begin(&node, here).unwrap();
    let load = Load::start(&client, here, &[WITH_SIDECAR.as_slice(), &[CONTROL]].concat(), RATE);
    let done = change(&mut node, here);
    wait_for("enough requests", MONTH, || Ok((load.sent(&WITH_SIDECAR) >= AT_LEAST).then_some(()))).unwrap();
    let sent = load.stop();
    let took = done.started.elapsed();

    let tally = || Tally::of(&sent, &WITH_SIDECAR, &journal.read().unwrap(), &done);
    // The last lines come a moment after the last answer.
    let _ = wait_for("the last lines", PATIENCE, || Ok(tally().is_complete().then_some(())));
    let ours = tally();
    let control = Tally::of(&sent, &[CONTROL], &journal.read().unwrap(), &done);
    step(&format!("within {took:.0?}, with whichpod: {ours}"));
    step(&format!("without: {} of {} requests failed", control.failed(), control.requests()));
    assert!(ours.is_flawless(), "with whichpod: {ours}\n{}", ours.details());
    let rate = ours.requests() as f64 / took.as_secs_f64();
    assert!(rate >= 200.0, "only {rate:.0} requests a second were made");
}
