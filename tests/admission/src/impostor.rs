//! A server that the API server trusts and that is no webhook: it answers nonsense, or nothing for too long.

use std::net::{SocketAddr, TcpListener};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Runtime;
use whichpod_runtime::shutdown::Shutdown;
use whichpod_webhook::certificates::Served;
use whichpod_webhook::certificates::material::{Lifetimes, Material};
use whichpod_webhook::server;

/// What it does with a review.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// It answers with this status and body.
    Says(u16, &'static str),
    /// It says nothing for as long as anybody waits.
    Silent,
}

/// A running impostor.
pub struct Impostor {
    address: SocketAddr,
    bundle: String,
    _runtime: Runtime,
}

impl Impostor {
    /// Starts one.
    pub fn start(manner: Manner) -> Result<Self> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let lifetimes =
            Lifetimes { authority: SignedDuration::from_hours(9), leaf: SignedDuration::from_hours(3) };
        let material = Material::fresh(&["127.0.0.1".to_owned()], Timestamp::now(), lifetimes)?;
        let served = Served::default();
        served.set(material.leaf().context("no leaf")?).map_err(anyhow::Error::msg)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/mutate", post(move || answer(manner)));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (_, shutdown) = Shutdown::new();
        runtime.spawn(server::serve(listener, router, served, shutdown));
        Ok(Self { address, bundle: material.bundle(), _runtime: runtime })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificates by which it is to be trusted (PEM).
    pub fn bundle(&self) -> &str {
        &self.bundle
    }
}

async fn answer(manner: Manner) -> (StatusCode, &'static str) {
    match manner {
        Manner::Says(status, body) => (StatusCode::from_u16(status).unwrap_or(StatusCode::OK), body),
        Manner::Silent => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            (StatusCode::OK, "")
        }
    }
}
