//! The sidecar patched in by hand, as people do it with Envoy today: `kubectl patch --type=json` with a volume from a
//! ConfigMap and a container, and nginx's upstream edited to 127.0.0.1:10000.
#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, reason = "the helpers are part of a test too")]

mod scenario;

use std::collections::BTreeSet;
use std::time::Duration;

use scenario::Scenario;
use scenario::nginx::Nginx;
use whichpod_cluster::{Dns, Node, wait_for};

#[test]
fn the_log_names_the_pods_alternating_and_by_name_where_core_dns_tells_it() {
    let mut node = Node::start_own().unwrap();
    let scenario = Scenario::start(&node);
    let nginx = Nginx::start(&scenario, &node, "backend-service:10000");
    nginx.patch(&node, "backend-headless:http");
    let answered = nginx.ask(6);
    let lines = nginx.lines(6);
    let listed: BTreeSet<_> =
        lines.iter().map(|(address, _)| address.trim_end_matches(":10000").to_owned()).collect();
    assert_eq!(listed, scenario.addresses, "the pods' own addresses, not the Service's");
    assert!(lines.windows(2).all(|two| two[0].0 != two[1].0), "{lines:?}");
    assert!(lines.iter().all(|(_, pod)| pod == "-"), "nobody has told a name: {lines:?}");
    assert!(answered.windows(2).all(|two| two[0] != two[1]), "{answered:?}");

    node.set_dns(Dns { pod_names: true, ttl: 1 }).unwrap();
    let named = wait_for("the pods' names in the log", Duration::from_secs(60), || {
        let so_far = nginx.lines(0).len();
        let answered = nginx.ask(4);
        let lines = nginx.lines(so_far + 4).split_off(so_far);
        Ok(lines.iter().all(|(_, pod)| pod != "-").then_some((answered, lines)))
    });
    let (answered, lines) = named.unwrap();
    let logged: Vec<_> = lines.into_iter().map(|(_, pod)| pod).collect();
    assert_eq!(logged, answered, "each line names the pod that answered");
}

#[test]
fn the_trap_shows_the_virtual_ip_and_draws_the_warning_with_its_remedy() {
    let node = Node::shared();
    let scenario = Scenario::start(node);
    let nginx = Nginx::start(&scenario, node, "backend-service:10000");
    nginx.patch(node, "backend-service:10000");
    nginx.ask(2);
    let virtual_ip = scenario.cluster_ip().to_string();
    assert!(nginx.lines(2).iter().all(|(address, pod)| *address == virtual_ip && pod == "-"));
    let here = scenario.namespace.name();
    wait_for("the warning", Duration::from_secs(10), || {
        let logs = scenario.client.run(&["logs", "deploy/nginx-test", "-c", "whichpod", "-n", here])?;
        Ok((logs.contains("WARN") && logs.contains("virtual IP") && logs.contains("clusterIP: None"))
            .then_some(()))
    })
    .unwrap();
}
