//! The sidecar patched in by hand, as people do it with Envoy today: `kubectl patch --type=json` with a volume from a
//! ConfigMap and a container, and nginx's upstream edited to 127.0.0.1:10000.

use std::collections::BTreeSet;

use serde_json::json;

use crate::common::Scenario;
use crate::common::nginx::Nginx;
use crate::stage::Stage;

#[test]
fn patched_in_by_hand_the_trap_is_told_and_with_a_headless_service_the_log_shows_the_pods_alternating() {
    let stage = Stage::shared();
    let scenario = Scenario::start(stage.client());
    let nginx = Nginx::start(&scenario, "backend-service:10000");

    // The trap: the Service everybody has.
    nginx.patch("backend-service:10000", &json!({}));
    let (_, lines) = nginx.asked_by_hand(2);
    let virtual_ip = scenario.cluster_ip().to_string();
    assert!(lines.iter().all(|(address, pod)| *address == virtual_ip && pod == "-"), "{lines:?}");
    scenario.says("deploy/nginx-test", &["WARN", "virtual IP", "clusterIP: None"]);

    nginx.retarget("backend-headless:http");
    let (answered, lines) = nginx.asked_by_hand(6);
    let listed: BTreeSet<_> =
        lines.iter().map(|(address, _)| address.trim_end_matches(":10000").to_owned()).collect();
    assert_eq!(listed, scenario.addresses, "the pods' own addresses, not the Service's");
    assert!(lines.windows(2).all(|two| two[0].0 != two[1].0), "{lines:?}");
    assert!(answered.windows(2).all(|two| two[0] != two[1]), "{answered:?}");
    for (pod, (_, logged)) in answered.iter().zip(&lines) {
        assert!(logged == pod || logged == "-", "{pod} answered, not {logged}");
    }
}
