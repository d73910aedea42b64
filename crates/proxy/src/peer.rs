//! Who is at the other end of a connection to a pod: fixed when it opens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use whichpod_upstream::{Choice, Endpoint};

use crate::limits::Permit;

/// The pod of a connection, and the connection in the pod's count for as long as this lives.
pub struct Peer {
    /// The pod.
    pub endpoint: Arc<Endpoint>,
    /// The pod's name as it was known when the connection was opened.
    pub pod: Option<Arc<str>>,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// The connection's place among the upstream's, where these are limited.
    pub permit: Option<Permit>,
}

impl Peer {
    /// Of a connection that was just opened to the pod that was chosen.
    #[must_use]
    pub fn new(choice: &Choice, local: Option<SocketAddr>, permit: Option<Permit>) -> Self {
        choice.endpoint.counts().connections_active.fetch_add(1, Relaxed);
        Self { endpoint: Arc::clone(&choice.endpoint), pod: choice.pod.clone(), local, permit }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.endpoint.counts().connections_active.fetch_sub(1, Relaxed);
    }
}
