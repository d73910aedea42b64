//! Pods that refuse, break off, hang or talk nonsense: what the client gets, and what the line says.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Uri};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use whichpod_testkit::client::End;
use whichpod_testkit::scripted::{ANSWER, Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Cluster, Line, Rig, UPSTREAM, eventually, request_ids, scripted_load};

const GET: &str = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &str = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";

async fn pod(script: Script) -> ScriptedBackend {
    ScriptedBackend::start(ANY, script).await.unwrap()
}

fn garbage(bytes: &'static str) -> Script {
    Script::Garbage(Bytes::from_static(bytes.as_bytes()))
}

/// For many sidecars in one thread, whose clients may be late with their requests: the protocol is known, so that nobody
/// looks after a quarter of a second whether the pod greets, and time is limited only where nothing else ends a request.
fn settings(script: &Script) -> Value {
    let timeouts = if *script == Script::Hang { json!({"request": "1s"}) } else { json!({}) };
    json!({"protocol": "http1", "timeouts": timeouts})
}

/// What one request over one such pod comes to.
struct Row {
    script: Script,
    request: &'static str,
    status: u64,
    flags: &'static str,
    details: &'static str,
    tries: &'static [&'static str],
}

async fn check(row: Row) {
    let Row { script, request, status, flags, details, tries } = row;
    let pod = pod(script.clone()).await;
    let rig = Rig::new(pod.address(), settings(&script));
    let answer = rig.exchange(request).await;
    let what = format!("{script:?} and {}", &request[..4]);
    assert_eq!(u64::from(answer.status), status, "{what}");
    let names_it = answer.text().starts_with(&format!("whichpod: upstream {UPSTREAM}: "));
    assert!(names_it, "{what}: the body names the upstream: {:?}", answer.text());

    let line = rig.line().await;
    assert_eq!(line.verdict(), (status, flags, tries.iter().map(ToString::to_string).collect()), "{what}");
    assert_eq!(line.text("details"), details, "{what}");
    assert_eq!(line.number("bytes_sent"), answer.body.len() as u64, "{what}");
    assert_eq!(line.text("upstream_host"), pod.address().to_string(), "{what}: the pod at fault is named");
    assert!(line.tries().iter().all(|attempt| attempt.address == pod.address().to_string()), "{what}");
}

#[tokio::test]
async fn a_user_reads_which_pod_gave_no_answer_and_why() {
    const CLOSED: &str = "upstream_reset_before_response_started{connection_termination}";
    const RESET: &str = "upstream_reset_before_response_started{connection_reset}";
    const REFUSED: &str = "upstream_reset_before_response_started{remote_connection_failure}";
    const TIMEOUT: &str = "upstream_response_timeout";
    const NOT_HTTP: &str = "upstream_reset_before_response_started{protocol_error}";
    let row = |script, request, status, flags, details, tries| Row {
        script,
        request,
        status,
        flags,
        details,
        tries,
    };
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc";
    let two_lengths = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab";
    let coding = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    let rows = [
        row(Script::NoListen, GET, 503, "UF", REFUSED, &["connect_refused"] as &[_]),
        row(Script::NoListen, POST, 503, "UF", REFUSED, &["connect_refused"]),
        row(Script::CloseWithoutResponse, GET, 503, "UC,URX", CLOSED, &["closed"; 3]),
        row(Script::CloseWithoutResponse, POST, 503, "UC", CLOSED, &["closed"]),
        row(Script::HalfCloseAfterRequest, GET, 503, "UC,URX", CLOSED, &["closed"; 3]),
        row(Script::HalfCloseAfterRequest, POST, 503, "UC", CLOSED, &["closed"]),
        row(Script::ResetAfterRequest, GET, 503, "UC,URX", RESET, &["reset"; 3]),
        row(Script::ResetAfterRequest, POST, 503, "UC", RESET, &["reset"]),
        // A part of a head: the request has been acted upon, and is not repeated.
        row(Script::ResetAfterBytes(5), GET, 503, "UC", RESET, &["reset"]),
        row(Script::ResetAfterBytes(60), GET, 503, "UC", RESET, &["reset"]),
        row(Script::Hang, GET, 504, "UT", TIMEOUT, &["response_timeout"]),
        row(Script::Hang, POST, 504, "UT", TIMEOUT, &["response_timeout"]),
        row(garbage("SSH-2.0-OpenSSH\r\n"), GET, 502, "UPE", NOT_HTTP, &["protocol_error"]),
        row(garbage("SSH-2.0-OpenSSH\r\n"), POST, 502, "UPE", NOT_HTTP, &["protocol_error"]),
        row(garbage("\u{16}\u{3}\u{1}\0\0"), GET, 502, "UPE", NOT_HTTP, &["protocol_error"]),
        row(garbage("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n"), GET, 502, "UPE", NOT_HTTP, &["protocol_error"]),
        row(garbage("HTTP/1.1 200 OK\r\na: b\rc: d\r\n\r\n"), GET, 502, "UPE", NOT_HTTP, &["protocol_error"]),
        row(garbage(two_lengths), GET, 502, "UPE", NOT_HTTP, &["protocol_error"]),
        row(garbage(coding), GET, 502, "UPE", NOT_HTTP, &["protocol_error"]),
        // Nobody asked to switch.
        row(garbage(switch), GET, 502, "UPE", NOT_HTTP, &["protocol_error"]),
    ];
    join_all(rows.map(check)).await;
}

