//! A worker's idle connections, one list a pod.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;
use whichpod_upstream::EndpointId;

use crate::limits::Gate;
use crate::upstream_connection::UpstreamConnection;

/// The client's connection that a pod's connection belongs to; usually none: any request may use it.
pub type Owner = Option<u64>;

/// After so long without a request a connection is likely to stay idle: it rests.
pub const REST: Duration = Duration::from_secs(1);

/// Idle connections by pod and owner; the most recently used is last.
#[derive(Default)]
pub struct Pool {
    #[expect(clippy::vec_box, reason = "a connection is over a kilobyte: only its pointer moves in and out")]
    idle: HashMap<(EndpointId, Owner), Vec<Box<UpstreamConnection>>, BuildHasherDefault<ByNumber>>,
}

/// Endpoints are numbered here: nobody outside can make their numbers collide, so one multiplication (Knuth, TAOCP 6.4)
/// does what a keyed hash does in a hundred steps.
#[derive(Default)]
struct ByNumber(u64);

impl Hasher for ByNumber {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Pool {
    /// The freshest live connection to this pod that has not been idle for longer than `max_idle`.
    pub fn take(
        &mut self,
        endpoint: EndpointId,
        owner: Owner,
        max_idle: Duration,
        now: Instant,
    ) -> Option<Box<UpstreamConnection>> {
        // It is only looked at: whoever uses it registers a waker of its own.
        let cx = &mut Context::from_waker(Waker::noop());
        let connections = self.idle.get_mut(&(endpoint, owner))?;
        while let Some(mut connection) = connections.pop() {
            let limit = connection.idle_limit.min(max_idle);
            // The one used last is the freshest: what lies below it is older still.
            if now.duration_since(connection.idle_since) >= limit {
                connections.push(connection);
                return None;
            }
            // The pod may have closed it since.
            if (connection.is_quiet() || !connection.drive(cx)) && connection.is_reusable() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the pod's next request.
    pub fn put(&mut self, mut connection: Box<UpstreamConnection>) {
        if connection.peer.endpoint.is_gone() || !connection.is_reusable() {
            return;
        }
        connection.idle_since = Instant::now();
        connection.reused = true;
        self.idle.entry((connection.peer.endpoint.id(), connection.owner)).or_default().push(connection);
    }

    /// The idle connection that holds a place behind this gate and was used least recently.
    pub fn give_up(&mut self, gate: &Arc<Gate>) -> Option<Box<UpstreamConnection>> {
        let holds = |connection: &UpstreamConnection| {
            connection.peer.permit.as_ref().is_some_and(|permit| Arc::ptr_eq(permit.gate(), gate))
        };
        let oldest = self.idle.iter().filter_map(|(id, all)| Some((all.first()?, *id)));
        let oldest = oldest.filter(|(connection, _)| holds(connection));
        let (_, id) = oldest.min_by_key(|(connection, _)| connection.idle_since)?;
        let connections = self.idle.get_mut(&id)?;
        let connection = connections.remove(0);
        if connections.is_empty() {
            self.idle.remove(&id);
        }
        Some(connection)
    }

    /// Closes what was idle for too long, what the pod closed, and what belongs to pods that are gone; lets others rest, and
    /// tells if one did.
    pub fn sweep(&mut self, cx: &mut Context<'_>) -> bool {
        let (now, mut rested) = (Instant::now(), false);
        self.idle.retain(|_, connections| {
            connections.retain_mut(|connection| {
                let idle = now.duration_since(connection.idle_since);
                rested |= idle >= REST && connection.rest();
                idle < connection.idle_limit && !connection.peer.endpoint.is_gone() && !connection.drive(cx)
            });
            !connections.is_empty()
        });
        rested
    }

    /// Closes the idle connections of pods that are gone.
    pub fn drop_gone(&mut self) {
        self.idle.retain(|_, connections| {
            connections.first().is_some_and(|connection| !connection.peer.endpoint.is_gone())
        });
    }

    /// How many connections are idle.
    #[must_use]
    pub fn len(&self) -> usize {
        self.idle.values().map(Vec::len).sum()
    }

    /// True if no connection is idle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }
}
