//! The mistake everybody makes first: a Service with a virtual IP, behind which the pods cannot be told apart.

use crate::common::nginx::Nginx;
use crate::common::{PATIENCE, Scenario, whichpod};
use crate::installation::ask;
use crate::stage::Stage;
use whichpod_cluster::wait_for;

const NGINX: &str = "deploy/nginx-test";

#[test]
fn the_virtual_ip_is_told_at_admission_and_in_the_log_and_a_twin_shows_the_pods() {
    let stage = Stage::shared();
    let mut as_usual = stage.alone();
    *as_usual = false;
    whichpod::install(stage.client(), &["headlessServices=warn"]);
    let scenario = Scenario::without_headless(stage.client());
    let nginx = Nginx::start(&scenario, "backend-service:10000");

    let annotate = ["annotate", "deployment/nginx-test", "whichpod.io/upstreams=backend-service:10000"];
    let warnings = scenario.warnings(&annotate);
    let told = "Warning: whichpod: Service backend-service has a virtual IP and no headless twin";
    assert!(warnings.contains(told) && warnings.contains("create one with clusterIP: None"), "{warnings}");
    scenario.rolled_out("deployment/nginx-test");
    let (_, lines) = ask(&scenario, &nginx, 4);
    let virtual_ip = scenario.cluster_ip().to_string();
    assert!(lines.iter().all(|line| line.upstream == virtual_ip && line.pod == "-"), "{lines:?}");
    scenario.says(NGINX, &["WARN", "virtual IP", "clusterIP: None"]);

    whichpod::install(stage.client(), &["headlessServices=create"]);
    *as_usual = true;
    // An annotation alone rolls nothing out that nobody asked for.
    scenario.kubectl(&["rollout", "restart", "deployment/nginx-test"]);
    scenario.rolled_out("deployment/nginx-test");
    let endpoints = scenario.endpoints();
    let (answered, lines) = wait_for("the pods in the log", PATIENCE, || {
        let (answered, lines) = ask(&scenario, &nginx, 4);
        Ok(lines.iter().all(|line| endpoints.contains(&line.upstream)).then_some((answered, lines)))
    })
    .unwrap();
    scenario.names_are_right(&answered, &lines);
    let twin = scenario.get(&["service", "backend-service-whichpod"]);
    assert_eq!(twin["spec"]["clusterIP"], "None");
    assert_eq!(twin["spec"]["selector"]["app"], "backend");
}