#[tokio::test]
async fn a_pod_that_takes_connections_only_to_reset_them_costs_few_attempts() {
    let pod = pod(Script::AcceptThenReset).await;
    let rig = Rig::new(pod.address(), json!({}));
    for request in [GET, POST] {
        for _ in 0..20 {
            assert_eq!(rig.exchange(request).await.status, 503);
        }
    }
    for line in rig.lines(40).await {
        let (status, flags, tries) = line.verdict();
        // The reset comes before or after the request is written: nobody can tell.
        assert!(status == 503 && ["UF", "UC", "UC,URX"].contains(&flags), "{flags}");
        assert!((1..=3).contains(&tries.len()), "{tries:?}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_is_no_pod_to_hammer() {
    let pod = pod(Script::Greet(Bytes::from("SSH-2.0-OpenSSH\r\n"))).await;
    let rig = Rig::new(pod.address(), json!({}));
    for request in [GET, POST] {
        let answer = rig.exchange(request).await;
        assert!([502, 503].contains(&answer.status), "{answer:?}");
    }
    for line in rig.lines(2).await {
        assert!((1..=3).contains(&line.tries().len()), "{line:?}");
    }
}

#[tokio::test]
async fn a_client_gets_what_a_pod_sent_before_it_broke_off_and_sees_that_it_did() {
    let head = "HTTP/1.1 200 OK\r\nx-a: 1\r\n";
    let length = "content-length: 9\r\n\r\nabc";
    let chunks = "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let rows = [
        (Script::Garbage(format!("{head}{length}").into()), "UC", "connection_termination"),
        (Script::Garbage(format!("{head}{chunks}").into()), "UC", "connection_termination"),
        (Script::Garbage(format!("{head}{chunks}zz\r\n").into()), "UPE", "protocol_error"),
        (Script::ResetAfterBytes(200), "UC", "connection_termination"),
    ];
    for (script, flags, why) in rows {
        let pod = pod(script.clone()).await;
        let rig = Rig::new(pod.address(), json!({}));
        let mut client = rig.client().await;
        client.send(GET).await.unwrap();
        let (bytes, end) = client.end().await;
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && end != End::Open, "{script:?}: {text:?} {end:?}");
        assert!(!text.ends_with("0\r\n\r\n"), "{script:?}: no client may take it for whole: {text:?}");
        let line = rig.line().await;
        assert_eq!(line.verdict(), (200, flags, vec!["ok".to_owned()]), "{script:?}");
        assert_eq!(line.text("details"), format!("upstream_reset_after_response_started{{{why}}}"));
        let sent = line.number("bytes_sent");
        assert!(sent > 0 && text.contains("abc") == (sent == 3), "{script:?}: {sent} {text:?}");
        assert_eq!(pod.requests(), 1, "{script:?}: what has begun is not repeated");
    }
}

#[tokio::test]
async fn an_nginx_that_speaks_http_1_0_does_not_take_half_an_answer_for_the_whole() {
    let half = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let pod = pod(garbage(half)).await;
    let rig = Rig::new(pod.address(), json!({}));
    let mut client = rig.client().await;
    client.send("GET /a HTTP/1.0\r\n\r\n").await.unwrap();
    let (_, end) = client.end().await;
    assert_eq!(end, End::Reset, "to this client the end of the connection is the end of the answer");
    assert_eq!(rig.line().await.verdict(), (200, "UC", vec!["ok".to_owned()]));
}

