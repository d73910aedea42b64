//! A Service's virtual IP: one address that hides the pods behind it, as kube-proxy makes it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Forwards each connection to the next pod; dropping it closes its port.
#[derive(Debug)]
pub struct VirtualIp {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl VirtualIp {
    /// Listens on this address and gives each connection to the next of the pods.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(address: SocketAddr, pods: Vec<SocketAddr>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let next = AtomicUsize::new(0);
            while let Ok((mut client, _)) = listener.accept().await {
                let Some(pod) = pods.get(next.fetch_add(1, Relaxed) % pods.len().max(1)).copied() else {
                    return;
                };
                tokio::spawn(async move {
                    if let Ok(mut pod) = TcpStream::connect(pod).await {
                        // Either side's end is the connection's end, whatever it says.
                        let _ = copy_bidirectional(&mut client, &mut pod).await;
                    }
                });
            }
        });
        Ok(Self { address, task })
    }

    /// The virtual IP and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for VirtualIp {
    fn drop(&mut self) {
        self.task.abort();
    }
}
