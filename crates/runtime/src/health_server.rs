//! The port for kubelet and Prometheus: `GET /ready` and `GET /metrics`.

use std::convert::Infallible;
use std::io;

use axum::Router;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::http_server;
use crate::metrics::CONTENT_TYPE_OPENMETRICS;
use crate::readiness::{Readiness, Status};

/// Serves [`router`] on a listener from [`bind`](crate::bind::bind) until it is dropped.
///
/// # Errors
/// When the listener cannot be used on this runtime; nothing later ends it.
pub async fn serve(
    listener: std::net::TcpListener,
    readiness: Readiness,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> io::Result<Infallible> {
    http_server::serve(listener, router(readiness, metrics)).await
}

/// `GET /ready`: 200, or 503 with what is awaited. `GET /metrics`: what `metrics` returns, as OpenMetrics text.
pub fn router(readiness: Readiness, metrics: impl Fn() -> String + Clone + Send + Sync + 'static) -> Router {
    Router::new()
        .route("/ready", get(async move || ready(&readiness)))
        .route("/metrics", get(async move || ([(CONTENT_TYPE, CONTENT_TYPE_OPENMETRICS)], metrics())))
        .fallback((StatusCode::NOT_FOUND, "not found: this port has /ready and /metrics\n"))
}

fn ready(readiness: &Readiness) -> (StatusCode, String) {
    let status = readiness.status();
    let code = if status == Status::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{status}\n"))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::bind::bind;

    async fn start(readiness: &Readiness) -> (SocketAddr, tokio::task::JoinHandle<io::Result<Infallible>>) {
        let listener = bind("127.0.0.1:0".parse().unwrap(), "health").unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = || "whichpod_up 1\n# EOF\n".to_owned();
        (address, tokio::spawn(serve(listener, readiness.clone(), metrics)))
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_probe_is_told_what_is_awaited_and_passes_once_nothing_is() {
        let readiness = Readiness::new();
        let pending = readiness.pending("upstream backend-service");
        let (address, _server) = start(&readiness).await;

        let answer = get(address, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nnot ready: waiting for upstream backend-service\n"), "{answer}");

        pending.done();
        let answer = get(address, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nready\n"), "{answer}");

        readiness.not_ready();
        let answer = get(address, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nnot ready: shutting down\n"), "{answer}");
    }

    #[tokio::test]
    async fn prometheus_gets_a_content_type_that_it_accepts() {
        let (address, _server) = start(&Readiness::new()).await;
        let answer = get(address, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let expected = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
        assert!(answer.contains(expected), "{answer}");
        assert!(answer.ends_with("\r\n\r\nwhichpod_up 1\n# EOF\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_wrong_path_or_method_is_refused() {
        let (address, _server) = start(&Readiness::new()).await;
        let answer = get(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(answer.ends_with("this port has /ready and /metrics\n"), "{answer}");

        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"POST /ready HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 405 ") || answer.starts_with("HTTP/1.1 405 "), "{answer}");
    }

    #[tokio::test]
    async fn the_port_closes_when_the_server_is_dropped() {
        let (address, server) = start(&Readiness::new()).await;
        let mut open = TcpStream::connect(address).await.unwrap();
        open.write_all(b"GET /ready HTTP/1.1\r\nhost: pod\r\n\r\n").await.unwrap();
        let mut answer = [0; 64];
        assert!(open.read(&mut answer).await.unwrap() > 0);

        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        assert!(TcpStream::connect(address).await.is_err());
        let end = timeout(Duration::from_secs(5), open.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok(), "the open connection ends too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_finishes_its_request_is_cut_off() {
        let (address, _server) = start(&Readiness::new()).await;
        let started = Instant::now();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /ready HTTP/1.1\r\nhost:").await.unwrap();
        // Either an answer (408) or just the end; what counts is that it ends.
        let _ = slow.read_to_end(&mut Vec::new()).await;
        let elapsed = started.elapsed().as_secs();
        assert!((60..=70).contains(&elapsed), "{elapsed} s");
    }
}
