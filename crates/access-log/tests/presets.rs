//! The presets, line by line.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use http::StatusCode;
use serde_json::{Value, json};
use support::{failed, line, record};
use whichpod_access_log::{Attempt, Flags, Record};

fn json(preset: &str, record: Record) -> Value {
    serde_json::from_str(&line(preset, record)).unwrap()
}

#[test]
fn text_is_envoys_default_with_the_pod_and_the_attempts() {
    assert_eq!(
        line("text", record()),
        "[2018-05-29T10:43:10.528Z] \"POST /original?o=1 HTTP/2\" 200 - 5 1234 25 17 \"192.0.2.1, 10.0.0.1\" \
         \"curl/8.0\" \"9b2d7c1e-0000-4000-8000-000000000000\" \"backend-service:10000\" \"10.1.2.4:8080\" backend-0 \
         10.1.2.3:8080 - 1 connect_refused, 10.1.2.4:8080 200 18 ok"
    );
    assert!(line("text", failed(Flags::NO_ENDPOINT)).contains("\" 0 UH 5 1234 25 "));
    assert!(line("text", failed(Flags::NO_ENDPOINT)).ends_with(" \"-\" - -"));
}

#[test]
fn json_has_numbers_as_numbers_and_nothing_as_null() {
    assert_eq!(
        json("json", record()),
        json!({
            "time": "2018-05-29T10:43:10.528Z",
            "method": "POST",
            "path": "/original?o=1",
            "protocol": "HTTP/2",
            "status": 200,
            "flags": null,
            "details": "via upstream",
            "grpc_status": 3,
            "bytes_received": 5,
            "bytes_sent": 1234,
            "duration_ms": 25,
            "request_duration_ms": 2,
            "response_duration_ms": 20,
            "response_tx_duration_ms": 5,
            "upstream_service_time_ms": 17,
            "x_forwarded_for": "192.0.2.1, 10.0.0.1",
            "user_agent": "curl/8.0",
            "request_id": "9b2d7c1e-0000-4000-8000-000000000000",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "authority": "backend-service:10000",
            "server_name": "sni.example",
            "route": "test",
            "upstream": "backend-service",
            "upstream_host": "10.1.2.4:8080",
            "upstream_pod": "backend-0",
            "upstream_node": "node-1",
            "upstream_zone": "zone-a",
            "upstream_protocol": "HTTP/1.1",
            "upstream_local_address": "10.1.0.9:40000",
            "transport_failure": "connection refused",
            "attempts": [
                {
                    "pod": null, "address": "10.1.2.3:8080", "status": null, "ms": 1,
                    "reason": "connect_refused", "reused_connection": false
                },
                {
                    "pod": "backend-0", "address": "10.1.2.4:8080", "status": 200, "ms": 18,
                    "reason": "ok", "reused_connection": true
                },
            ],
            "endpoints": 5,
            "dns_age_ms": 1500,
            "downstream_remote_address": "10.1.10.23:51000",
            "downstream_local_address": "127.77.0.1:10000",
            "connection_id": 7,
            "stream_id": 42,
            "open": false,
        })
    );
}

#[test]
fn json_of_a_failure_tells_a_status_of_zero_and_no_attempt() {
    let failed = json("json", failed(Flags::NO_ENDPOINT | Flags::RETRY_LIMIT));
    assert_eq!(failed["status"], 0);
    assert_eq!(failed["flags"], "UH,URX");
    assert_eq!(failed["attempts"], json!([]));
    assert_eq!(failed["upstream_host"], Value::Null);
}

#[test]
fn json_of_an_open_connection_says_so() {
    let mut record = record();
    (record.protocol, record.method, record.status, record.open) = (None, None, None, true);
    let open = json("json", record);
    assert_eq!(open["open"], true);
    assert_eq!(open["status"], Value::Null);
    assert_eq!(open["attempts"][1]["reason"], "open");
}

