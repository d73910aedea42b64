//! The scenario that everything is judged by: before, one command, one annotation, after.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use whichpod_cluster::wait_for;

use crate::common::nginx::Nginx;
use crate::common::whichpod::{self, Line};
use crate::common::{PATIENCE, Scenario, pods};
use crate::stage::Stage;

/// From `helm install` to the first line that shows a pod.
const A_MINUTE: Duration = Duration::from_secs(60);
const NGINX: &str = "deploy/nginx-test";

#[test]
fn one_annotation_shows_the_pods_within_a_minute_of_the_installation() {
    let stage = Stage::shared();
    let mut as_usual = stage.alone();
    *as_usual = false;
    whichpod::uninstall(stage.client());
    let scenario = Scenario::without_headless(stage.client());
    let nginx = Nginx::start(&scenario, "backend-service:10000");
    let virtual_ip = scenario.cluster_ip().to_string();

    nginx.ask(4);
    assert_eq!(nginx.own_lines(&format!("/test 200 {virtual_ip}\n"), 4), 4, "asked four times");
    let configuration = scenario.get(&["configmap", "nginx-test"]);

    let started = Instant::now();
    whichpod::install(stage.client(), &[]);
    let installed = started.elapsed();
    scenario.kubectl(&["annotate", "deployment/nginx-test", "whichpod.io/upstreams=backend-service:10000"]);
    scenario.rolled_out("deployment/nginx-test");
    first_pod(&scenario, &nginx);
    let first = started.elapsed();
    tell(&format!(
        "whichpod was installed in {installed:.1?}; the first line showed a pod after {first:.1?}"
    ));
    assert!(first <= A_MINUTE, "it took {first:?}");

    let (answered, lines) = ask(&scenario, &nginx, 6);
    let shown: BTreeSet<_> = lines.iter().map(|line| line.upstream.clone()).collect();
    assert_eq!(shown, scenario.endpoints(), "{lines:?}");
    assert!(lines.windows(2).all(|two| two[0].upstream != two[1].upstream), "not alternating: {lines:?}");
    assert!(answered.windows(2).all(|two| two[0] != two[1]), "not alternating: {answered:?}");
    assert_eq!(
        scenario.get(&["configmap", "nginx-test"]),
        configuration,
        "nginx's configuration is untouched"
    );
    // nginx calls the same name, which is the sidecar now.
    nginx.own_lines("/test 200 127.77.", 1);
    scenario.names_are_right(&answered, &lines);

    // What README.md tells people to apply.
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/scenario.yaml");
    scenario.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", manifest]);

    scenario.kubectl(&["scale", "deployment/backend", "--replicas=3"]);
    scenario.rolled_out("deployment/backend");
    let (_, now) = pods(&scenario.client, scenario.here());
    let now: BTreeSet<_> = now.iter().map(|address| format!("{address}:10000")).collect();
    wait_for("the log to follow the new pod", PATIENCE, || {
        let (_, lines) = ask(&scenario, &nginx, 6);
        assert!(lines.iter().all(|line| line.status == "200"), "{lines:?}");
        Ok((lines.iter().map(|line| line.upstream.clone()).collect::<BTreeSet<_>>() == now).then_some(()))
    })
    .unwrap();

    stage.client().helm(&["test", "whichpod", "-n", whichpod::NAMESPACE]).unwrap();
    uninstalled_as_told(&stage, &scenario, &nginx);
}

/// An uninstall names what still has a sidecar; taken out, nginx goes on as before.
fn uninstalled_as_told(stage: &Stage, scenario: &Scenario, nginx: &Nginx<'_>) {
    let uninstall = ["uninstall", "whichpod", "-n", whichpod::NAMESPACE, "--wait"];
    assert!(stage.client().helm(&uninstall).is_err(), "while a sidecar is left");
    let logs = ["logs", "job/whichpod-pre-delete", "-n", whichpod::NAMESPACE];
    let left = stage.client().run(&logs).unwrap();
    assert!(left.contains(&format!("deployment/nginx-test in {}", scenario.here())), "{left}");

    let done = stage.client().whichpod(&["uninject", "-n", scenario.here(), "--apply"]).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    scenario.rolled_out("deployment/nginx-test");
    assert!(!scenario.has_sidecar(&["deployment/nginx-test"]));
    nginx.ask(2);
    nginx.own_lines(&format!("/test 200 {}\n", scenario.cluster_ip()), 1);
    if stage.client().is_foreign() {
        // Whoever else has a sidecar there keeps it.
        return whichpod::uninstall(stage.client());
    }
    // Pods of namespaces that are on their way out may still be there for a moment.
    wait_for("a clean uninstall", PATIENCE, || Ok(stage.client().helm(&uninstall).ok())).unwrap();
}

/// Asks until the log shows a pod: the headless twin is made when the first pod asks for it.
fn first_pod(scenario: &Scenario, nginx: &Nginx<'_>) {
    let endpoints = scenario.endpoints();
    wait_for("a line that shows a pod", PATIENCE, || {
        let (_, lines) = ask(scenario, nginx, 1);
        assert!(lines.iter().all(|line| line.status == "200"), "{lines:?}");
        Ok(lines.iter().any(|line| endpoints.contains(&line.upstream)).then_some(()))
    })
    .unwrap();
}

/// Asks so often; gives the pods that answered, and the lines about these requests.
pub fn ask(scenario: &Scenario, nginx: &Nginx<'_>, times: usize) -> (Vec<String>, Vec<Line>) {
    scenario.asked(NGINX, &format!("http://{}/test", nginx.address()), times)
}

/// A measurement that is to be seen, also of a test that passes.
fn tell(what: &str) {
    std::io::stderr().write_all(format!("{what}\n").as_bytes()).unwrap();
}
