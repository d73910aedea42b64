//! HTTP for operators (health, metrics, admin): small, bounded, away from the data path.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at a time; more wait in the kernel. Whoever can reach the port must not use up the file descriptors that
/// the traffic needs.
const CONNECTIONS: usize = 256;

/// How long a request's head may take, and how long a connection may be idle. Longer than the usual scrape intervals.
const HEAD_TIMEOUT: Duration = Duration::from_secs(65);

/// The pause after a failed accept (as when file descriptors are used up): neither spins nor leaves for long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves HTTP/1 until it is dropped, which also ends its connections.
///
/// # Errors
/// When the listener cannot be used on this runtime; nothing later ends it.
pub async fn serve(listener: std::net::TcpListener, router: Router) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let permit = Arc::clone(&free).acquire_owned().await.ok();
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    serve_connection(stream, router).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection to an operator's port ended");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;
    use crate::bind::bind;

    #[tokio::test(start_paused = true)]
    async fn idle_connections_cannot_use_up_the_file_descriptors_of_the_traffic() {
        crate::limits::raise_open_files().unwrap();
        let listener = bind("127.0.0.1:0".parse().unwrap(), "admin").unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(async || "here\n");
        tokio::spawn(serve(listener, router));

        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(b"GET / HTTP/1.1\r\nhost: pod\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        assert!(timeout(Duration::from_secs(1), late.read_exact(&mut answer)).await.is_err());

        idle.pop();
        late.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
}
