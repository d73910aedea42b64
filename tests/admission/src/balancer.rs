//! What the Service before the replicas does: a new connection goes to one that is ready.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use whichpod_cluster::http_get;

use crate::Replica;

/// How often `/ready` is asked.
const PERIOD: Duration = Duration::from_millis(200);

/// An address that stays while replicas come and go.
pub struct Balancer {
    address: SocketAddr,
    replicas: Arc<Mutex<Vec<Backend>>>,
    _runtime: Runtime,
}

#[derive(Debug, Clone, Copy)]
struct Backend {
    address: SocketAddr,
    health: SocketAddr,
    ready: bool,
}

impl Balancer {
    /// Before no replica yet.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let replicas = Arc::<Mutex<Vec<Backend>>>::default();
        runtime.spawn(accept(listener, Arc::clone(&replicas)));
        let probed = Arc::downgrade(&replicas);
        std::thread::spawn(move || probe(&probed));
        Ok(Self { address, replicas, _runtime: runtime })
    }

    /// Where the API server is to call.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets a replica have connections as long as it is ready.
    pub fn add(&self, replica: &Replica) {
        let backend = Backend { address: replica.address(), health: replica.health(), ready: false };
        lock(&self.replicas).push(backend);
    }
}

fn lock(replicas: &Mutex<Vec<Backend>>) -> MutexGuard<'_, Vec<Backend>> {
    replicas.lock().unwrap_or_else(PoisonError::into_inner)
}

fn probe(replicas: &Weak<Mutex<Vec<Backend>>>) {
    while let Some(replicas) = replicas.upgrade() {
        let seen = lock(&replicas).clone();
        for backend in seen {
            let ready =
                http_get(backend.health, "/ready").is_ok_and(|answer| answer.body.trim_end() == "ready");
            for known in lock(&replicas).iter_mut().filter(|known| known.address == backend.address) {
                known.ready = ready;
            }
        }
        drop(replicas);
        std::thread::park_timeout(PERIOD);
    }
}

async fn accept(listener: TcpListener, replicas: Arc<Mutex<Vec<Backend>>>) {
    let mut next = 0;
    while let Ok((client, _)) = listener.accept().await {
        let ready: Vec<_> = lock(&replicas).iter().filter(|backend| backend.ready).copied().collect();
        // Without one the connection is closed, as a Service without endpoints refuses it.
        let Some(backend) = ready.get(next % ready.len().max(1)).copied() else { continue };
        next += 1;
        tokio::spawn(forward(client, backend.address));
    }
}

async fn forward(mut client: TcpStream, to: SocketAddr) -> Result<()> {
    let mut server = TcpStream::connect(to).await.context("the replica is gone")?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
