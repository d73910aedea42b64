//! The node itself, before anything of ours is tested on it: everything a user does with pods and Services.
#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, reason = "the helpers are part of a test too")]

use std::net::SocketAddr;
use whichpod_cluster::{Component, Dns, NODE_ADDRESS, Node, Shared};

/// For tests that change nothing but what is in their own namespace.
static NODE: Shared<Node> = Shared::new();

fn node() -> std::sync::Arc<Node> {
    NODE.get(|| Node::start().unwrap())
}

mod common;

use common::nginx::Nginx;
use common::{Scenario, answered_by, pods};

#[test]
fn a_service_is_reached_by_its_address_its_node_port_and_its_name() {
    let node = node();
    let scenario = Scenario::start(node.client());
    answered_by(&scenario.client, scenario.cluster_ip(), &scenario.names);
    let port = scenario.service()["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    let node_port = SocketAddr::from((NODE_ADDRESS, u16::try_from(port).unwrap()));
    answered_by(&scenario.client, node_port, &scenario.names);
    let answer = scenario.inside(&["wget", "-q", "-O", "-", "http://backend-service:10000/test"]);
    assert!(answer.starts_with("i am backend in backend-"), "{answer}");

    let first = scenario.names.first().unwrap();
    let line = format!("{first} GET /test HTTP/1.0");
    scenario.logged(first, "backend", &line, |log| log.contains(&line).then_some(()));
}

#[test]
fn nginx_logs_the_services_address_and_not_the_pods() {
    let node = node();
    let scenario = Scenario::start(node.client());
    let nginx = Nginx::start(&scenario, "backend-service:10000");
    answered_by(&scenario.client, nginx.address(), &scenario.names);
    nginx.own_lines(&format!("/test 200 {}\n", scenario.cluster_ip()), 1);
    let logs = nginx.own_log();
    assert!(scenario.addresses.iter().all(|address| !logs.contains(address)), "{logs}");
}

#[test]
fn a_headless_services_name_has_the_address_of_every_pod() {
    let node = node();
    let scenario = Scenario::start(node.client());
    let lines = scenario.addresses.iter().map(|address| format!("Address: {address}\n")).collect();
    scenario.asked_until(&["nslookup", "-type=a", &scenario.headless()], &lines);
}

#[test]
fn a_headless_services_pods_are_called_as_core_dns_is_told() {
    let mut node = Node::start_own().unwrap();
    let scenario = Scenario::start(node.client());
    let question = ["nslookup", "-type=srv", &format!("_http._tcp.{}", scenario.headless())];
    let by_address = scenario.addresses.iter().map(|address| address.replace('.', "-")).collect();
    scenario.asked_until(&question, &by_address);
    node.set_dns(Dns { pod_names: true, ttl: 1 }).unwrap();
    scenario.asked_until(&question, &scenario.names);
}

#[test]
fn pods_outlive_a_crash_of_the_nodes_programs() {
    let mut node = Node::start_own().unwrap();
    let scenario = Scenario::start(node.client());
    for component in [Component::Kubelet, Component::Proxy, Component::Dns, Component::ApiServer] {
        node.restart(component).unwrap();
    }
    answered_by(&scenario.client, scenario.cluster_ip(), &scenario.names);
    let now = pods(&scenario.client, scenario.namespace.name());
    assert_eq!(now, (scenario.names.clone(), scenario.addresses.clone()));
}
