//! A native sidecar is there before the app and after it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::json;
use whichpod_cluster::{images, wait_for};

use crate::common::whichpod::Line;
use crate::common::{PATIENCE, Scenario};
use crate::stage::Stage;

/// Calls the backend as its first act, and as its last, when it is told to end.
const APP: &str = "
    ask() { wget -q -O - http://backend-service:10000/$1 || echo $1 failed; }
    trap 'ask last; exit 0' TERM
    ask first
    while :; do sleep 1000 & wait; done";

#[test]
fn the_first_request_of_an_app_goes_through_and_so_does_its_last() {
    let stage = Stage::shared();
    let _installed = stage.installed();
    let scenario = Scenario::start(stage.client());
    scenario.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "app", "annotations": { "whichpod.io/upstreams": "backend-service:10000" } },
        "spec": {
            "terminationGracePeriodSeconds": 30,
            "containers": [{
                "name": "app", "image": images::APP, "imagePullPolicy": "Never", "command": ["sh", "-c", APP],
            }],
        },
    }));
    scenario.client.wait(&["-n", scenario.here(), "--for=condition=Ready", "pod/app"]).unwrap();
    assert_eq!(scenario.get(&["pod/app"])["spec"]["initContainers"][0]["restartPolicy"], "Always");
    let first = scenario.lines("pod/app", "/first", 1);
    assert_eq!(first.len(), 1, "the app asked once: {first:?}");
    went_through(&scenario, &first[0]);
    scenario.logged("app", "app", "answer", |log| log.starts_with("i am backend in ").then_some(()));

    // The pod's logs go with the pod.
    let (mut app, mut sidecar) = (follow(&scenario, "app"), follow(&scenario, "whichpod"));
    scenario.kubectl(&["delete", "pod", "app", "--wait=true"]);
    let (app, sidecar) = (app.rest(), sidecar.rest());
    assert!(app.lines().count() == 1 && app.starts_with("i am backend in "), "{app}");
    let last = sidecar.lines().filter_map(Line::parse).find(|line| line.request.contains(" /last "));
    went_through(&scenario, &last.unwrap_or_else(|| panic!("no line about the last request:\n{sidecar}")));

    for path in ["/first", "/last"] {
        let asked = format!(" GET {path} ");
        let logs: String = scenario.names.iter().map(|pod| scenario.kubectl(&["logs", pod])).collect();
        assert_eq!(logs.matches(&asked).count(), 1, "{logs}");
    }
}

fn went_through(scenario: &Scenario, line: &Line) {
    assert_eq!(line.status, "200", "{line:?}");
    assert!(scenario.endpoints().contains(&line.upstream), "{line:?}");
}

/// What a container writes after its first line.
struct Followed {
    kubectl: Child,
    output: BufReader<ChildStdout>,
}

/// Follows the log of this container of the app's pod, and has seen its first line.
fn follow(scenario: &Scenario, container: &str) -> Followed {
    let logs = ["logs", "-f", "app", "-c", container, "-n", scenario.here()];
    let mut kubectl = scenario.client.kubectl_command(&logs).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(kubectl.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    Followed { kubectl, output }
}

impl Followed {
    /// All that comes, to its end.
    fn rest(&mut self) -> String {
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        wait_for("the end of kubectl logs", PATIENCE, || Ok(self.kubectl.try_wait()?)).unwrap();
        text
    }
}
