use std::net::SocketAddr;

use axum::routing::post;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use whichpod_runtime::bind::bind;
use whichpod_runtime::shutdown::Trigger;

use super::*;
use crate::certificates::material::{Lifetimes, Material};

struct Running {
    address: SocketAddr,
    served: Served,
    trigger: Trigger,
    shutdown: Shutdown,
    server: tokio::task::JoinHandle<io::Result<()>>,
}

fn start(router: Router) -> Running {
    let listener = bind("127.0.0.1:0".parse().unwrap(), "the webhook").unwrap();
    let address = listener.local_addr().unwrap();
    let served = Served::default();
    let (trigger, shutdown) = Shutdown::new();
    let server = tokio::spawn(serve(listener, router, served.clone(), shutdown.clone()));
    Running { address, served, trigger, shutdown, server }
}

fn material() -> Material {
    let lifetimes =
        Lifetimes { authority: SignedDuration::from_hours(9), leaf: SignedDuration::from_hours(3) };
    Material::fresh(&["127.0.0.1".to_owned()], Timestamp::now(), lifetimes).unwrap()
}

/// Connects as the API server does, trusting only this material's authorities.
async fn connect(
    address: SocketAddr,
    trusted: &Material,
    protocols: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.authority().der.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
}

const POST: &[u8] = b"POST /mutate HTTP/1.1\r\nhost: webhook\r\ncontent-length: 0\r\n\r\n";

/// Reads until the body is there, or the end: it may come in pieces.
async fn answer(stream: &mut TlsStream<TcpStream>) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"reviewed") && stream.read_buf(&mut answer).await.unwrap() > 0 {}
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart_and_old_connections_live_on() {
    let Running { address, served, .. } = start(Router::new().route("/mutate", post(async || "reviewed")));
    let (old, new) = (material(), material());
    assert!(connect(address, &old, &[]).await.is_err(), "there is no certificate yet");

    served.set(old.leaf().unwrap()).unwrap();
    let mut early = connect(address, &old, &["http/1.1"]).await.unwrap();
    served.set(new.leaf().unwrap()).unwrap();
    assert!(connect(address, &old, &[]).await.is_err());
    let mut late = connect(address, &new, &["http/1.1"]).await.unwrap();
    for stream in [&mut early, &mut late] {
        stream.write_all(POST).await.unwrap();
        let answer = answer(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("reviewed"), "{answer}");
    }
}

#[tokio::test]
async fn the_api_servers_http2_is_spoken() {
    let Running { address, served, .. } = start(Router::new());
    let material = material();
    served.set(material.leaf().unwrap()).unwrap();
    let stream = connect(address, &material, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
}

#[tokio::test]
async fn a_review_under_way_is_finished_and_idle_connections_are_closed() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (enter, wait) = (Arc::clone(&entered), Arc::clone(&release));
    let slow = post(async move || {
        enter.notify_one();
        wait.notified().await;
        "reviewed"
    });
    let Running { address, served, trigger, shutdown, server } = start(Router::new().route("/mutate", slow));
    let material = material();
    served.set(material.leaf().unwrap()).unwrap();
    let mut busy = connect(address, &material, &["http/1.1"]).await.unwrap();
    let mut idle = connect(address, &material, &["http/1.1"]).await.unwrap();
    busy.write_all(POST).await.unwrap();
    entered.notified().await;

    trigger.start();
    server.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody new is let in");
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0, "an idle connection ends at once");
    assert_eq!(shutdown.running(), 1);

    release.notify_one();
    let answer = answer(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    assert!(shutdown.drained(Instant::now() + Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_shakes_hands_is_cut_off() {
    let Running { address, served, .. } = start(Router::new());
    served.set(material().leaf().unwrap()).unwrap();
    let started = Instant::now();
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert_eq!(started.elapsed().as_secs(), HANDSHAKE.as_secs());
}
