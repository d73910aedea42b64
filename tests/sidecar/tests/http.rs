//! HTTP/1.0 and HTTP/1.1 as apps and pods speak them: putting the sidecar in must not change what works.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use bytes::Bytes;
use serde_json::{Value, json};
use whichpod_testkit::backend::Backend;
use whichpod_testkit::client::{End, Response};
use whichpod_testkit::scripted::{ANSWER, Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Cluster, Rig, UPSTREAM, received, received_head};

async fn scripted(script: Script) -> (ScriptedBackend, Rig) {
    let pod = ScriptedBackend::start(ANY, script).await.unwrap();
    let rig = Rig::new(pod.address(), json!({}));
    (pod, rig)
}

async fn raw(answer: impl Into<Bytes>) -> (ScriptedBackend, Rig) {
    scripted(Script::Raw(answer.into())).await
}

async fn backend(settings: Value) -> (Backend, Rig) {
    let pod = Backend::start("backend-0", ANY).await.unwrap();
    let rig = Rig::new(pod.address(), settings);
    (pod, rig)
}

// What nginx sends, and what it understands.

#[tokio::test]
async fn an_nginx_with_its_default_of_http_1_0_is_served() {
    let (pod, rig) = scripted(Script::Answer).await;
    let mut client = rig.client().await;
    client
        .send("GET /test HTTP/1.0\r\nHost: backend-service:10000\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!((answer.version.as_str(), answer.status, answer.text().as_str()), ("HTTP/1.0", 200, ANSWER));
    assert_eq!(client.end().await, (Vec::new(), End::Closed));
    assert_eq!(received_head(&pod), ["GET /test HTTP/1.1", "host: backend-service:10000"]);
    let line = rig.line().await;
    assert_eq!((line.text("protocol"), line.text("upstream_protocol")), ("HTTP/1.0", "HTTP/1.1"));
    assert_eq!(line.text("authority"), "backend-service:10000");
}

#[tokio::test]
async fn an_http_1_0_request_without_host_reaches_the_pod_with_the_targets_name() {
    let (pod, rig) = scripted(Script::Answer).await;
    assert_eq!(rig.exchange("GET / HTTP/1.0\r\n\r\n").await.status, 200);
    assert_eq!(received_head(&pod), ["GET / HTTP/1.1".to_owned(), format!("host: {}", pod.address())]);
    assert_eq!(rig.line().await.text("authority"), pod.address().to_string());
}

#[tokio::test]
async fn an_http_1_0_client_can_keep_its_connection() {
    let (_pod, rig) = scripted(Script::Answer).await;
    let mut client = rig.client().await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!(answer.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
        assert_eq!(answer.text(), ANSWER);
    }
}

#[tokio::test]
async fn an_http_1_0_client_gets_a_chunked_answer_whole_and_without_chunks() {
    let (_pod, rig) =
        raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
    for connection in ["close", "keep-alive"] {
        let mut client = rig.client().await;
        client.send(format!("GET / HTTP/1.0\r\nConnection: {connection}\r\n\r\n")).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((answer.header("transfer-encoding"), answer.header("content-length")), (None, None));
        assert_ne!(answer.header("connection"), Some("keep-alive"), "the end of the answer is the end of it");
        assert_eq!(answer.text(), "abcde");
    }
}

#[tokio::test]
async fn a_client_that_asks_to_close_is_closed_and_the_pods_connection_stays() {
    let (pod, rig) = scripted(Script::Answer).await;
    for _ in 0..3 {
        let mut client = rig.client().await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(client.end().await, (Vec::new(), End::Closed));
    }
    assert_eq!((pod.connections(), pod.requests()), (1, 3));
    assert!(!received(&pod).contains("connection"), "the client's connection is not the pod's");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let (pod, rig) = backend(json!({})).await;
    let mut client = rig.client().await;
    let paths = ["/status/201", "/delay/1500", "/status/404", "/bytes/3"];
    let all: String = paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
    client.send(all).await.unwrap();
    for (path, status) in paths.iter().zip([201, 200, 404, 200]) {
        assert_eq!(client.response().await.unwrap().status, status, "{path}");
    }
    assert_eq!(pod.requests(), 4);
    let lines = rig.lines(4).await;
    assert_eq!(lines.iter().map(|line| line.text("path")).collect::<Vec<_>>(), paths);
    assert!(lines.iter().all(|line| line.get("connection_id") == lines[0].get("connection_id")));
    let quick = lines[2].number("duration_ms");
    assert!(quick < 1400, "{quick} ms: the time of a pipelined request is not that of the one before");
}

// Answers without a body.

#[tokio::test]
async fn answers_without_a_body_keep_both_connections_and_their_headers() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let no = "HTTP/1.1 204 No Content\r\n";
    let same = "HTTP/1.1 304 Not Modified\r\n";
    let cases: [(&str, String, Option<&str>); 8] = [
        ("HEAD", format!("{ok}content-length: 14\r\n\r\n"), Some("14")),
        ("HEAD", format!("{ok}\r\n"), None),
        ("HEAD", format!("{ok}transfer-encoding: chunked\r\n\r\n"), None),
        ("GET", format!("{no}\r\n"), None),
        // Not allowed (RFC 9110 §8.6), and often seen.
        ("GET", format!("{no}content-length: 0\r\n\r\n"), None),
        ("GET", format!("{same}\r\n"), None),
        // The length is dropped, which is allowed (RFC 9110 §15.4.5).
        ("GET", format!("{same}content-length: 99\r\netag: \"x\"\r\n\r\n"), None),
        ("GET", format!("{ok}content-length: 0\r\n\r\n"), Some("0")),
    ];
    for (method, answer, length) in cases {
        let (pod, rig) = raw(answer.clone()).await;
        let mut client = rig.client().await;
        for _ in 0..2 {
            client.send(format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n")).await.unwrap();
            let got = client.response_to_head().await.unwrap();
            assert_eq!(got.header("content-length"), length, "{method} {answer:?} became {got:?}");
            assert_eq!(got.header("transfer-encoding"), None, "{method} {answer:?}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {} {}\r\n", got.status, got.reason)), "{answer:?}");
        }
        assert_eq!((pod.connections(), pod.requests()), (1, 2), "{method} {answer:?}");
        assert!(rig.lines(2).await.iter().all(|line| line.number("bytes_sent") == 0));
    }
}

