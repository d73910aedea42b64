//! The pods' names, with both Corefiles: CoreDNS tells them where it has `endpoint_pod_names`, and where it does not, none is
//! guessed.
#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, reason = "the helpers are part of a test too")]

mod common;

use common::nginx::Nginx;
use common::{PATIENCE, Scenario, annotated, relay, whichpod};
use serde_json::json;
use whichpod_cluster::{Dns, Node, wait_for};

#[test]
fn the_log_names_the_pods_by_hand_and_by_annotation_as_soon_as_core_dns_tells_it_and_never_guesses() {
    let mut node = Node::start_own().unwrap();
    let client = node.client().clone();
    whichpod::import(&client);
    whichpod::install(&client, &[]);
    // The headless Service of the user's is what the annotation leads to as well.
    let scenario = Scenario::start(&client);
    let nginx = Nginx::start(&scenario, "backend-service:10000");
    nginx.patch("backend-headless:http", &json!({}));
    let upstreams = ("whichpod.io/upstreams", "backend-service:10000");
    scenario.apply(&annotated(relay("orders", upstreams.1), upstreams.0, upstreams.1));
    scenario.rolled_out("deployment/orders");

    let (_, by_hand) = nginx.asked_by_hand(4);
    assert!(by_hand.iter().all(|(_, pod)| pod == "-"), "nobody has told a name: {by_hand:?}");
    let annotated = scenario.asked_through("orders", 4);
    assert!(annotated.iter().all(|line| line.pod == "-"), "nobody has told a name: {annotated:?}");

    node.set_dns(Dns { pod_names: true, ttl: 1 }).unwrap();
    wait_for("the pods' names in the hand-patched sidecar's log", PATIENCE, || {
        let (answered, lines) = nginx.asked_by_hand(4);
        for (pod, (_, logged)) in answered.iter().zip(&lines) {
            assert!(logged == pod || logged == "-", "{pod} answered, not {logged}");
        }
        Ok(lines.iter().all(|(_, pod)| pod != "-").then_some(()))
    })
    .unwrap();
    wait_for("the pods' names in the annotated app's log", PATIENCE, || {
        Ok(scenario.asked_through("orders", 4).iter().all(|line| line.pod != "-").then_some(()))
    })
    .unwrap();
}
