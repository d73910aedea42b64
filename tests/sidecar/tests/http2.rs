//! HTTP/2 in clear text and gRPC: what reaches the pod, what the client gets, and what the line says.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::Reason;
use serde_json::{Value, json};
use tokio::time::sleep;
use whichpod_testkit::backend::Backend;
use whichpod_testkit::http2::{Http2Client, Http2Pod, request, send};
use whichpod_testkit::scripted::{Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Cluster, Rig, UPSTREAM, eventually};

async fn pod(name: &str) -> Http2Pod {
    Http2Pod::start(name, ANY).await.unwrap()
}

async fn one(settings: Value) -> (Http2Pod, Rig, Http2Client) {
    let pod = pod("backend-1").await;
    let rig = Rig::new(pod.address(), settings);
    let client = Http2Client::connect(rig.address).await.unwrap();
    (pod, rig, client)
}

/// A sidecar in front of these pods, which DNS names as they name themselves.
async fn in_front_of(pods: &[&Http2Pod], settings: Value) -> (Cluster, Rig, Http2Client) {
    let cluster = Cluster::new(1).await;
    let published: Vec<_> = pods.iter().map(|pod| (pod.name(), pod.address())).collect();
    cluster.publish_named(&published);
    let rig = cluster.sidecar(settings).ready().await;
    let client = Http2Client::connect(rig.address).await.unwrap();
    (cluster, rig, client)
}

#[tokio::test]
async fn every_request_of_one_connection_goes_to_the_next_pod_and_the_line_names_it() {
    let pods = [pod("backend-1").await, pod("backend-2").await, pod("backend-3").await];
    let (_cluster, rig, client) = in_front_of(&pods.iter().collect::<Vec<_>>(), json!({})).await;
    const EACH: usize = 40;
    let mut answered = HashMap::new();
    for number in 0..3 * EACH {
        let id = number.to_string();
        let answer = client.send(request("GET", "/", &[("x-request-id", &id)], "")).await.unwrap();
        assert_eq!(answer.status, 200);
        let name = answer.field("x-pod").unwrap().to_owned();
        assert_eq!(answer.text(), format!("i am backend in {name}\n"));
        answered.insert(id, name);
    }
    for pod in &pods {
        assert_eq!((pod.requests(), pod.connections()), (EACH, 1), "one connection each, never stuck to one");
    }
    for line in rig.lines(3 * EACH).await {
        assert_eq!(line.verdict(), (200, "-", vec!["ok".to_owned()]));
        assert_eq!(line.text("upstream_pod"), answered[line.text("request_id")]);
        assert_eq!((line.text("protocol"), line.text("authority")), ("HTTP/2", "backend-service"));
    }
}

#[tokio::test]
async fn a_burst_of_streams_shares_connections_and_opens_another_only_at_the_pods_limit() {
    let pod = Http2Pod::start_with_streams("backend-1", ANY, 50).await.unwrap();
    let rig = Rig::new(pod.address(), json!({}));
    let client = Http2Client::connect(rig.address).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status, 200);
    let hanging: Vec<_> =
        join_all((0..120).map(|_| client.begin(request("GET", "/hang", &[], "").map(drop), true)))
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
    eventually("all run", || pod.running() == 120).await;
    assert_eq!(pod.connections(), 3, "50 streams each");
    drop(hanging);
    eventually("all are reset", || pod.running() == 0).await;
    for line in rig.lines(121).await.iter().skip(1) {
        assert_eq!(line.verdict(), (0, "DC", vec!["client_gone".to_owned()]));
    }
}

