//! Where a limit on connections is reached: a request waits for one, or is turned away.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::timeout;
use whichpod_protocols::error::Failure;
use whichpod_upstream::Choice;

use crate::exchange::Exchange;
use crate::limits::{self, Full, Gate, Permit};

/// What a request may go on with.
pub enum Room<C> {
    /// A new connection; the permit is its own, if there is a limit.
    New(Option<Permit>),
    /// A connection to the pod that has become idle.
    Idle(C),
}

/// Permission for one more connection, at once or after a wait.
///
/// # Errors
/// [`Failure::Overflow`] if too many wait already, [`Failure::RequestTimeout`] if it took too long.
pub async fn room<C>(
    exchange: &Exchange,
    choice: &Choice,
    idle: impl Fn(&Exchange, &Choice) -> Option<C>,
) -> Result<Room<C>, Failure> {
    let Some(gate) = &exchange.site.limits.connections else { return Ok(Room::New(None)) };
    if let Some(permit) = enter(exchange, gate) {
        return Ok(Room::New(Some(permit)));
    }
    gate.refuse();
    let _pending = limits::enter(exchange.site.limits.pending.as_ref()).map_err(|_| Failure::Overflow)?;
    let _counted = Counted::new(&exchange.site.stats.pending_active);
    let wait = wait(exchange, gate, choice, idle);
    match exchange.site.config.timeouts.request {
        Some(limit) => timeout(limit, wait).await.map_err(|_| Failure::RequestTimeout),
        None => Ok(wait.await),
    }
}

async fn wait<C>(
    exchange: &Exchange,
    gate: &Arc<Gate>,
    choice: &Choice,
    idle: impl Fn(&Exchange, &Choice) -> Option<C>,
) -> Room<C> {
    let (_everywhere, here) = (gate.wait(), exchange.worker.wait_for(gate));
    loop {
        // From here on no return is missed.
        let returned = here.returned();
        if let Some(connection) = idle(exchange, choice) {
            return Room::Idle(connection);
        }
        if let Some(permit) = enter(exchange, gate) {
            return Room::New(Some(permit));
        }
        tokio::select! {
            () = returned => {}
            () = gate.left() => {}
        }
    }
}

/// A permit, where connections are limited, without waiting for one.
///
/// # Errors
/// [`Full`], which is counted.
pub fn make_room(exchange: &Exchange) -> Result<Option<Permit>, Full> {
    let Some(gate) = &exchange.site.limits.connections else { return Ok(None) };
    enter(exchange, gate).map(Some).ok_or_else(|| {
        gate.refuse();
        Full
    })
}

/// A permit; if need be, that of an idle connection to another pod.
fn enter(exchange: &Exchange, gate: &Arc<Gate>) -> Option<Permit> {
    gate.enter().or_else(|| {
        let idle = exchange.worker.pool.borrow_mut().give_up(gate)?;
        drop(idle);
        gate.enter()
    })
}

/// Counts one until it is dropped.
struct Counted<'a>(&'a std::sync::atomic::AtomicU64);

impl<'a> Counted<'a> {
    fn new(counter: &'a std::sync::atomic::AtomicU64) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
