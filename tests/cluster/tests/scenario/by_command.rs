//! The command `whichpod patch`, instead of an annotation.

use crate::common::nginx::Nginx;
use crate::common::{Scenario, whichpod::has_sidecar};
use crate::installation::ask;
use crate::stage::Stage;

#[test]
fn a_command_puts_the_sidecar_in_and_another_takes_it_out_again() {
    let stage = Stage::shared();
    let _installed = stage.installed();
    let scenario = Scenario::start(stage.client());
    let nginx = Nginx::start(&scenario, "backend-service:10000");
    let before = scenario.get(&["deployment/nginx-test"]);

    let run = |words: &[&str]| {
        let done = stage.client().whichpod(&[words, &["-n", scenario.here()]].concat()).unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let patch = ["patch", "deploy/nginx-test", "--upstream", "backend-service:10000"];
    let printed = run(&patch);
    assert!(!has_sidecar(&scenario.get(&["deployment/nginx-test"])), "only printed");
    // The API server takes what was printed, and it is what --apply does.
    let dry =
        ["patch", "deployment/nginx-test", "--type=json", "--dry-run=server", "-o", "json", "-p", &printed];
    let tried: serde_json::Value = serde_json::from_str(&scenario.kubectl(&dry)).unwrap();
    run(&[patch.as_slice(), &["--apply"]].concat());
    let applied = scenario.get(&["deployment/nginx-test"]);
    assert_eq!(applied["spec"], tried["spec"]);

    scenario.rolled_out("deployment/nginx-test");
    let (answered, lines) = ask(&scenario, &nginx, 4);
    // There is a headless Service of the user's already, so that one is asked.
    scenario.names_are_right(&answered, &lines);

    run(&["uninject", "deploy/nginx-test", "--apply"]);
    scenario.rolled_out("deployment/nginx-test");
    assert_eq!(scenario.get(&["deployment/nginx-test"])["spec"], before["spec"], "as it was before");
}
