//! The sidecar patched in by hand, as people do it with Envoy today: `kubectl patch --type=json` with a volume from a
//! ConfigMap and a container, and nginx's upstream edited to 127.0.0.1:10000.
#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, reason = "the helpers are part of a test too")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::Scenario;
use common::nginx::Nginx;
use whichpod_cluster::{Dns, Node, wait_for};

#[test]
fn the_trap_is_told_and_then_the_log_names_the_pods_alternating_and_by_name_where_core_dns_tells_it() {
    let mut node = Node::start_own().unwrap();
    let scenario = Scenario::start(node.client());
    let nginx = Nginx::start(&scenario, "backend-service:10000");

    // The trap: the Service everybody has.
    nginx.patch("backend-service:10000");
    nginx.ask(2);
    let virtual_ip = scenario.cluster_ip().to_string();
    assert!(nginx.patched_lines(2).iter().all(|(address, pod)| *address == virtual_ip && pod == "-"));
    scenario.says("deploy/nginx-test", &["WARN", "virtual IP", "clusterIP: None"]);

    nginx.retarget("backend-headless:http");
    let answered = nginx.ask(6);
    let lines = nginx.patched_lines(6);
    let listed: BTreeSet<_> =
        lines.iter().map(|(address, _)| address.trim_end_matches(":10000").to_owned()).collect();
    assert_eq!(listed, scenario.addresses, "the pods' own addresses, not the Service's");
    assert!(lines.windows(2).all(|two| two[0].0 != two[1].0), "{lines:?}");
    assert!(lines.iter().all(|(_, pod)| pod == "-"), "nobody has told a name: {lines:?}");
    assert!(answered.windows(2).all(|two| two[0] != two[1]), "{answered:?}");

    node.set_dns(Dns { pod_names: true, ttl: 1 }).unwrap();
    let named = wait_for("the pods' names in the log", Duration::from_secs(60), || {
        let so_far = nginx.patched_lines(0).len();
        let answered = nginx.ask(4);
        let lines = nginx.patched_lines(so_far + 4).split_off(so_far);
        Ok(lines.iter().all(|(_, pod)| pod != "-").then_some((answered, lines)))
    });
    let (answered, lines) = named.unwrap();
    let logged: Vec<_> = lines.into_iter().map(|(_, pod)| pod).collect();
    assert_eq!(logged, answered, "each line names the pod that answered");
}
