//! Pods that stop at once: nginx as backend ends its connections on SIGTERM, without a preStop pause, while the
//! Deployment is scaled and rolled under load. Not a request may fail, and every line must name the pod that answered.
#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, reason = "the helpers are part of a test too")]

mod common;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::Scenario;
use common::nginx::Nginx;
use serde_json::json;
use whichpod_cluster::{Client, Dns, Node, http_get, images};

const CALLERS: u32 = 4;
const REQUESTS_PER_SECOND: u32 = 200;
/// How long the changes are spread over.
const LONG: Duration = Duration::from_secs(65);

/// Replaces the well-behaved backend by one that stops at once.
fn stop_at_once(scenario: &Scenario) {
    let here = scenario.namespace.name();
    let configuration = "events {} http { access_log off;
        server { listen 10000; location / { return 200 \"i am backend in $hostname\\n\"; } } }";
    let objects = json!({
        "apiVersion": "v1", "kind": "List",
        "items": [
            {
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "abrupt" },
                "data": { "nginx.conf": configuration },
            },
            {
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "backend" },
                "spec": {
                    "replicas": 2,
                    "selector": { "matchLabels": { "app": "backend" } },
                    "template": {
                        "metadata": { "labels": { "app": "backend" } },
                        "spec": {
                            "terminationGracePeriodSeconds": 5,
                            "volumes": [{ "name": "configuration", "configMap": { "name": "abrupt" } }],
                            "containers": [{
                                "name": "backend", "image": images::NGINX, "imagePullPolicy": "Never",
                                "ports": [{ "containerPort": 10000 }],
                                "volumeMounts": [{
                                    "name": "configuration", "mountPath": "/etc/nginx/nginx.conf",
                                    "subPath": "nginx.conf",
                                }],
                                "readinessProbe": {
                                    "httpGet": { "path": "/", "port": 10000 }, "periodSeconds": 1,
                                },
                            }],
                        },
                    },
                },
            },
        ],
    });
    scenario.client.pipe(&["apply", "-n", here, "-f", "-"], &objects.to_string()).unwrap();
    scenario.client.rolled_out(here, "backend").unwrap();
}

/// Sends numbered requests at a steady rate until `done`; gives the pod that answered each, and what failed.
fn call(address: SocketAddr, next: &AtomicU64, done: &AtomicBool) -> (HashMap<u64, String>, Vec<String>) {
    let (mut answers, mut failures) = (HashMap::new(), Vec::new());
    let pause = Duration::from_secs(1) * CALLERS / REQUESTS_PER_SECOND;
    let mut due = Instant::now();
    while !done.load(Relaxed) {
        let id = next.fetch_add(1, Relaxed);
        match http_get(address, &format!("/test?id={id}")) {
            Ok(answer) if answer.status == 200 => {
                answers.insert(id, answer.body.trim().replace("i am backend in ", ""));
            }
            Ok(answer) => failures.push(format!("request {id}: {} {}", answer.status, answer.body)),
            Err(error) => failures.push(format!("request {id}: {error:#}")),
        }
        due += pause;
        #[expect(clippy::disallowed_methods, reason = "a steady rate is what is wanted here")]
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    (answers, failures)
}

/// 2 → 5 → 1 → 3 pods and two rolling updates, spread evenly.
fn change(client: &Client, namespace: &str) {
    let steps: [&[&str]; 5] = [
        &["scale", "deployment/backend", "--replicas=5"],
        &["rollout", "restart", "deployment/backend"],
        &["scale", "deployment/backend", "--replicas=1"],
        &["scale", "deployment/backend", "--replicas=3"],
        &["rollout", "restart", "deployment/backend"],
    ];
    let started = Instant::now();
    let each = LONG / u32::try_from(steps.len()).unwrap();
    for (step, number) in steps.iter().zip(1..) {
        client.run(&[step, ["-n", namespace].as_slice()].concat()).unwrap();
        client.rolled_out(namespace, "backend").unwrap();
        #[expect(clippy::disallowed_methods, reason = "the load has to meet every state for a while")]
        std::thread::sleep((started + each * number).saturating_duration_since(Instant::now()));
    }
}

#[test]
fn pods_that_stop_at_once_cost_no_request_and_no_line_is_wrong() {
    let mut node = Node::start_own().unwrap();
    node.set_dns(Dns { pod_names: true, ttl: 5 }).unwrap();
    let scenario = Scenario::start(node.client());
    let nginx = Nginx::start(&scenario, "backend-service:10000");
    stop_at_once(&scenario);
    // Four of five pods end at the same moment, and each may take connections and reset them in its last milliseconds: so
    // many in a row may meet a request, and the default is two attempts more.
    nginx.patch("backend-headless:http", &json!({ "attempts": 5 }));
    let (address, next, done) = (nginx.address(), AtomicU64::new(0), AtomicBool::new(false));
    let results = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| scope.spawn(|| scenario.client.inside(|| call(address, &next, &done)).unwrap()))
            .collect();
        change(&scenario.client, scenario.namespace.name());
        done.store(true, Relaxed);
        callers.into_iter().map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    let (answers, failures): (Vec<_>, Vec<_>) = results.into_iter().unzip();
    let answers: HashMap<_, _> = answers.into_iter().flatten().collect();
    let failures: Vec<_> = failures.into_iter().flatten().collect();
    assert!(answers.len() > 10_000, "only {} requests were made", answers.len());
    assert!(
        failures.is_empty(),
        "{} of {} failed: {failures:?}\n{}",
        failures.len(),
        answers.len(),
        not_ok(&scenario.log("deploy/nginx-test"))
    );
    let log = scenario.logged("deploy/nginx-test", "whichpod", "line for each answer", |log| {
        (about_requests(log).count() >= answers.len()).then(|| log.to_owned())
    });

    let mut lines = 0;
    for line in about_requests(&log) {
        let id: u64 =
            line.split("?id=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
        let logged = line.rsplit(' ').nth(2).unwrap();
        let answered = &answers[&id];
        assert!(logged == answered || logged == "-", "{answered} answered, and the line says: {line}");
        lines += 1;
    }
    assert_eq!(lines, answers.len(), "one line for each request");
    let unnamed =
        log.lines().filter(|line| line.contains("?id=") && line.rsplit(' ').nth(2) == Some("-")).count();
    assert!(unnamed * 100 < lines, "{unnamed} of {lines} lines have no name, although DNS tells it");
}

fn about_requests(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|line| line.contains("\"GET /test?id="))
}

/// The lines and diagnostics that explain a failure.
fn not_ok(log: &str) -> String {
    let wanted = |line: &&str| !line.contains("\" 200 ");
    log.lines().filter(wanted).take(50).collect::<Vec<_>>().join("\n")
}
