//! One pod: its address, its identity, and what happened with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::aside::Aside;
use crate::latency::Latency;
use crate::outlier::Outlier;
use crate::slow_start::Youth;

/// Number of an endpoint in this process; a pod whose address gets another identity is another endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(u64);

/// One pod: an address and, where DNS told it, an identity. Shared by snapshots and workers.
#[derive(Debug)]
pub struct Endpoint {
    id: EndpointId,
    address: SocketAddr,
    identity: Option<Arc<str>>,
    gone: AtomicBool,
    counts: Counts,
    /// Connects fail.
    pub(crate) aside: Aside,
    /// Requests fail.
    pub(crate) outlier: Outlier,
    /// Health checks fail.
    check_failed: AtomicBool,
    pub(crate) youth: Youth,
    pub(crate) latency: Latency,
}

impl Endpoint {
    pub(crate) fn new(address: SocketAddr, identity: Option<Arc<str>>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            id: EndpointId(NEXT.fetch_add(1, Ordering::Relaxed)),
            address,
            identity,
            gone: AtomicBool::new(false),
            counts: Counts::default(),
            aside: Aside::default(),
            outlier: Outlier::default(),
            check_failed: AtomicBool::new(false),
            youth: Youth::default(),
            latency: Latency::default(),
        })
    }

    /// The number of this endpoint; never given to another one.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Where the pod takes connections.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The pod's name as DNS told it, even if the answer is old now.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<str>> {
        self.identity.as_ref()
    }

    /// The node the pod runs on; DNS never tells it.
    #[must_use]
    pub fn node(&self) -> Option<&Arc<str>> {
        None
    }

    /// The zone the pod runs in; DNS never tells it.
    #[must_use]
    pub fn zone(&self) -> Option<&Arc<str>> {
        None
    }

    /// True once the pod left the answer or was replaced: no new request, and its idle connections are to be closed.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// True while the pod's requests fail and it is left alone for that.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.outlier.is_ejected()
    }

    /// True while the pod fails its health checks.
    #[must_use]
    pub fn fails_checks(&self) -> bool {
        self.check_failed.load(Ordering::Relaxed)
    }

    /// True if that is news.
    pub(crate) fn set_fails_checks(&self, fails: bool) -> bool {
        self.check_failed.swap(fails, Ordering::Relaxed) != fails
    }

    /// Either: not to be chosen, but in a panic.
    pub(crate) fn is_unwell(&self) -> bool {
        self.is_ejected() || self.fails_checks()
    }

    /// What happened with this pod so far, over all workers.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

/// What happened with one pod, over all workers; relaxed atomics, kept by whoever sends the requests.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests ever sent to the pod.
    pub requests_total: AtomicU64,
    /// Requests under way now; what `least_request` compares.
    pub requests_active: AtomicU32,
    /// Requests that got a status below 500.
    pub requests_success: AtomicU64,
    /// Requests that got a status of 500 or more, or no response.
    pub requests_error: AtomicU64,
    /// Connects ever tried.
    pub connects_total: AtomicU64,
    /// Connects that failed.
    pub connects_failed: AtomicU64,
    /// Connections open now.
    pub connections_active: AtomicU32,
}