#[tokio::test]
async fn heads_keep_their_meaning_from_http_1_to_http_2_and_back() {
    let pod = pod("backend-1").await;
    let rig = Rig::new(pod.address(), json!({"protocol": "h2c"}));
    let request_1 = "POST /headers?q=1 HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nTE: trailers\r\n\
                     Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nX-Request-Id: 7\r\nCookie: a=1\r\n\
                     Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let answer = rig.exchange(request_1).await;
    assert_eq!((answer.status, answer.header("x-pod")), (200, Some("backend-1")));
    let seen: Value = serde_json::from_slice(&answer.body).unwrap();
    let expected = json!({":method": ["POST"], ":path": ["/headers?q=1"], ":authority": ["shop"],
        "x-request-id": ["7"], "cookie": ["a=1"], "te": ["trailers"]});
    assert_eq!(seen, expected);
    let line = rig.line().await;
    assert_eq!((line.text("protocol"), line.text("upstream_protocol")), ("HTTP/1.1", "HTTP/2"));
    assert_eq!((line.number("bytes_received"), line.text("authority")), (2, "shop"));

    let pod = Backend::start("backend-1", ANY).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"protocol": "http1"}));
    let client = Http2Client::connect(rig.address).await.unwrap();
    let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("x-request-id", "7"), ("te", "trailers")];
    let answer = client.send(request("GET", "/headers", &fields, "")).await.unwrap();
    let seen: Value = serde_json::from_slice(&answer.body).unwrap();
    let expected = json!({"host": ["backend-service"], "cookie": ["a=1; b=2"], "x-request-id": ["7"],
        "te": ["trailers"], "connection": ["te"]});
    assert_eq!(seen, expected);
    let echoed = client.send(request("GET", "/echo", &[], "a body without a length")).await.unwrap();
    assert_eq!(echoed.text(), "a body without a length");
    let trailers = client.send(request("GET", "/trailers", &[("te", "trailers")], "")).await.unwrap();
    assert_eq!(trailers.field("x-trailer"), Some("backend-1"));
    let lines = rig.lines(3).await;
    for line in &lines {
        assert_eq!(line.verdict(), (200, "-", vec!["ok".to_owned()]), "{line:?}");
    }
    assert_eq!(lines[0].text("upstream_protocol"), "HTTP/1.1");
}

#[tokio::test]
async fn bodies_and_trailers_stream_both_ways_at_the_same_time() {
    let (_pod, rig, client) = one(json!({})).await;
    let head = request("POST", "/echo", &[("content-type", "application/grpc")], "").map(drop);
    let (response, mut stream) = client.begin(head, false).await.unwrap();
    let mut body = response.await.unwrap().into_body();
    for round in 0..50 {
        let said = Bytes::from(format!("message {round}"));
        send(&mut stream, said.clone()).await.unwrap();
        let mut heard = Vec::new();
        while heard.len() < said.len() {
            let data = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            heard.extend_from_slice(&data);
        }
        assert_eq!(heard, said);
    }
    let trailers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("5"),
    )]);
    stream.send_trailers(trailers.clone()).unwrap();
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap(), Some(trailers));
    let line = rig.line().await;
    assert_eq!(line.verdict(), (200, "-", vec!["ok".to_owned()]));
    assert_eq!(line.number("grpc_status"), 5);
    assert_eq!(line.number("bytes_received"), line.number("bytes_sent"));
}

#[tokio::test]
async fn what_a_pod_does_to_a_stream_is_in_the_line_and_its_client_hears_of_it() {
    const CANCEL: u32 = 8;
    let before = |code: u32| (format!("/reset/{code}"), "stream_reset");
    for (path, reason) in [before(CANCEL), before(2)] {
        let (pod, rig, client) = one(json!({})).await;
        let answer = client.send(request("POST", &path, &[], "abc")).await.unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.text().starts_with(&format!("whichpod: upstream {UPSTREAM}: ")), "{}", answer.text());
        let line = rig.line().await;
        assert_eq!(line.verdict(), (503, "UR", vec![reason.to_owned()]));
        assert_eq!(line.text("details"), "upstream_reset_before_response_started{remote_reset}");
        assert_eq!(pod.requests(), 1, "a POST is sent once");
        assert_eq!(client.get("/reset/2").await.unwrap().status, 503);
        assert_eq!(rig.last_line(2).await.verdict(), (503, "UR,URX", vec![reason.to_owned(); 3]));
    }
    let (pod, rig, client) = one(json!({})).await;
    let error = client.get(&format!("/half/{CANCEL}")).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL), "the pod's own word");
    let line = rig.line().await;
    assert_eq!(line.verdict(), (200, "UR", vec!["ok".to_owned()]));
    assert_eq!(line.text("details"), "upstream_reset_after_response_started{remote_reset}");
    assert_eq!(client.get("/").await.unwrap().status, 200);
    assert_eq!(pod.connections(), 1, "a reset stream costs no connection");
}

