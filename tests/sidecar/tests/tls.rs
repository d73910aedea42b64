//! TLS towards the pods, TLS that passes through, and pods that are told who the client is.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use whichpod_testkit::client::{Client, End};
use whichpod_testkit::scripted::{ANSWER, Script, ScriptedBackend};
use whichpod_testkit::tls::{Authority, Handshake, TlsFront};
use whichpod_tests_sidecar::{ANY, Rig, eventually, received};

const NAME: &str = "backend.example.org";

/// A pod behind TLS, and what its clients need.
struct Secured {
    pod: ScriptedBackend,
    front: TlsFront,
    authority: Authority,
    folder: tempfile::TempDir,
}

impl Secured {
    async fn new(script: Script, client_authority: Option<&Authority>) -> Self {
        let pod = ScriptedBackend::start(ANY, script).await.unwrap();
        let authority = Authority::new("servers").unwrap();
        let certificate = authority.issue(NAME).unwrap();
        let front = TlsFront::start(ANY, pod.address(), &certificate, client_authority).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let secured = Self { pod, front, authority, folder };
        secured.write("ca.pem", &secured.authority.pem());
        secured
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A sidecar that trusts the authority, with more settings of TLS and others.
    fn rig(&self, tls: &Value, settings: Value) -> Rig {
        let mut tls_settings = json!({"server_name": NAME, "ca_file": self.path("ca.pem")});
        for (key, value) in tls.as_object().unwrap() {
            tls_settings[key] = value.clone();
        }
        with_tls(self.front.address(), &tls_settings, settings)
    }
}

fn with_tls(target: SocketAddr, tls: &Value, settings: Value) -> Rig {
    with_upstream(target, &json!({"tls": tls}), settings)
}

fn with_upstream(target: SocketAddr, upstream: &Value, mut settings: Value) -> Rig {
    let mut whole = json!({"name": "backend", "listen": "127.0.0.1:0", "target": target.to_string()});
    for (key, value) in upstream.as_object().unwrap() {
        whole[key] = value.clone();
    }
    settings["upstreams"] = json!([whole]);
    Rig::new(target, settings)
}

#[tokio::test]
async fn a_plain_request_reaches_a_pod_that_speaks_tls() {
    let secured = Secured::new(Script::Answer, None).await;
    let rig = secured.rig(&json!({}), json!({"protocol": "http1"}));
    let mut client = rig.client().await;
    for _ in 0..2 {
        assert_eq!(client.get("/a").await.unwrap().text(), ANSWER);
    }
    let said =
        Handshake { server_name: Some(NAME.into()), protocol: Some("http/1.1".into()), certificate: false };
    assert_eq!(secured.front.handshakes(), [said], "one connection for both");
    let lines = rig.lines(2).await;
    assert!(lines.iter().all(|line| line.verdict() == (200, "-", vec!["ok".to_owned()])));
    assert!(lines[1].tries()[0].reused);
}

#[tokio::test]
async fn any_protocol_goes_over_tls_with_half_an_end_and_without_losing_a_byte() {
    let secured = Secured::new(Script::Echo, None).await;
    let rig = secured.rig(&json!({"alpn": ["postgresql"]}), json!({"protocol": "tcp"}));
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let words: Vec<u8> = (0..4 << 20).map(|number: u32| (number % 251) as u8).collect();
    let told = async {
        write.write_all(&words).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let listening = timeout(Duration::from_secs(30), read.read_to_end(&mut heard));
    let (_, all) = tokio::join!(told, listening);
    all.unwrap().unwrap();
    assert!(heard == words, "{} of {} bytes", heard.len(), words.len());
    assert_eq!(secured.front.handshakes()[0].protocol.as_deref(), Some("postgresql"));
    assert_eq!((rig.line().await.number("bytes_sent"), rig.line().await.flags()), (4 << 20, "-"));
}

#[tokio::test]
async fn a_pod_that_is_not_who_it_should_be_is_not_spoken_to_and_the_line_says_why() {
    let secured = Secured::new(Script::Answer, None).await;
    secured.write("other.pem", &Authority::new("others").unwrap().pem());
    for (tls, why) in [
        (json!({"server_name": "other.example.org"}), "not valid for name"),
        (json!({"ca_file": secured.path("other.pem")}), "UnknownIssuer"),
    ] {
        let rig = secured.rig(&tls, json!({}));
        assert_eq!(rig.get("/").await.status, 503);
        let line = rig.line().await;
        assert_eq!(line.verdict(), (503, "UF", vec!["connect_tls_failed".to_owned()]));
        let reason = line.text("transport_failure");
        assert!(reason.starts_with("TLS_error: ") && reason.contains(why), "{reason}");
    }
    let plain = ScriptedBackend::start(ANY, Script::Garbage("HTTP/1.1 400 Bad Request\r\n\r\n".into()))
        .await
        .unwrap();
    let tls = json!({"ca_file": secured.path("ca.pem")});
    let rig = with_tls(plain.address(), &tls, json!({"protocol": "tcp", "timeouts": {"connect": "500ms"}}));
    let (bytes, end) = Client::connect(rig.address).await.unwrap().end().await;
    assert_eq!((bytes.len(), end), (0, End::Reset));
    assert_eq!(rig.line().await.flags(), "UF");

    let rig = with_tls(secured.front.address(), &json!({"insecure_skip_verify": true}), json!({}));
    assert_eq!(rig.get("/").await.text(), ANSWER, "unless nobody is to look");
}

#[tokio::test]
async fn a_pod_that_asks_for_a_certificate_gets_ours() {
    let clients = Authority::new("clients").unwrap();
    let secured = Secured::new(Script::Answer, Some(&clients)).await;
    let ours = clients.issue("sidecar").unwrap();
    secured.write("tls.crt", &ours.certificate);
    secured.write("tls.key", &ours.key);
    let files = json!({"cert_file": secured.path("tls.crt"), "key_file": secured.path("tls.key")});
    let rig = secured.rig(&files, json!({}));
    assert_eq!(rig.get("/").await.text(), ANSWER);
    assert!(secured.front.handshakes()[0].certificate);
    let without = secured.rig(&json!({}), json!({"retry": {"attempts": 0}}));
    assert_eq!(without.get("/").await.status, 503);
}

#[tokio::test]
async fn tls_of_the_clients_own_passes_through_with_its_name_in_the_line() {
    let secured = Secured::new(Script::Answer, None).await;
    for protocol in ["auto", "tcp"] {
        let through = Rig::new(secured.front.address(), json!({"protocol": protocol}));
        // A sidecar with TLS is as good a client of TLS as any.
        let target = with_tls(
            through.address,
            &json!({"server_name": NAME, "ca_file": secured.path("ca.pem")}),
            json!({}),
        );
        assert_eq!(target.get("/").await.text(), ANSWER);
        drop(target);
        let line = through.line().await;
        assert_eq!((line.text("server_name"), line.flags()), (NAME, "-"), "{protocol}");
        assert!(line.number("bytes_received") > 100 && line.get("method").is_null());
    }
}

#[tokio::test]
async fn a_tunnel_goes_over_tls_too() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    let secured = Secured::new(Script::EchoAfter(Bytes::from_static(switch.as_bytes())), None).await;
    let rig = secured.rig(&json!({}), json!({}));
    let mut client = rig.client().await;
    client
        .send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello")
        .await
        .unwrap();
    client.finish().await.unwrap();
    let (bytes, end) = client.end().await;
    assert!(bytes.ends_with(b"\r\n\r\nhello") && end == End::Closed, "{bytes:?} {end:?}");
    assert_eq!(rig.line().await.number("bytes_sent"), 5);
}

#[tokio::test]
async fn pods_are_told_who_the_client_is_one_client_to_a_connection() {
    let pod = ScriptedBackend::start(ANY, Script::Hang).await.unwrap();
    for (version, first) in
        [("v1", &b"PROXY TCP4 127.0.0.1 127.0.0.1 "[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c")]
    {
        let proxy = json!({"proxy_protocol": version});
        let before = pod.connections();
        let rig = with_upstream(pod.address(), &proxy, json!({"protocol": "tcp"}));
        let mut client = rig.client().await;
        client.send("hello").await.unwrap();
        let complete = || pod.received().get(before).is_some_and(|bytes| bytes.ends_with(b"hello"));
        eventually("the pod has both", complete).await;
        let received = pod.received()[before].clone();
        assert!(received.starts_with(first), "{version}: {received:?}");
        let port = client.local_address().unwrap().port();
        let told = if version == "v1" {
            String::from_utf8_lossy(&received).contains(&format!(" {port} {}\r\nhello", rig.address.port()))
        } else {
            received[24..28] == [port.to_be_bytes(), rig.address.port().to_be_bytes()].concat()
        };
        assert!(told, "{version}: {received:?}");
        assert_eq!(
            {
                drop(client);
                rig.line().await.number("bytes_received")
            },
            5,
            "what is told is none of the client's"
        );
    }
}

#[tokio::test]
async fn a_request_never_goes_over_a_connection_that_was_opened_for_another_client() {
    // The line is none of a request's, so this pod takes it for the beginning of a head: each answer is to one.
    let listener = tokio::net::TcpListener::bind(ANY).await.unwrap();
    // Of a protocol that is known: a client that says nothing for long has no connection opened for it.
    let settings = json!({"protocol": "http1"});
    let rig = with_upstream(listener.local_addr().unwrap(), &json!({"proxy_protocol": "v1"}), settings);
    let pod = tokio::spawn(async move {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            seen.push(tokio::spawn(async move {
                let mut received = Vec::new();
                let mut answered = 0;
                while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {
                    let asked = received.windows(4).filter(|bytes| bytes == b"\r\n\r\n").count();
                    for _ in answered..asked {
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    }
                    answered = asked;
                }
                String::from_utf8(received).unwrap()
            }));
        }
        let mut all = Vec::new();
        for task in seen {
            all.push(task.await.unwrap());
        }
        all
    });
    let (mut one, mut other) = (rig.client().await, rig.client().await);
    for _ in 0..2 {
        assert_eq!(one.get("/one").await.unwrap().status, 200);
        assert_eq!(other.get("/other").await.unwrap().status, 200);
    }
    let ports = [&one, &other].map(|client| client.local_address().unwrap().port());
    drop(rig);
    let seen = timeout(Duration::from_secs(10), pod).await.unwrap().unwrap();
    for ((connection, port), path) in seen.iter().zip(ports).zip(["/one", "/other"]) {
        assert!(
            connection.starts_with("PROXY TCP4 ") && connection.contains(&format!(" {port} ")),
            "{connection}"
        );
        assert_eq!(connection.matches(&format!("GET {path} ")).count(), 2, "{connection}");
        assert_eq!(connection.matches("PROXY").count(), 1, "{connection}");
    }
}

#[test]
fn files_that_cannot_be_used_are_all_told_at_the_start() {
    let upstream = |name: &str, file: &str| json!({"name": name, "listen": "127.0.0.1:0", "target": "127.0.0.1:1", "tls": {"ca_file": file}});
    let document = json!({"upstreams": [upstream("a", "/nonexistent/a.pem"), upstream("b", "/dev/null")],
                          "dns": {"servers": ["127.0.0.1:9"]}});
    let error = whichpod_testkit::sidecar::Sidecar::start(document).err().unwrap().to_string();
    assert!(error.contains("upstream a: tls: /nonexistent/a.pem: No such file"), "{error}");
    assert!(error.contains("upstream b: tls: /dev/null: it holds no certificate"), "{error}");
}

#[tokio::test]
async fn a_silent_client_does_not_keep_a_pod_behind_tls_from_greeting() {
    let secured = Secured::new(Script::Greet(Bytes::from_static(b"220 mail\r\n")), None).await;
    let rig = secured.rig(&json!({}), json!({}));
    let mut client = TcpStream::connect(rig.address).await.unwrap();
    let mut greeting = [0; 10];
    timeout(Duration::from_secs(10), client.read_exact(&mut greeting)).await.unwrap().unwrap();
    assert_eq!(&greeting, b"220 mail\r\n");
    client.write_all(b"QUIT\r\n").await.unwrap();
    eventually("the pod hears the client", || received(&secured.pod) == "QUIT\r\n").await;
}

#[tokio::test]
async fn health_checks_speak_tls_too() {
    let secured = Secured::new(Script::Answer, None).await;
    let check = json!({"protocol": "http", "path": "/up", "interval": "30ms"});
    let _rig = secured.rig(&json!({}), json!({"health_check": check}));
    eventually("the pod is checked", || received(&secured.pod).contains("GET /up HTTP/1.1\r\n")).await;
}