#[test]
fn nginx_lists_are_aligned_by_attempt() {
    assert_eq!(
        line("nginx", record()),
        "10.1.10.23 - - [29/May/2018:10:43:10 +0000] \"POST /test/a?q=a%20b&x=%22&empty= HTTP/2\" 200 1234 \
         \"http://example/\" \"curl/8.0\" 5 0.025 [backend-service] [] 10.1.2.3:8080, 10.1.2.4:8080 0, 1234 \
         0.001, 0.023 -, 200 9b2d7c1e-0000-4000-8000-000000000000"
    );
    let mut open = record();
    open.open = true;
    assert!(line("nginx", open).contains(" 0.001, - -, 200 "));
    assert!(line("nginx", failed(Flags::NO_ENDPOINT)).contains("[backend-service] [] - - - - "));
}

#[test]
fn otel_names_the_pod_as_the_peer() {
    let otel = json("otel", record());
    for (key, expected) in [
        ("timestamp", json!("2018-05-29T10:43:10.528Z")),
        ("trace_id", json!("4bf92f3577b34da6a3ce929d0e0e4736")),
        ("http.request.method", json!("POST")),
        ("url.path", json!("/original")),
        ("url.query", json!("q=a%20b&x=%22&empty=")),
        ("network.protocol.name", json!("http")),
        ("network.protocol.version", json!("2")),
        ("network.transport", json!("tcp")),
        ("http.response.status_code", json!(200)),
        ("http.request.body.size", json!(5)),
        ("http.response.body.size", json!(1234)),
        ("error.type", json!(null)),
        ("rpc.grpc.status_code", json!(3)),
        ("user_agent.original", json!("curl/8.0")),
        ("client.address", json!("10.1.10.23")),
        ("client.port", json!(51000)),
        ("server.address", json!("backend-service")),
        ("network.peer.address", json!("10.1.2.4")),
        ("network.peer.port", json!(8080)),
        ("network.local.address", json!("10.1.0.9")),
        ("k8s.pod.name", json!("backend-0")),
        ("k8s.node.name", json!("node-1")),
        ("whichpod.open", json!(false)),
    ] {
        assert_eq!(otel[key], expected, "{key}");
    }
    assert_eq!(otel["whichpod.attempts"][1]["pod"], "backend-0");
    assert_eq!(json("otel", failed(Flags::UPSTREAM_TIMEOUT))["error.type"], "UpstreamRequestTimeout");
    let mut bad_gateway = record();
    bad_gateway.status = Some(StatusCode::BAD_GATEWAY);
    assert_eq!(json("otel", bad_gateway)["error.type"], "502");
}

#[test]
fn ecs_names_the_pod_as_the_destination() {
    let ecs = json("ecs", record());
    for (key, expected) in [
        ("@timestamp", json!("2018-05-29T10:43:10.528Z")),
        ("ecs.version", json!("8.11.0")),
        ("event.duration", json!(25_700_000)),
        ("event.outcome", json!("success")),
        ("http.request.id", json!("9b2d7c1e-0000-4000-8000-000000000000")),
        ("http.response.status_code", json!(200)),
        ("http.version", json!("2")),
        ("url.original", json!("/original?o=1")),
        ("url.domain", json!("backend-service")),
        ("source.ip", json!("10.1.10.23")),
        ("destination.address", json!("backend-service")),
        ("destination.ip", json!("10.1.2.4")),
        ("destination.port", json!(8080)),
        ("orchestrator.resource.name", json!("backend-0")),
    ] {
        assert_eq!(ecs[key], expected, "{key}");
    }
    assert_eq!(json("ecs", failed(Flags::NO_ENDPOINT))["event.outcome"], "failure");
    for (authority, domain) in [("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a", "a"), ("a:1", "a")] {
        let mut record = record();
        record.authority = Some(authority.parse().unwrap());
        assert_eq!(json("ecs", record)["url.domain"], domain);
    }
}

#[test]
fn a_line_of_json_says_how_many_attempts_it_leaves_out() {
    let mut record = record();
    let last = record.attempts.pop().unwrap();
    record.attempts = vec![record.attempts[0].clone(); 50].into();
    record.attempts.push(Attempt { ..last });
    for (preset, attempts) in
        [("json", "attempts"), ("otel", "whichpod.attempts"), ("ecs", "whichpod.attempts")]
    {
        let line = json(preset, record.clone());
        assert_eq!(line[attempts].as_array().unwrap().len(), 20);
        assert_eq!(line[format!("{attempts}_omitted")], 31);
        assert_eq!(line[attempts][19]["address"], "10.1.2.4:8080", "the one that answered stays");
    }
}