#[tokio::test]
async fn pods_that_are_no_http_2_servers_are_told_apart() {
    for (script, flags, reason, status) in [
        (Script::Garbage("HTTP/1.1 400 Bad Request\r\n\r\n".into()), "UPE", "protocol_error", 502),
        (Script::AcceptThenReset, "UC,URX", "reset", 503),
        (Script::NoListen, "UF", "connect_refused", 503),
    ] {
        let pod = ScriptedBackend::start(ANY, script.clone()).await.unwrap();
        let rig = Rig::new(pod.address(), json!({"timeouts": {"request": "2s"}}));
        let client = Http2Client::connect(rig.address).await.unwrap();
        let answer = client.get("/").await.unwrap();
        let line = rig.line().await;
        let (said, said_flags, tries) = line.verdict();
        if script == Script::AcceptThenReset {
            // The reset is met by the connect, the head, or the wait for an answer.
            assert!(["UC,URX", "UC", "UF"].contains(&said_flags), "{script:?} {said_flags} {tries:?}");
            assert!(tries.len() <= 4, "{tries:?}");
        } else {
            assert_eq!((said_flags, tries[0].as_str()), (flags, reason), "{script:?}");
        }
        assert_eq!((u64::from(answer.status), said), (status, status), "{script:?}");
    }
}

#[tokio::test]
async fn a_pod_that_refuses_streams_loses_them_to_another_whatever_the_method() {
    let (full, free) = (pod("backend-1").await, pod("backend-2").await);
    full.refuse(true);
    let (_cluster, rig, client) = in_front_of(&[&full, &free], json!({})).await;
    for number in 0..20 {
        let id = number.to_string();
        let call = request("POST", "/", &[("x-request-id", &id)], "the body of a call");
        assert_eq!(client.send(call).await.unwrap().field("x-pod"), Some("backend-2"));
    }
    let lines = rig.lines(20).await;
    let moved: Vec<_> = lines.iter().filter(|line| line.tries().len() == 2).collect();
    assert!(moved.len() >= 10, "the full pod has its turns");
    for line in moved {
        assert_eq!(line.verdict(), (200, "-", vec!["refused_stream".to_owned(), "ok".to_owned()]));
        assert_eq!(line.tries()[0].pod.as_deref(), Some("backend-1"));
        assert_eq!(line.text("upstream_pod"), "backend-2");
    }
    let mut ids = free.request_ids();
    ids.sort_by_key(|id| id.parse::<u32>().unwrap());
    assert_eq!(ids, (0..20).map(|number| number.to_string()).collect::<Vec<_>>(), "each once");

    free.refuse(true);
    assert_eq!(client.get("/").await.unwrap().status, 503);
    let line = rig.last_line(21).await;
    assert_eq!(line.verdict(), (503, "UR,URX", vec!["refused_stream".to_owned(); 3]), "not for ever");
}

#[tokio::test]
async fn a_pod_that_says_goodbye_again_and_again_fails_no_call_and_doubles_none() {
    let pods = [pod("backend-1").await, pod("backend-2").await];
    let (_cluster, rig, client) = in_front_of(&pods.iter().collect::<Vec<_>>(), json!({})).await;
    const ROUNDS: usize = 60;
    const AT_A_TIME: usize = 10;
    for round in 0..ROUNDS {
        pods[round % 2].go_away();
        let calls = (0..AT_A_TIME).map(|number| {
            let (client, id) = (client.clone(), (round * AT_A_TIME + number).to_string());
            async move { client.send(request("POST", "/", &[("x-request-id", &id)], "abc")).await }
        });
        for answer in join_all(calls).await {
            assert_eq!(answer.unwrap().status, 200);
        }
    }
    let lines = rig.lines(ROUNDS * AT_A_TIME).await;
    assert!(lines.iter().all(|line| line.status() == 200 && line.flags() == "-"));
    let mut ids: Vec<_> = pods.iter().flat_map(Http2Pod::request_ids).collect();
    ids.sort();
    ids.dedup();
    let total: usize = pods.iter().map(|pod| pod.request_ids().len()).sum();
    assert_eq!((ids.len(), total), (ROUNDS * AT_A_TIME, ROUNDS * AT_A_TIME), "each once");
    assert!(pods.iter().all(|pod| pod.connections() > 5), "connections were ended");
}