#[tokio::test]
async fn no_answer_of_one_request_is_given_to_another() {
    let raw = |bytes: &'static str| Script::Raw(Bytes::from_static(bytes.as_bytes()));
    let first = [
        Script::ResetAfterBytes(5),
        Script::ResetAfterBytes(200),
        Script::Hang,
        Script::HalfCloseAfterRequest,
        garbage("SSH-2.0-OpenSSH\r\n"),
        garbage("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
        raw(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nfor me",
        ),
        raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
        raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab"),
        raw("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nab"),
    ];
    let check = async |script: Script| {
        let pod = ScriptedBackend::start_sequence(ANY, vec![script.clone(), Script::Answer]).await.unwrap();
        let mut settings = settings(&script);
        settings["retry"] = json!({"attempts": 0});
        let rig = Rig::new(pod.address(), settings);
        let mut client = rig.client().await;
        client.send(GET).await.unwrap();
        let begun = client.response().await;
        rig.lines(1).await;
        let answer = rig.exchange(POST).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER), "{script:?}: {begun:?}");
        let line = rig.last_line(2).await;
        assert_eq!(line.tries().len(), 1, "{script:?}: no try is lost on a doubtful connection");
        assert!(!line.tries()[0].reused, "{script:?}");
    };
    join_all(first.map(check)).await;
}

#[tokio::test]
async fn a_pod_that_answers_early_gets_the_next_request_on_the_same_connection() {
    let pod = pod(Script::AnswerEarly).await;
    let rig = Rig::new(pod.address(), json!({}));
    let mut client = rig.client().await;
    for _ in 0..2 {
        let (head, body) = POST.split_at(POST.len() - 3);
        client.send(head).await.unwrap();
        assert_eq!(client.response().await.unwrap().text(), ANSWER);
        client.send(body).await.unwrap();
        let received = || pod.received().concat().ends_with(b"abc");
        eventually("the pod has the body", received).await;
        assert_eq!(client.get("/a").await.unwrap().text(), ANSWER);
    }
    assert_eq!((pod.connections(), pod.requests()), (1, 4));
    for line in rig.lines(4).await {
        assert_eq!(line.verdict(), (200, "-", vec!["ok".to_owned()]));
    }
}

#[tokio::test]
async fn a_get_moves_to_another_pod_and_a_post_is_sent_once() {
    let (bad, good) = (pod(Script::CloseWithoutResponse).await, pod(Script::Answer).await);
    let (_cluster, rig) = Cluster::in_front_of(&[&bad, &good], json!({})).await;
    const EACH: usize = 20;
    for _ in 0..EACH {
        assert_eq!(rig.exchange(GET).await.status, 200);
    }
    let lines = rig.lines(EACH).await;
    let moved: Vec<_> = lines.iter().filter(|line| line.tries().len() == 2).collect();
    assert!(moved.len() >= EACH / 2, "the bad pod has its turns");
    for line in moved {
        assert_eq!(line.verdict(), (200, "-", vec!["closed".to_owned(), "ok".to_owned()]));
        let tries = line.tries();
        assert_eq!(tries[0].address, bad.address().to_string());
        assert_eq!(
            (tries[0].pod.as_deref(), tries[1].pod.as_deref()),
            (Some("backend-1"), Some("backend-2"))
        );
        assert_eq!(line.text("upstream_host"), good.address().to_string(), "the line names who answered");
        assert_eq!(line.text("upstream_pod"), "backend-2");
    }
    let sent_before = bad.requests() + good.requests();
    for _ in 0..EACH {
        rig.exchange(POST).await;
    }
    assert_eq!(bad.requests() + good.requests() - sent_before, EACH, "each once");
    let failed = rig.lines(2 * EACH).await.iter().filter(|line| line.flags() == "UC").count();
    assert_eq!(failed, EACH / 2);
}