#[tokio::test]
async fn a_pods_own_reason_and_unusual_statuses_arrive() {
    for first in
        ["HTTP/1.1 200 Fine By Me", "HTTP/1.1 418 I'm a teapot", "HTTP/1.1 599 Whatever", "HTTP/1.1 299 "]
    {
        let (_pod, rig) = raw(format!("{first}\r\ncontent-length: 1\r\n\r\nx")).await;
        let answer = rig.get("/").await;
        let line = String::from_utf8_lossy(&answer.raw).lines().next().unwrap().to_owned();
        assert_eq!(line.trim_end(), first.trim_end());
        assert_eq!(rig.line().await.status(), u64::from(answer.status));
    }
}

#[tokio::test]
async fn interim_answers_of_a_pod_do_not_end_the_request() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    let (pod, rig) =
        raw(format!("HTTP/1.1 100 Continue\r\n\r\n{hints}HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx"))
            .await;
    for _ in 0..2 {
        assert_eq!((rig.get("/").await.status, rig.get("/").await.text().as_str()), (200, "x"));
    }
    assert_eq!(pod.connections(), 1);
}

// Targets, routes and headers.

#[tokio::test]
async fn targets_arrive_as_they_were_written() {
    let (pod, rig) = scripted(Script::Answer).await;
    let targets = [
        "/",
        "/a/../b//c/./d",
        "/%2e%2e/%2F%00",
        "/a;b=c?d=e&f",
        "/?",
        "/?q='*!`{}|\\^[]?/",
        "/:80/@x",
        "/a|b^c\\d{\"e\"}",
        "/stra\u{df}e?q=\u{df}",
        "*",
    ];
    let long = format!("/{}", "x".repeat(50_000));
    for target in targets.into_iter().chain([&*long]) {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        let answer = rig.exchange(format!("{method} {target} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{target}");
        assert!(received(&pod).contains(&format!("{method} {target} HTTP/1.1\r\n")), "{target}");
    }
}

#[tokio::test]
async fn an_absolute_target_becomes_a_path() {
    let (pod, rig) = scripted(Script::Answer).await;
    assert_eq!(rig.exchange("GET http://a:80/p?q HTTP/1.1\r\nhost: a:80\r\n\r\n").await.status, 200);
    assert_eq!(received_head(&pod), ["GET /p?q HTTP/1.1", "host: a:80"]);
    assert_eq!(rig.line().await.text("path"), "/p?q");
}

#[tokio::test]
async fn only_configured_prefixes_are_served() {
    let pod = ScriptedBackend::start(ANY, Script::Answer).await.unwrap();
    let settings = json!({"upstreams": [{
        "name": UPSTREAM, "listen": "127.0.0.1:0", "target": pod.address().to_string(),
        "routes": [{"prefix": "/test", "name": "first"}, {"prefix": "/b/"}],
    }]});
    let rig = Rig::new(pod.address(), settings);
    let cases = [
        ("/test", 200, "first"),
        ("/tester?x", 200, "first"),
        ("/b/", 200, "-"),
        ("/b", 404, "-"),
        ("/", 404, "-"),
    ];
    for (path, status, _) in cases {
        let answer = rig.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(status == 200 || answer.text().starts_with("whichpod: upstream backend: "), "{answer:?}");
    }
    for (line, (path, status, route)) in rig.lines(cases.len()).await.iter().zip(cases) {
        let flags = if status == 404 { "NR" } else { "-" };
        assert_eq!(
            (line.status(), line.flags(), line.text("route")),
            (status.into(), flags, route),
            "{path}"
        );
        assert_eq!(line.tries().len(), usize::from(status == 200), "{path}");
    }
    assert_eq!(pod.requests(), 3);
    let mut client = rig.client().await;
    for _ in 0..2 {
        client.send("HEAD /none HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let answer = client.response_to_head().await.unwrap();
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        assert!(answer.status == 404 && length > 20, "an error too has no body for HEAD: {answer:?}");
    }
    assert_eq!(rig.lines(7).await[3].text("details"), "route_not_found");
}

/// The order of fields with different names has no meaning (RFC 9110 §5.3); that of equal ones is kept.
fn sorted<T: ToString>(fields: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut fields: Vec<_> = fields.into_iter().map(|field| field.to_string()).collect();
    fields.sort_by_key(|field| field.split(':').next().map(str::to_owned));
    fields
}

#[tokio::test]
async fn fields_of_one_connection_stay_on_it_and_all_others_pass() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x-inner\r\nx-inner: 1\r\nkeep-alive: timeout=60\r\n\
                  proxy-connection: x\r\nupgrade: h2c\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nserver: nginx\r\ndate: then\r\n\
                  x-empty:\r\nx-bytes: \u{e9}\r\n\r\n";
    let (pod, rig) = raw(answer).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-inner, keep-alive, x-forwarded-for\r\nX-Inner: 1\r\n\
                   Keep-Alive: timeout=5\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nCookie: a=1\r\n\
                   X-Forwarded-For: 10.0.0.1\r\nX-Double: 1\r\nX-Double: 2\r\nAuthorization: Bearer x\r\nX-Bytes: \u{e9}\r\n\r\n";
    let got = rig.exchange(request).await;
    let names: Vec<_> = got.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let expected = [
        "content-length: 0",
        "set-cookie: a=1",
        "set-cookie: b=2",
        "server: nginx",
        "date: then",
        "x-empty: ",
        "x-bytes: \u{e9}",
    ];
    assert_eq!(sorted(names), sorted(expected));
    let expected = [
        "GET / HTTP/1.1",
        "host: a",
        "cookie: a=1",
        "x-forwarded-for: 10.0.0.1",
        "x-double: 1",
        "x-double: 2",
        "authorization: Bearer x",
        "x-bytes: \u{e9}",
    ];
    assert_eq!(sorted(received_head(&pod)), sorted(expected));
}

#[tokio::test]
async fn an_asked_upgrade_that_is_not_passed_on_leaves_the_connection_usable() {
    let (_pod, rig) = scripted(Script::Answer).await;
    let mut client = rig.client().await;
    for _ in 0..2 {
        client
            .send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(client.response().await.unwrap().text(), ANSWER);
    }
}

#[tokio::test]
async fn every_request_has_an_id_and_the_log_and_the_pod_agree_on_it() {
    let (_pod, rig) = backend(json!({})).await;
    let ids = |answer: &Response| -> Value {
        serde_json::from_slice::<Value>(&answer.body).unwrap()["x-request-id"].clone()
    };
    let made = ids(&rig.get("/headers").await);
    let kept = ids(&rig.exchange("GET /headers HTTP/1.1\r\nhost: a\r\nX-Request-Id: mine\r\n\r\n").await);
    assert_eq!(kept, json!(["mine"]));
    let lines = rig.lines(2).await;
    assert_eq!(json!([lines[0].text("request_id")]), made);
    assert_eq!(lines[1].text("request_id"), "mine");
    assert_eq!(lines[0].text("request_id").len(), 36, "a UUID");
}

#[tokio::test]
async fn the_caller_is_added_to_the_forwarded_chain_only_when_told() {
    for (told, chain) in [(false, json!(["10.0.0.1"])), (true, json!(["10.0.0.1, 127.0.0.1"]))] {
        let (_pod, rig) = backend(json!({"headers": {"append_x_forwarded_for": told}})).await;
        let answer =
            rig.exchange("GET /headers HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.0.0.1\r\n\r\n").await;
        assert_eq!(serde_json::from_slice::<Value>(&answer.body).unwrap()["x-forwarded-for"], chain);
    }
}

#[tokio::test]
async fn a_client_is_told_the_pod_only_where_the_user_wants_it() {
    let cluster = Cluster::new(5).await;
    let pods = cluster.pods(1).await;
    let rig = cluster.sidecar(json!({"headers": {"expose_upstream": true}})).ready().await;
    let answer = rig.get("/").await;
    assert_eq!(answer.header("x-whichpod-upstream"), Some(&*pods[0].address().to_string()));
    assert_eq!(answer.header("x-whichpod-pod"), Some("backend-1"));
    let rig = cluster.sidecar(json!({})).ready().await;
    let answer = rig.get("/").await;
    assert_eq!((answer.header("x-whichpod-upstream"), answer.header("x-whichpod-pod")), (None, None));
}

#[tokio::test]
async fn a_trace_id_that_came_along_is_in_the_line() {
    let (_pod, rig) = backend(json!({})).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer =
        rig.exchange(format!("GET /headers HTTP/1.1\r\nhost: a\r\ntraceparent: {parent}\r\n\r\n")).await;
    assert_eq!(serde_json::from_slice::<Value>(&answer.body).unwrap()["traceparent"], json!([parent]));
    assert_eq!(rig.line().await.text("trace_id"), "4bf92f3577b34da6a3ce929d0e0e4736");
}

// The pod's connection.

#[tokio::test]
async fn a_pods_wish_to_close_is_heard_and_not_passed_to_the_client() {
    let (pod, rig) = raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let mut client = rig.client().await;
    for _ in 0..3 {
        let answer = client.get("/").await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    assert_eq!(pod.connections(), 3);
}

#[tokio::test]
async fn a_pods_own_idle_limit_is_honoured_a_second_early() {
    for (timeout, connections) in [("timeout=1", 2), ("timeout=60, max=100", 1)] {
        let (pod, rig) =
            raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nkeep-alive: {timeout}\r\n\r\n")).await;
        for _ in 0..2 {
            assert_eq!(rig.get("/").await.status, 200);
        }
        assert_eq!(pod.connections(), connections, "{timeout}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_the_connection_is_framed_for_the_client() {
    let (_pod, rig) = scripted(Script::Garbage(Bytes::from("HTTP/1.1 200 OK\r\n\r\nto the end"))).await;
    let mut client = rig.client().await;
    for _ in 0..2 {
        let answer = client.get("/").await.unwrap();
        assert_eq!(
            (answer.text().as_str(), answer.header("transfer-encoding")),
            ("to the end", Some("chunked"))
        );
    }
}

#[tokio::test]
async fn methods_that_nobody_knows_are_the_pods_affair() {
    let (_pod, rig) = scripted(Script::Answer).await;
    for method in ["PURGE", "PROPFIND", "M-SEARCH", "TRACE"] {
        assert_eq!(
            rig.exchange(format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n")).await.status,
            200,
            "{method}"
        );
    }
}
