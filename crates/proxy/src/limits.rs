//! How much may be under way at once (Envoy's circuit breakers): exact over all workers, by atomics alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tokio::sync::Notify;
use whichpod_config::Upstream;

/// The limits of one upstream; what is not limited has no gate, and costs nothing.
#[derive(Debug, Default)]
pub struct Limits {
    /// Connections to pods, in use or idle.
    pub connections: Option<Arc<Gate>>,
    /// Requests that wait for a connection.
    pub pending: Option<Arc<Gate>>,
    /// Requests under way.
    pub requests: Option<Arc<Gate>>,
    /// Retries under way.
    pub retries: Option<Arc<Gate>>,
    /// Clients' connections.
    pub clients: Option<Arc<Gate>>,
}

impl Limits {
    /// As they are configured.
    #[must_use]
    pub fn new(config: &Upstream) -> Self {
        let breakers = &config.circuit_breakers;
        let gate = |most: Option<u32>| most.map(|most| Arc::new(Gate::new(most)));
        Self {
            connections: gate(breakers.max_connections),
            pending: gate(breakers.max_pending_requests),
            requests: gate(breakers.max_requests),
            retries: gate(breakers.max_retries),
            clients: gate(config.limits.connections),
        }
    }
}

impl Limits {
    /// Every limit by the name that it is configured by.
    #[must_use]
    pub fn by_name(&self) -> [(&'static str, Option<&Gate>); 5] {
        [
            ("max_connections", self.connections.as_deref()),
            ("max_pending_requests", self.pending.as_deref()),
            ("max_requests", self.requests.as_deref()),
            ("max_retries", self.retries.as_deref()),
            ("connections", self.clients.as_deref()),
        ]
    }
}

/// Lets so many in at a time.
#[derive(Debug)]
pub struct Gate {
    most: u64,
    inside: AtomicU64,
    refused: AtomicU64,
    waiting: AtomicU64,
    left: Notify,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Gate {
    /// Nobody is inside.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            most: most.into(),
            inside: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            left: Notify::new(),
        }
    }

    /// In, if there is room.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Permit> {
        let one_more = |inside: u64| (inside < self.most).then_some(inside + 1);
        self.inside.fetch_update(SeqCst, SeqCst, one_more).ok().map(|_| Permit(Arc::clone(self)))
    }

    /// How many are inside.
    #[must_use]
    pub fn inside(&self) -> u64 {
        self.inside.load(SeqCst)
    }

    /// How many were turned away.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(SeqCst)
    }

    /// Somebody was turned away.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, SeqCst);
    }

    /// From now on somebody waits, until the guard is dropped: whoever leaves wakes one.
    #[must_use]
    pub fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, SeqCst);
        Waiting(Arc::clone(self))
    }

    /// True if somebody waits, on whatever worker.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// Until somebody has left; may also end without that.
    pub async fn left(&self) {
        self.left.notified().await;
    }
}

/// In, if there is room, or if there is no limit at all.
///
/// # Errors
/// [`Full`], which is counted.
pub fn enter(gate: Option<&Arc<Gate>>) -> Result<Option<Permit>, Full> {
    let Some(gate) = gate else { return Ok(None) };
    match gate.enter() {
        Some(permit) => Ok(Some(permit)),
        None => {
            gate.refuse();
            Err(Full)
        }
    }
}

/// A place inside; dropping it leaves.
#[derive(Debug)]
pub struct Permit(Arc<Gate>);

impl Permit {
    /// The gate it is for.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, SeqCst);
        // Who begins to wait after this look sees the place that was just left.
        if self.0.is_waited_for() {
            self.0.left.notify_one();
        }
    }
}

/// Somebody waits.
#[derive(Debug)]
pub struct Waiting(Arc<Gate>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn a_limit_is_exact_whoever_comes_at_once() {
        let gate = Arc::new(Gate::new(3));
        let (inside, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        if let Some(permit) = gate.enter() {
                            most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                            inside.fetch_sub(1, SeqCst);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert!(most.load(SeqCst) <= 3, "{most:?}");
        assert_eq!(gate.inside(), 0, "whoever came in has left");
    }

    #[test]
    fn who_is_turned_away_is_counted_and_a_missing_limit_turns_nobody_away() {
        let gate = Arc::new(Gate::new(1));
        let first = enter(Some(&gate)).unwrap();
        assert_eq!((enter(Some(&gate)).err(), gate.refused()), (Some(Full), 1));
        drop(first);
        assert!(enter(Some(&gate)).unwrap().is_some());
        assert!((0..9).all(|_| enter(None).unwrap().is_none()));
    }

    #[test]
    fn a_limit_of_none_lets_nobody_in() {
        assert!(Arc::new(Gate::new(0)).enter().is_none());
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_who_leaves_even_if_that_came_first() {
        let gate = Arc::new(Gate::new(1));
        let permit = gate.enter().unwrap();
        let _waiting = gate.wait();
        drop(permit);
        gate.left().await;
        assert!(gate.enter().is_some());
    }
}