#[tokio::test]
async fn statuses_are_retried_elsewhere_only_where_the_user_asked_for_it() {
    let unavailable = "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
    let bad = pod(Script::Raw(Bytes::from_static(unavailable.as_bytes()))).await;
    let good = pod(Script::Answer).await;
    let (_cluster, rig) = Cluster::in_front_of(&[&bad, &good], json!({})).await;
    let mut statuses = [rig.exchange(GET).await.status, rig.exchange(GET).await.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503], "as without a sidecar");

    let (_cluster, rig) = Cluster::in_front_of(&[&bad, &good], json!({"retry": {"on": ["5xx"]}})).await;
    for _ in 0..10 {
        assert_eq!(rig.exchange(GET).await.status, 200);
    }
    let retried = rig.lines(10).await.into_iter().find(|line| line.tries().len() == 2).unwrap();
    assert_eq!(retried.verdict(), (200, "-", vec!["retried".to_owned(), "ok".to_owned()]));
    assert_eq!(retried.tries()[0].status, Some(503));
    let mut statuses = [rig.exchange(POST).await.status, rig.exchange(POST).await.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503], "a POST is not repeated");
}

#[tokio::test]
async fn the_keep_alive_race_fails_no_get_and_doubles_no_post() {
    let mut pods = Vec::new();
    for _ in 0..3 {
        pods.push(pod(Script::CloseIdleAfter(Duration::from_millis(4))).await);
    }
    let (_cluster, rig) = Cluster::in_front_of(&pods.iter().collect::<Vec<_>>(), json!({})).await;
    let load = || scripted_load(rig.address).connections(8);
    let gets = load().requests(1500).run().await;
    assert_eq!((gets.ok, gets.failed), (1500, 0), "{:?}", gets.reasons);

    const FIRST: u64 = 1_000_000;
    let posts =
        load().requests(1500).first_id(FIRST).send(Method::POST, Uri::from_static("/"), "abc").run().await;
    let ids = request_ids(&pods);
    let sent: Vec<_> =
        (FIRST..FIRST + 1500).map(|id| ids.get(&id.to_string()).copied().unwrap_or(0)).collect();
    assert!(sent.iter().all(|count| *count <= 1), "no POST came twice");
    assert!(sent.iter().sum::<usize>() as u64 >= posts.ok);
    // A POST that met the close is not repeated; pods that close after milliseconds meet many.
    assert!(posts.ok > posts.failed, "{:?}", posts.reasons);

    let lines = rig.lines(3000).await;
    let raced = lines
        .iter()
        .filter(|line| line.tries().iter().any(|attempt| attempt.reused && attempt.reason != "ok"));
    assert!(raced.count() > 0, "the race was met");
    let failed = lines.iter().filter(|line| line.status() != 200).count();
    assert_eq!(failed as u64, posts.failed, "every failure has its line");
}

#[tokio::test]
async fn a_get_to_the_only_pod_survives_its_idle_connections_end() {
    for last in [Script::CloseWithoutResponse, Script::ResetAfterRequest] {
        let scripts = vec![Script::AnswerThen(Box::new(last.clone())), Script::Answer];
        let pod = ScriptedBackend::start_sequence(ANY, scripts).await.unwrap();
        let rig = Rig::new(pod.address(), json!({}));
        assert_eq!(rig.exchange(POST).await.text(), ANSWER);
        assert_eq!(rig.exchange(GET).await.text(), ANSWER);
        let line = rig.last_line(2).await;
        let tries: Vec<_> = line.tries().into_iter().map(|t| (t.reused, t.reason == "ok")).collect();
        assert_eq!(tries, [(true, false), (false, true)], "{last:?}");
        assert_eq!((line.status(), line.flags(), pod.connections()), (200, "-", 2), "{last:?}");
    }
}

#[tokio::test]
async fn a_post_is_not_risked_on_a_connection_that_was_idle_for_a_second() {
    let scripts = vec![Script::AnswerThen(Box::new(Script::CloseWithoutResponse)), Script::Answer];
    let pod = ScriptedBackend::start_sequence(ANY, scripts).await.unwrap();
    let rig = Rig::new(pod.address(), json!({}));
    assert_eq!(rig.exchange(POST).await.text(), ANSWER);
    sleep(Duration::from_millis(1050)).await;
    assert_eq!(rig.exchange(POST).await.text(), ANSWER);
    assert_eq!(pod.connections(), 2);
    assert!(!rig.last_line(2).await.tries()[0].reused);
}

