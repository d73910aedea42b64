//! Requests that become tunnels: WebSocket and other upgrades, CONNECT.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use whichpod_testkit::client::End;
use whichpod_testkit::scripted::{ANSWER, Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Rig, received, received_head};

const ASK: &str = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket, h2c\r\n\
                   http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\nsec-websocket-key: x\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nconnection: upgrade\r\nsec-websocket-accept: y\r\n\r\n";
const CONNECT: &str = "CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\nproxy-connection: keep-alive\r\n\r\n";

async fn rig(script: Script, settings: serde_json::Value) -> (ScriptedBackend, Rig) {
    let pod = ScriptedBackend::start(ANY, script).await.unwrap();
    let rig = Rig::new(pod.address(), settings);
    (pod, rig)
}

fn echo_after(bytes: &str) -> Script {
    Script::EchoAfter(Bytes::copy_from_slice(bytes.as_bytes()))
}

/// Reads one head, and leaves what follows.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(Duration::from_secs(10), stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    timeout(Duration::from_secs(10), stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

#[tokio::test]
async fn a_websocket_goes_both_ways_and_its_line_counts_what_went() {
    // The pod's first words come with its answer.
    let (pod, rig) = rig(echo_after(&format!("{SWITCH}welcome")), json!({})).await;
    let mut client = TcpStream::connect(rig.address).await.unwrap();
    // So do the client's with its question.
    client.write_all(format!("{ASK}early").as_bytes()).await.unwrap();
    let answer = head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    for kept in ["upgrade: WebSocket\r\n", "connection: upgrade\r\n", "sec-websocket-accept: y\r\n"] {
        assert!(answer.contains(kept), "{answer}");
    }
    assert!(!answer.contains("content-length") && !answer.contains("close"), "{answer}");
    assert_eq!(read(&mut client, 12).await, b"welcomeearly");
    client.write_all(b"late").await.unwrap();
    assert_eq!(read(&mut client, 4).await, b"late");
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");

    let sent = received_head(&pod);
    assert!(sent.contains(&"upgrade: websocket".to_owned()), "{sent:?}");
    assert!(sent.contains(&"connection: upgrade".to_owned()), "{sent:?}");
    assert!(!received(&pod).contains("h2c") && !received(&pod).contains("http2-settings"), "{sent:?}");
    let line = rig.line().await;
    assert_eq!(line.verdict(), (101, "-", vec!["ok".to_owned()]));
    assert_eq!((line.number("bytes_received"), line.number("bytes_sent")), (9, 16));
    assert_eq!((line.text("path"), line.text("details")), ("/chat", "via_upstream"));
    assert_eq!(line.text("upstream_host"), pod.address().to_string());
}

#[tokio::test]
async fn a_pod_that_does_not_switch_answers_as_ever_on_the_same_connection() {
    let (pod, rig) = rig(Script::Answer, json!({})).await;
    let mut client = rig.client().await;
    for _ in 0..2 {
        client.send(ASK).await.unwrap();
        assert_eq!(client.response().await.unwrap().text(), ANSWER);
    }
    assert_eq!((pod.connections(), pod.requests()), (1, 2));
}

#[tokio::test]
async fn a_pod_cannot_switch_to_what_nobody_offered() {
    for switch in ["upgrade: h2c\r\n", "upgrade: other\r\n", ""] {
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{switch}connection: upgrade\r\n\r\nabc");
        let (_pod, rig) = rig(Script::Garbage(answer.into()), json!({})).await;
        assert_eq!(rig.exchange(ASK).await.status, 502, "{switch:?}");
        assert_eq!(rig.line().await.verdict(), (502, "UPE", vec!["protocol_error".to_owned()]));
    }
}

#[tokio::test]
async fn connect_is_a_tunnel_once_the_pod_says_2xx_and_an_answer_before() {
    let established = "HTTP/1.1 200 Connection established\r\ncontent-length: 7\r\n\r\n";
    let (pod, rig) = rig(echo_after(established), json!({})).await;
    let mut client = TcpStream::connect(rig.address).await.unwrap();
    client.write_all(CONNECT.as_bytes()).await.unwrap();
    let answer = head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("content-length"), "{answer}");
    // Nothing that looks like a request is one any more.
    let smuggled = b"GET /smuggled HTTP/1.1\r\nhost: b\r\n\r\n";
    client.write_all(smuggled).await.unwrap();
    assert_eq!(read(&mut client, smuggled.len()).await, smuggled);
    drop(client);
    let line = rig.line().await;
    assert_eq!((line.status(), line.text("method"), line.number("bytes_received")), (200, "CONNECT", 35));
    let sent = received_head(&pod);
    assert_eq!(sent[0], "CONNECT a:443 HTTP/1.1");
    assert!(!sent.contains(&"proxy-connection: keep-alive".to_owned()), "{sent:?}");

    let (_pod, rig) =
        self::rig(Script::Garbage("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".into()), json!({}))
            .await;
    let answer = rig.exchange(CONNECT).await;
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    for bad in ["CONNECT a:443 HTTP/1.1\r\nhost: b\r\n\r\n", "CONNECT /a HTTP/1.1\r\nhost: a\r\n\r\n"] {
        assert_eq!(rig.exchange(bad).await.status, 400, "{bad:?}");
    }
}

#[tokio::test]
async fn limits_of_requests_end_no_tunnel_but_idleness_does() {
    let timeouts =
        json!({"request": "800ms", "downstream_idle": "800ms", "upstream_idle": "800ms", "head": "800ms"});
    let (_pod, rig) = rig(echo_after(SWITCH), json!({"timeouts": timeouts})).await;
    let mut client = TcpStream::connect(rig.address).await.unwrap();
    client.write_all(ASK.as_bytes()).await.unwrap();
    head(&mut client).await;
    sleep(Duration::from_millis(1800)).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(read(&mut client, 1).await, b"x");

    let (_pod, rig) = self::rig(echo_after(SWITCH), json!({"timeouts": {"idle": "200ms"}})).await;
    let mut client = rig.client().await;
    client.send(ASK).await.unwrap();
    let (bytes, how) = client.end().await;
    assert!(bytes.starts_with(b"HTTP/1.1 101 ") && how == End::Closed, "{how:?}");
    let line = rig.line().await;
    assert_eq!((line.status(), line.flags(), line.text("details")), (101, "SI", "tcp_session_idle_timeout"));
}

#[tokio::test]
async fn a_tunnel_that_is_cut_at_the_end_has_its_line() {
    let settings = json!({"shutdown": {"native_sidecar": false, "grace_period": "2100ms"}});
    let (_pod, mut rig) = rig(echo_after(SWITCH), settings).await;
    let mut client = TcpStream::connect(rig.address).await.unwrap();
    client.write_all(ASK.as_bytes()).await.unwrap();
    assert!(!head(&mut client).await.contains("close"));
    rig.stop().await;
    let line = rig.line().await;
    assert_eq!((line.status(), line.flags(), line.text("details")), (101, "LR", "shutdown"));
}