#[tokio::test]
async fn a_pod_that_left_dns_gets_no_new_stream_and_keeps_those_it_has() {
    let pods = [pod("backend-1").await, pod("backend-2").await];
    let (cluster, rig, client) = in_front_of(&pods.iter().collect::<Vec<_>>(), json!({})).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let (response, stream) =
            client.begin(request("POST", "/echo", &[], "").map(drop), false).await.unwrap();
        streams.push((response.await.unwrap().into_body(), stream));
    }
    assert!(pods.iter().all(|pod| pod.running() == 1));
    cluster.publish_named(&[("backend-2", pods[1].address())]);
    let mut stayed = 0;
    while stayed < 6 {
        let answer = client.get("/").await.unwrap();
        stayed = if answer.field("x-pod") == Some("backend-2") { stayed + 1 } else { 0 };
        sleep(Duration::from_millis(20)).await;
    }
    let before = pods[0].requests();
    for (body, stream) in &mut streams {
        send(stream, Bytes::from_static(b"still here")).await.unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "still here");
        stream.send_data(Bytes::new(), true).unwrap();
        while body.data().await.is_some() {}
    }
    eventually("its connection ends with its last stream", || pods[0].open_connections() == 0).await;
    assert_eq!((pods[0].requests(), pods[1].open_connections()), (before, 1));
    let lines = rig.lines_with("the streams end", |line| line.text("path") == "/echo").await;
    assert!(lines.iter().all(|line| line.flags() == "-"));
}

#[tokio::test]
async fn errors_made_here_are_statuses_to_a_caller() {
    let refused = ScriptedBackend::start(ANY, Script::NoListen).await.unwrap();
    let routes = json!({"upstreams": [{"name": UPSTREAM, "listen": "127.0.0.1:0",
        "target": refused.address().to_string(), "routes": [{"prefix": "/svc/"}]}]});
    let rig = Rig::new(refused.address(), routes);
    let client = Http2Client::connect(rig.address).await.unwrap();
    for (number, (path, status, flags)) in
        [("/svc/call", "14", "UF"), ("/other", "12", "NR")].into_iter().enumerate()
    {
        let answer = client.call(path, &[]).await.unwrap();
        assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/grpc")));
        assert_eq!(answer.headers.get("grpc-status").unwrap(), status, "trailers only");
        assert!(
            answer.field("grpc-message").unwrap().starts_with("whichpod: upstream backend: "),
            "{answer:?}"
        );
        assert!(answer.body.is_empty() && answer.trailers.is_none());
        let line = rig.last_line(number + 1).await;
        assert_eq!((line.status(), line.flags()), (200, flags));
        assert_eq!(line.number("grpc_status").to_string(), status);
    }
    let plain =
        client.send(request("POST", "/svc/x", &[("content-type", "application/json")], "{}")).await.unwrap();
    assert_eq!((plain.status, plain.text().contains(UPSTREAM)), (503, true), "to nobody else");
    assert_eq!(rig.last_line(3).await.get("grpc_status"), &Value::Null);
}

#[tokio::test]
async fn a_calls_own_deadline_holds_and_the_configured_time_caps_it() {
    for (settings, timeout) in [(json!({}), "800m"), (json!({"timeouts": {"request": "800ms"}}), "1H")] {
        let (pod, rig, client) = one(settings).await;
        let answer = client.call("/hang", &[("grpc-timeout", timeout)]).await.unwrap();
        assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("4")));
        let line = rig.line().await;
        assert_eq!(line.verdict(), (200, "UT", vec!["response_timeout".to_owned()]));
        assert_eq!(line.number("grpc_status"), 4);
        assert!((790..3000).contains(&line.number("duration_ms")), "{line:?}");
        eventually("the pod's stream is reset", || pod.running() == 0).await;
        assert_eq!(client.call("/grpc/0", &[]).await.unwrap().field("grpc-status"), Some("0"));
        assert_eq!(pod.connections(), 1);
    }
}

#[tokio::test]
async fn a_calls_status_is_in_the_line_wherever_the_pod_puts_it() {
    let (_pod, rig, client) = one(json!({})).await;
    for (number, path) in ["/grpc/0", "/grpc/7", "/grpc-only/5", "/"].into_iter().enumerate() {
        let answer = client.call(path, &[]).await.unwrap();
        // A pod that speaks no gRPC: what clients make of it.
        let expected = path.rsplit('/').next().filter(|status| !status.is_empty());
        assert_eq!(answer.field("grpc-status"), expected);
        let line = rig.last_line(number + 1).await;
        assert_eq!(line.number("grpc_status").to_string(), expected.unwrap_or("2"), "{path}");
    }
}