#[tokio::test]
async fn where_all_of_many_pods_refuse_a_request_soon_asks_only_some_of_them() {
    let cluster = Cluster::new(1).await;
    // Its port is taken on one address, and nobody listens on it on the others.
    let elsewhere = TcpListener::bind("127.42.1.200:0").unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let addresses: Vec<SocketAddr> = (1..=80).map(|n| ([127, 42, 1, n], port).into()).collect();
    cluster.publish_addresses(&addresses);
    let rig = cluster.sidecar_for(&format!("{}:{port}", cluster.service.name()), json!({})).ready().await;
    for _ in 0..2 {
        assert_eq!(rig.get("/").await.status, 503);
    }
    let lines = rig.lines(2).await;
    let asked = |line: &Line| line.tries().len() as u64 + line.number("attempts_omitted");
    assert_eq!(asked(&lines[0]), 80, "nothing spoke against any of them yet");
    assert_eq!(asked(&lines[1]), 32);
    assert!(lines.iter().all(|line| line.flags().contains("UF")));
}

#[tokio::test]
async fn two_of_three_pods_refuse_and_no_request_fails() {
    let pods = [pod(Script::NoListen).await, pod(Script::NoListen).await, pod(Script::Answer).await];
    let (_cluster, rig) = Cluster::in_front_of(&pods.iter().collect::<Vec<_>>(), json!({})).await;
    let load = || scripted_load(rig.address).connections(8).requests(300);
    let gets = load().run().await;
    let posts = load().send(Method::POST, Uri::from_static("/"), "abc").run().await;
    assert_eq!((gets.ok, posts.ok), (300, 300), "{:?} {:?}", gets.reasons, posts.reasons);

    let lines = rig.lines(600).await;
    let mut refused = 0;
    for line in &lines {
        let tries = line.tries();
        let (last, before) = tries.split_last().unwrap();
        assert_eq!((line.status(), line.flags()), (200, "-"));
        assert_eq!((last.address.as_str(), last.reason.as_str()), (&*pods[2].address().to_string(), "ok"));
        assert!(before.iter().all(|t| t.reason == "connect_refused" && t.status.is_none()), "{before:?}");
        refused += before.len();
    }
    assert!(refused >= 2, "both were met and are listed");
    assert!(refused < 60, "met {refused} times: a pod that refuses is put aside at once");
}

#[tokio::test]
async fn a_node_that_vanished_delays_a_request_by_a_quarter_second_and_soon_none() {
    let (gone, good) = (pod(Script::Silent).await, pod(Script::Answer).await);
    let (_cluster, rig) = Cluster::in_front_of(&[&gone, &good], json!({})).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut count, mut met, mut direct_in_a_row) = (0, 0, 0);
    while direct_in_a_row < 8 {
        assert_eq!(rig.exchange(GET).await.status, 200);
        count += 1;
        let line = rig.last_line(count).await;
        if line.tries().len() == 1 {
            direct_in_a_row += 1;
        } else {
            (met, direct_in_a_row) = (met + 1, 0);
            assert_eq!(line.verdict(), (200, "-", vec!["connect_slow".to_owned(), "ok".to_owned()]));
            assert_eq!(line.tries()[0].address, gone.address().to_string(), "the line says why it was slow");
            let took = line.number("duration_ms");
            assert!((250..1000).contains(&took), "{took} ms");
        }
        assert!(Instant::now() < deadline, "{met} of {count} requests met the pod: it is not put aside");
    }
    assert!(met > 0, "the pod was met");
}

#[tokio::test]
async fn a_vanished_only_pod_fails_the_request_when_the_connect_timeout_is_over() {
    let gone = pod(Script::Silent).await;
    let rig = Rig::new(gone.address(), json!({"timeouts": {"connect": "300ms"}}));
    let started = Instant::now();
    let answer = rig.exchange(POST).await;
    let took = started.elapsed().as_millis();
    assert!((300..1500).contains(&took), "{took} ms");
    assert_eq!((answer.status, answer.text().contains(UPSTREAM)), (503, true));
    let line = rig.line().await;
    assert_eq!(line.verdict(), (503, "UF", vec!["connect_timeout".to_owned()]));
    assert_eq!(line.text("details"), "upstream_reset_before_response_started{connection_timeout}");
}
