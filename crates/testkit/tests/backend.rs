//! The well-behaved backend, asked by the raw client.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use whichpod_testkit::backend::{Backend, byte_at, free_port};
use whichpod_testkit::client::{Client, End};

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn start() -> (Backend, Client) {
    let backend = Backend::start("backend-0", ANY).await.unwrap();
    let client = Client::connect(backend.address()).await.unwrap();
    (backend, client)
}

#[tokio::test]
async fn every_path_answers_as_the_table_says() {
    let (backend, mut client) = start().await;

    let answer = client.get("/test").await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "i am backend in backend-0\n"));
    assert_eq!(answer.header("x-pod"), Some("backend-0"));

    let answer = client.get("/status/503").await.unwrap();
    assert_eq!((answer.status, answer.header("x-pod")), (503, Some("backend-0")));

    let answer = client.get("/bytes/100000").await.unwrap();
    assert_eq!(answer.header("content-length"), Some("100000"));
    assert!(answer.body.iter().zip(0..).all(|(byte, index)| *byte == byte_at(index)));
    assert_eq!(answer.body.len(), 100_000);

    let answer = client.get("/chunks/3").await.unwrap();
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.text(), "chunk 0\nchunk 1\nchunk 2\n");

    let answer = client.get("/bytes/many").await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.text().starts_with("/bytes/many: \"many\" is not a number"), "{}", answer.text());

    assert_eq!((backend.requests(), backend.connections(), backend.name()), (5, 1, "backend-0"));
}

#[tokio::test]
async fn bodies_headers_and_trailers_come_back() {
    let (_backend, mut client) = start().await;

    client.send("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().body, b"abcde");

    client.send("GET /headers HTTP/1.1\r\nhost: a\r\nX-One: 1\r\nx-one: 2\r\n\r\n").await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!(answer.text(), r#"{"host":["a"],"x-one":["1","2"]}"#);

    client.send("GET /trailers HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n").await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!(answer.text(), "i am backend in backend-0\n");
    assert_eq!(answer.trailers, [("x-trailer".to_owned(), "backend-0".to_owned())]);

    client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(client.response_to_head().await.unwrap().body.is_empty());

    client.send("GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(client.end().await, (Vec::new(), End::Closed), "HTTP/1.0 closes");
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_as_long_as_asked() {
    let (_backend, client) = start().await;
    let mut client = client.with_timeout(Duration::from_secs(60));
    let started = Instant::now();
    assert_eq!(client.get("/delay/30000").await.unwrap().status, 200);
    assert_eq!(started.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn a_request_that_came_twice_is_seen() {
    let (backend, mut client) = start().await;
    for id in ["a", "b", "a"] {
        client.send(format!("GET / HTTP/1.1\r\nhost: x\r\nx-request-id: {id}\r\n\r\n")).await.unwrap();
        client.response().await.unwrap();
    }
    let ids = backend.request_ids();
    assert_eq!((ids["a"], ids["b"], ids.len()), (2, 1, 2));

    backend.remember_request_ids(false);
    client.send("GET / HTTP/1.1\r\nhost: x\r\nx-request-id: c\r\n\r\n").await.unwrap();
    client.response().await.unwrap();
    assert_eq!(backend.request_ids().len(), 2);
    assert_eq!(backend.requests(), 4);
}

#[tokio::test]
async fn a_graceful_stop_finishes_requests_and_closes_idle_connections() {
    let (backend, mut busy) = start().await;
    let mut idle = Client::connect(backend.address()).await.unwrap();
    idle.get("/").await.unwrap();
    busy.send("GET /delay/100 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    while backend.requests() < 2 {
        tokio::task::yield_now().await;
    }

    let stop = backend.stop();
    let answer = busy.response();
    let ((), answer, idle_end) = tokio::join!(stop, answer, idle.end());
    assert_eq!(answer.unwrap().text(), "i am backend in backend-0\n");
    assert_eq!(idle_end, (Vec::new(), End::Closed));
    assert_eq!(busy.end().await, (Vec::new(), End::Closed));
    assert!(TcpStream::connect(backend.address()).await.is_err());
    backend.stop().await;

    let again = Backend::start("backend-1", backend.address()).await.unwrap();
    assert_eq!(
        Client::connect(again.address()).await.unwrap().get("/").await.unwrap().header("x-pod"),
        Some("backend-1")
    );
}

#[tokio::test]
async fn a_killed_backend_resets_requests_and_idle_connections() {
    let (backend, mut busy) = start().await;
    let mut idle = Client::connect(backend.address()).await.unwrap();
    idle.get("/").await.unwrap();
    busy.send("GET /delay/60000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    while backend.requests() < 2 {
        tokio::task::yield_now().await;
    }
    backend.kill().await;
    assert_eq!(idle.end().await, (Vec::new(), End::Reset));
    assert_eq!(busy.end().await, (Vec::new(), End::Reset));
    assert!(TcpStream::connect(backend.address()).await.is_err());
}

#[tokio::test]
async fn a_stop_that_takes_too_long_can_become_a_kill() {
    let (backend, mut busy) = start().await;
    busy.send("GET /delay/60000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    while backend.requests() < 1 {
        tokio::task::yield_now().await;
    }
    let late = async {
        tokio::task::yield_now().await;
        backend.kill().await;
    };
    tokio::join!(backend.stop(), late);
    assert_eq!(busy.end().await.1, End::Reset);
}

#[tokio::test]
async fn dropping_a_backend_ends_its_connections() {
    let (backend, mut client) = start().await;
    client.get("/").await.unwrap();
    drop(backend);
    assert_eq!(client.end().await, (Vec::new(), End::Closed));
}

#[tokio::test]
async fn backends_share_one_port_on_addresses_of_their_own_as_pods_do() {
    let addresses: Vec<IpAddr> = (1..=3).map(|last| IpAddr::from([127, 9, 8, last])).collect();
    let port = free_port(&addresses).unwrap();
    let mut backends = Vec::new();
    for address in &addresses {
        backends.push(Backend::start(&address.to_string(), (*address, port).into()).await.unwrap());
    }
    for backend in &backends {
        let answer = Client::connect(backend.address()).await.unwrap().get("/").await.unwrap();
        assert_eq!(answer.text(), format!("i am backend in {}\n", backend.address().ip()));
    }
    assert!(free_port(&[IpAddr::from([192, 0, 2, 1])]).is_err(), "an address of another machine");
}

#[tokio::test]
async fn a_name_that_cannot_be_a_header_is_refused() {
    let error = Backend::start("two\nlines", ANY).await.unwrap_err();
    assert!(error.to_string().starts_with("backend name \"two\\nlines\": "), "{error}");
}