#[tokio::test]
async fn calls_are_retried_on_the_statuses_that_the_user_names_and_on_no_other() {
    let settings = json!({"retry": {"on": ["unavailable", "resource-exhausted"]}});
    let (pod, rig, client) = one(settings).await;
    for (path, tries) in [("/grpc-only/14", 3), ("/grpc-only/8", 3), ("/grpc-only/5", 1), ("/grpc/14", 1)] {
        let before = pod.requests();
        let answer = client.call(path, &[]).await.unwrap();
        assert_eq!(answer.field("grpc-status"), path.rsplit('/').next());
        assert_eq!(pod.requests() - before, tries, "{path}");
        let line = rig.lines_with(path, |line| line.text("path") == path).await.pop().unwrap();
        assert_eq!((line.tries().len(), line.status()), (tries, 200));
        assert_eq!(line.flags(), if tries > 1 { "URX" } else { "-" }, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_stream_along_and_no_other() {
    let (pod, rig, client) = one(json!({})).await;
    let (gone, _) = client.begin(request("GET", "/hang", &[], "").map(drop), true).await.unwrap();
    let (kept, _) = client.begin(request("GET", "/hang", &[], "").map(drop), true).await.unwrap();
    eventually("both run", || pod.running() == 2).await;
    drop(gone);
    eventually("one is reset", || pod.running() == 1).await;
    assert_eq!(rig.line().await.verdict(), (0, "DC", vec!["client_gone".to_owned()]));
    assert_eq!(client.get("/").await.unwrap().status, 200);
    drop(kept);
    drop(client);
    eventually("so is the other", || pod.running() == 0).await;
    assert_eq!(rig.lines(3).await[2].flags(), "DC");
    assert_eq!(pod.connections(), 1);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let (pod, rig, client) = one(json!({})).await;
    let (response, mut stream) =
        client.begin(request("POST", "/early", &[], "").map(drop), false).await.unwrap();
    send(&mut stream, Bytes::from_static(b"the beginning")).await.unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "i am backend in backend-1\n");
    assert_eq!(rig.line().await.verdict(), (200, "-", vec!["ok".to_owned()]));
    assert_eq!(client.get("/").await.unwrap().status, 200);
    assert_eq!(pod.connections(), 1);
}

#[tokio::test]
async fn who_waits_for_continue_over_http_2_is_told_at_once() {
    let (_pod, _rig, client) = one(json!({})).await;
    let head = request("POST", "/echo", &[("expect", "100-continue")], "").map(drop);
    let (mut response, mut stream) = client.begin(head, false).await.unwrap();
    let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!(interim.status(), 100);
    stream.send_data(Bytes::from_static(b"abc"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "abc");
}

#[tokio::test]
async fn a_slow_reader_stops_its_own_stream_and_nobody_elses() {
    let (_pod, rig, client) = one(json!({})).await;
    let unread = client.begin(request("GET", "/bytes/100000000", &[], "").map(drop), true).await.unwrap();
    let _unread = unread.0.await.unwrap();
    sleep(Duration::from_millis(300)).await;
    let other = Http2Client::connect(rig.address).await.unwrap();
    for _ in 0..20 {
        let answer = other.get("/bytes/1000000").await.unwrap();
        assert_eq!(answer.body.len(), 1_000_000, "over the same connection to the pod");
    }
}

#[tokio::test]
async fn an_ordinary_sidecar_says_goodbye_and_fails_no_call() {
    let pod = pod("backend-1").await;
    let mut rig =
        Rig::new(pod.address(), json!({"shutdown": {"native_sidecar": false, "grace_period": "30s"}}))
            .ready()
            .await;
    let idle = Http2Client::connect(rig.address).await.unwrap();
    assert_eq!(idle.get("/").await.unwrap().status, 200);
    let client = Http2Client::connect(rig.address).await.unwrap();
    let (response, mut stream) =
        client.begin(request("POST", "/echo", &[], "").map(drop), false).await.unwrap();
    let mut body = response.await.unwrap().into_body();
    let log = rig.log().to_owned();
    let address = rig.address;
    let stopping = tokio::spawn(async move {
        let took = rig.stop().await;
        (took, std::fs::read_to_string(log).unwrap())
    });
    eventually("the idle connection is ended", || !idle.is_open()).await;
    for _ in 0..3 {
        let new = Http2Client::connect(address).await.unwrap();
        assert_eq!(new.get("/").await.unwrap().status, 200, "the app is still at work");
    }
    send(&mut stream, Bytes::from_static(b"still here")).await.unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), "still here");
    stream.send_data(Bytes::new(), true).unwrap();
    while body.data().await.is_some() {}
    let (took, text) = stopping.await.unwrap();
    assert!(took < Duration::from_secs(15), "{took:?}: every client has left");
    assert_eq!((text.lines().count(), pod.requests()), (5, 5));
    assert!(!text.contains("\"DC\""), "{text}");
}
