//! Each script does what its name says, as seen by the raw client.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::Instant;
use whichpod_testkit::client::{Client, End};
use whichpod_testkit::scripted::{ANSWER, Script, ScriptedBackend};

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const REQUEST: &str = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";

async fn start(script: Script) -> (ScriptedBackend, Client) {
    let backend = ScriptedBackend::start(ANY, script).await.unwrap();
    let client = Client::connect(backend.address()).await.unwrap();
    (backend, client)
}

/// Sends one request and reads until the connection ends.
async fn end_of(script: Script) -> (ScriptedBackend, Vec<u8>, End) {
    let (backend, mut client) = start(script).await;
    client.send(REQUEST).await.unwrap();
    let (bytes, end) = client.end().await;
    (backend, bytes, end)
}

#[tokio::test]
async fn a_proper_answer_comes_for_each_request_and_all_bytes_are_kept() {
    let (backend, mut client) = start(Script::Answer).await;
    for _ in 0..2 {
        client.send(REQUEST).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER));
    }
    assert_eq!((backend.connections(), backend.requests()), (1, 2));
    assert_eq!(backend.received(), [REQUEST.repeat(2).into_bytes()]);
}

#[tokio::test]
async fn resets_come_where_the_script_says() {
    let (backend, mut client) = start(Script::AcceptThenReset).await;
    assert_eq!(client.end().await, (Vec::new(), End::Reset));
    assert_eq!((backend.connections(), backend.requests()), (1, 0));

    let (backend, bytes, end) = end_of(Script::ResetAfterRequest).await;
    assert_eq!((bytes, end), (Vec::new(), End::Reset));
    assert_eq!(backend.received(), [REQUEST.as_bytes()], "the whole request was read before");

    for count in [0, 5, 200, 100_000] {
        let (backend, bytes, end) = end_of(Script::ResetAfterBytes(count)).await;
        assert_eq!((bytes.len(), end), (count, End::Reset));
        assert!(count < 12 || bytes.starts_with(b"HTTP/1.1 200"));
        assert_eq!(backend.requests(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn ends_without_an_answer_come_where_the_script_says() {
    let (backend, bytes, end) = end_of(Script::CloseWithoutResponse).await;
    assert_eq!((bytes, end, backend.requests()), (Vec::new(), End::Closed, 1));

    let (backend, bytes, end) = end_of(Script::Hang).await;
    assert_eq!((bytes, end), (Vec::new(), End::Open));
    assert_eq!(backend.received(), [REQUEST.as_bytes()]);
}

#[tokio::test]
async fn a_half_closed_connection_still_reads() {
    let (backend, mut client) = start(Script::HalfCloseAfterRequest).await;
    client.send(REQUEST).await.unwrap();
    assert_eq!(client.end().await, (Vec::new(), End::Closed));
    client.send("more").await.unwrap();
    client.send("and more").await.unwrap();
    let whole = format!("{REQUEST}moreand more").into_bytes();
    while backend.received() != [whole.as_slice()] {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_early_answer_comes_before_the_body_ends() {
    let (backend, mut client) = start(Script::AnswerEarly).await;
    let (head, body) = REQUEST.split_at(REQUEST.len() - 3);
    client.send(head).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), ANSWER);
    client.send(body).await.unwrap();
    client.send(REQUEST).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), ANSWER, "the connection goes on");
    assert_eq!((backend.connections(), backend.requests()), (1, 2));
}

#[tokio::test]
async fn any_bytes_can_be_the_answer() {
    let bytes = Bytes::from_static(b"\x16\x03\x01 not http");
    let (_, received, end) = end_of(Script::Garbage(bytes.clone())).await;
    assert_eq!((received, end), (bytes.to_vec(), End::Closed));

    let raw = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 Nothing Here\r\nX-A:  b \r\n\r\n";
    let (_backend, mut client) = start(Script::Raw(Bytes::from(raw))).await;
    for _ in 0..2 {
        client.send(REQUEST).await.unwrap();
        let first = client.response().await.unwrap();
        assert_eq!((first.status, first.reason.as_str()), (100, "Continue"));
        let second = client.response().await.unwrap();
        assert_eq!(
            (second.status, second.reason.as_str(), second.header("x-a")),
            (204, "Nothing Here", Some("b"))
        );
        assert_eq!([first.raw, second.raw].concat(), raw.as_bytes());
    }
}

#[tokio::test]
async fn the_client_says_what_is_wrong_with_an_answer() {
    let wrong = [
        ("SSH-2.0-x\r\n\r\n", ErrorKind::InvalidData, "status line \"SSH-2.0-x\""),
        ("HTTP/1.1 20 OK\r\n\r\n", ErrorKind::InvalidData, "status line"),
        ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", ErrorKind::InvalidData, "content-length \"x\""),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", ErrorKind::UnexpectedEof, "3 of 9 bytes"),
        ("", ErrorKind::UnexpectedEof, "without a response"),
    ];
    for (bytes, kind, text) in wrong {
        let (_backend, mut client) = start(Script::Garbage(Bytes::from(bytes))).await;
        let error = client.get("/").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    let (_backend, mut client) =
        start(Script::Garbage(Bytes::from("HTTP/1.1 200 OK\r\n\r\nto the end"))).await;
    assert_eq!(client.get("/").await.unwrap().text(), "to the end");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_closes_after_its_answer_and_within_the_time() {
    let (backend, client) = start(Script::CloseIdleAfter(Duration::from_secs(10))).await;
    let mut client = client.with_timeout(Duration::from_secs(60));
    tokio::time::sleep(Duration::from_secs(30)).await;
    client.send(REQUEST).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), ANSWER, "not before the first answer");
    client.send(REQUEST).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), ANSWER, "not while it is used");
    let started = Instant::now();
    assert_eq!(client.end().await, (Vec::new(), End::Closed));
    assert!(started.elapsed() <= Duration::from_secs(11), "{:?}", started.elapsed());
    assert_eq!(backend.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_takes_its_time() {
    let (_backend, client) = start(Script::SlowBody { bytes: 5, interval: Duration::from_secs(2) }).await;
    let mut client = client.with_timeout(Duration::from_secs(60));
    let started = Instant::now();
    assert_eq!(client.get("/").await.unwrap().text(), ".....");
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_client_gives_up_in_time() {
    let (_backend, mut client) = start(Script::Hang).await;
    let started = Instant::now();
    let error = client.get("/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "a whole response took longer than 5s");
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn connections_are_refused_and_the_port_is_held() {
    let backend = ScriptedBackend::start(ANY, Script::NoListen).await.unwrap();
    let error = TcpStream::connect(backend.address()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(ScriptedBackend::start(backend.address(), Script::NoListen).await.is_err());
}

#[tokio::test]
async fn a_silent_port_does_not_answer_connects() {
    let backend = ScriptedBackend::start(ANY, Script::Silent).await.unwrap();
    let connect = TcpStream::connect(backend.address());
    assert!(tokio::time::timeout(Duration::from_millis(200), connect).await.is_err());
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_greeting_comes_before_anybody_asked_and_the_deaf_read_nothing() {
    let (_backend, mut client) = start(Script::Greet(Bytes::from("SSH-2.0-x\r\n"))).await;
    client.finish().await.unwrap();
    assert_eq!(client.end().await, (b"SSH-2.0-x\r\n".to_vec(), End::Closed));

    let (backend, client) = start(Script::Deaf).await;
    let mut client = client.with_timeout(Duration::from_millis(200));
    let endless = vec![0; 64 << 20];
    assert_eq!(client.send(endless).await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(backend.received(), [b""]);
}

#[tokio::test]
async fn a_connection_can_break_at_its_second_request() {
    let (backend, mut client) = start(Script::AnswerThen(Box::new(Script::CloseWithoutResponse))).await;
    client.send(REQUEST).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), ANSWER);
    client.send(REQUEST).await.unwrap();
    assert_eq!(client.end().await, (Vec::new(), End::Closed));
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn each_connection_has_the_next_script_and_the_last_one_stays() {
    let scripts = vec![Script::AcceptThenReset, Script::CloseWithoutResponse, Script::Answer];
    let backend = ScriptedBackend::start_sequence(ANY, scripts).await.unwrap();
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(backend.address()).await.unwrap();
        // The reset may come before or after the request is sent.
        let answer = match client.send(REQUEST).await {
            Ok(()) => client.response().await,
            Err(error) => Err(error),
        };
        outcomes.push(answer.map(|answer| answer.status).map_err(|error| error.kind()));
    }
    assert!(matches!(outcomes[0], Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{outcomes:?}");
    assert_eq!(outcomes[1..], [Err(ErrorKind::UnexpectedEof), Ok(200), Ok(200)]);
    assert_eq!(backend.connections(), 4);
}

#[tokio::test]
async fn a_senseless_sequence_is_refused() {
    for scripts in [vec![], vec![Script::NoListen, Script::Answer], vec![Script::Answer, Script::Silent]] {
        let error = ScriptedBackend::start_sequence(ANY, scripts).await.unwrap_err();
        assert!(
            error.to_string().ends_with("give at least one, and NoListen and Silent only alone"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn dropping_a_scripted_backend_ends_its_connections() {
    let (backend, mut client) = start(Script::Hang).await;
    client.send("x").await.unwrap();
    while backend.received() != [b"x"] {
        tokio::task::yield_now().await;
    }
    drop(backend);
    assert_eq!(client.end().await, (Vec::new(), End::Closed));
}
