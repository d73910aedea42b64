//! The TLS port that the API server talks to: HTTP/1.1 and HTTP/2, bounded, with an end that loses no review.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use whichpod_runtime::shutdown::Shutdown;

use crate::certificates::Served;

/// Connections at a time. The API server keeps a few; more wait in the kernel.
const CONNECTIONS: usize = 1024;
/// How long a handshake may take: the API server's own limit is below the review's.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a request's head may take, and how long a connection may be idle (Go's clients keep them for 90 s).
const HEAD: Duration = Duration::from_secs(120);
/// The pause after a failed accept, as when file descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests at a time on one HTTP/2 connection.
const STREAMS: u32 = 100;

/// Serves until the shutdown starts; connections that are busy then are counted by it and end with their requests.
///
/// # Errors
/// When the listener cannot be used on this runtime, or TLS cannot be set up.
pub async fn serve(
    listener: std::net::TcpListener,
    router: Router,
    served: Served,
    shutdown: Shutdown,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls(served).map_err(io::Error::other)?));
    tokio::select! {
        Err(error) = accept(&listener, &acceptor, &router, &shutdown) => Err(error),
        () = shutdown.started() => Ok(()),
    }
}

/// TLS 1.2 and 1.3 with the certificate that is served at the moment of the handshake.
fn tls(served: Served) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(served));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would outlive a certificate that is replaced because its key is known.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

async fn accept(
    listener: &TcpListener,
    acceptor: &TlsAcceptor,
    router: &Router,
    shutdown: &Shutdown,
) -> io::Result<Infallible> {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let permit = Arc::clone(&free).acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, _)) => {
                let (acceptor, router, shutdown) = (acceptor.clone(), router.clone(), shutdown.clone());
                let guard = shutdown.guard();
                tokio::spawn(async move {
                    connection(stream, &acceptor, router, &shutdown).await;
                    drop((guard, permit));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, acceptor: &TlsAcceptor, router: Router, shutdown: &Shutdown) {
    // Answers are small and somebody waits for them; without it they are merely slower.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            // An API server that does not trust the certificate says so here.
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS).keep_alive_interval(HEAD);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shutdown.started() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests;
