//! A record of a request that had it all, and lines of it.
#![allow(dead_code, reason = "each test uses its part")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use whichpod_access_log::{Attempt, Compiled, Flags, Format, Needs, Record, Scratch};

pub fn start() -> SystemTime {
    UNIX_EPOCH + Duration::new(1_527_590_590, 528_123_456)
}

pub fn attempt(address: &str) -> Attempt {
    Attempt {
        address: address.parse().unwrap(),
        pod: None,
        node: None,
        zone: None,
        status: None,
        duration: Duration::from_millis(1),
        reason: "connect_refused",
        reused_connection: false,
        sent: false,
    }
}

/// A retried gRPC call; headers are captured by [`line`].
pub fn record() -> Record {
    let mut record = Record::new(start());
    record.protocol = Some(Version::HTTP_2);
    record.method = Some(Method::POST);
    record.path = Some("/test/a?q=a%20b&x=%22&empty=".parse().unwrap());
    record.authority = Some(HeaderValue::from_static("backend-service:10000"));
    record.status = Some(StatusCode::OK);
    record.details = Some("via upstream".into());
    record.bytes_received = 5;
    record.bytes_sent = 1234;
    record.duration = Duration::from_micros(25_700);
    record.request_duration = Some(Duration::from_micros(2_500));
    record.response_duration = Some(Duration::from_millis(20));
    record.response_tx_duration = Some(Duration::from_micros(5_700));
    record.upstream_service_time = Some(Duration::from_millis(17));
    record.grpc_status = Some(3);
    record.upstream = Some("backend-service".into());
    record.upstream_protocol = Some(Version::HTTP_11);
    record.upstream_local = Some("10.1.0.9:40000".parse().unwrap());
    record.transport_failure = Some("connection refused".into());
    record.attempts.push(attempt("10.1.2.3:8080"));
    record.attempts.push(Attempt {
        pod: Some("backend-0".into()),
        node: Some("node-1".into()),
        zone: Some("zone-a".into()),
        status: Some(StatusCode::OK),
        duration: Duration::from_millis(18),
        reason: "ok",
        reused_connection: true,
        sent: true,
        ..attempt("10.1.2.4:8080")
    });
    record.downstream_remote = Some("10.1.10.23:51000".parse().unwrap());
    record.downstream_local = Some("127.77.0.1:10000".parse().unwrap());
    record.connection_id = Some(7);
    record.stream_id = Some(42);
    record.trace_id = Some(*b"4bf92f3577b34da6a3ce929d0e0e4736");
    record.route = Some("test".into());
    record.server_name = Some("sni.example".into());
    record.endpoints = Some(5);
    record.dns_age = Some(Duration::from_millis(1500));
    record
}

pub fn request_headers() -> HeaderMap {
    headers(&[
        ("user-agent", "curl/8.0"),
        ("x-forwarded-for", "192.0.2.1, 10.0.0.1"),
        ("x-request-id", "9b2d7c1e-0000-4000-8000-000000000000"),
        ("referer", "http://example/"),
        ("x-envoy-original-path", "/original?o=1"),
    ])
}

pub fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

pub fn compile(text: &str) -> Compiled {
    let environment = |name: &str| (name == "POD_NAME").then(|| "nginx-test-1".to_owned());
    Format::compile(text, &environment, "host-1").unwrap()
}

/// The line of a record whose headers are captured as the format needs them.
pub fn line_with(text: &str, mut record: Record, request: &HeaderMap, response: &HeaderMap) -> String {
    let format = compile(text).format;
    Needs::capture(&format.needs().request_headers, request, &mut record.request_headers);
    Needs::capture(&format.needs().response_headers, response, &mut record.response_headers);
    Needs::capture(&format.needs().response_trailers, response, &mut record.response_trailers);
    written(&format, &record)
}

pub fn line(text: &str, record: Record) -> String {
    line_with(text, record, &request_headers(), &headers(&[("x-answer", "42"), ("grpc-message", "bad")]))
}

/// Without its newline.
pub fn written(format: &Format, record: &Record) -> String {
    let mut line = Vec::new();
    format.write(record, &mut Scratch::default(), &mut line);
    let mut line = String::from_utf8(line).unwrap();
    assert_eq!(line.pop(), Some('\n'));
    line
}

pub fn failed(flags: Flags) -> Record {
    let mut record = record();
    record.status = None;
    record.details = None;
    record.flags = flags;
    record.attempts.clear();
    record
}
