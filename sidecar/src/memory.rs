//! Load is shed when memory runs short, before the kernel kills the process. A request only looks at a flag.
//!
//! Memory is looked at now and then, and besides whenever so much was read as could change the answer: nobody can send more
//! between two looks than there is room for.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::sleep;
use whichpod_runtime::memory::Usage;

use crate::worker::Shared;

/// How often memory is looked at.
pub const LOOK: Duration = Duration::from_millis(100);
/// So far below the limit that sheds, in percent of memory, must usage fall until requests are taken again.
const SLACK: u64 = 5;
/// A byte that is read costs up to so many: buffers have room to spare, and a head is held twice while it is sent on.
const COST: u64 = 4;
/// So small a part of the limit may always be read before the next look, however little room there is.
const LEAST: u64 = 256;
/// What a client's connection costs before it has said anything, in bytes.
pub const CONNECTION: usize = 4096;

/// What is done about memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pressure {
    /// There is enough.
    #[default]
    None,
    /// New requests get 503 and their connections end.
    ShedRequests,
    /// New connections are closed as well.
    RefuseConnections,
}

/// The pressure now, for all workers.
#[derive(Debug, Default)]
pub struct Gauge {
    pressure: AtomicU8,
    /// Bytes that may be read before the next look.
    allowance: AtomicI64,
    /// `None`: there is no limit.
    watched: Option<Mutex<Watched>>,
}

/// What a look needs.
#[derive(Debug)]
struct Watched {
    usage: Usage,
    shed_at: u64,
    before: Pressure,
}

impl Gauge {
    /// Of this process, or of its control group; without a limit there is never any pressure.
    #[must_use]
    pub fn new(settings: whichpod_config::Memory) -> Self {
        let shed_at = u64::from(settings.shed_at_percent);
        let usage = if shed_at == 0 { None } else { Usage::new(settings.limit) };
        let watched = usage.map(|usage| Mutex::new(Watched { usage, shed_at, before: Pressure::None }));
        Self { watched, ..Self::default() }
    }

    /// What is to be done.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Relaxed) {
            0 => Pressure::None,
            1 => Pressure::ShedRequests,
            _ => Pressure::RefuseConnections,
        }
    }

    /// So many bytes were read that stay here for a while; looks at memory if they could have used up what there was.
    pub fn grow(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.watched.is_some() && self.allowance.fetch_sub(bytes, Relaxed) < bytes {
            self.look();
        }
    }

    /// Looks at memory, unless another thread does so now.
    fn look(&self) {
        let Some(Ok(mut watched)) = self.watched.as_ref().map(Mutex::try_lock) else { return };
        let Some(used) = watched.usage.now() else { return };
        let (before, limit) = (watched.before, watched.usage.limit());
        let pressure = decide(before, used, limit, watched.shed_at);
        self.pressure.store(pressure as u8, Relaxed);
        self.allowance.store(allowance(used, limit, watched.shed_at), Relaxed);
        watched.before = pressure;
        drop(watched);
        match (before, pressure) {
            (Pressure::None, Pressure::None) => {}
            (Pressure::None, _) => {
                tracing::warn!(
                    used,
                    limit,
                    "memory runs short: new requests get 503 (OM); raise the container's memory limit if this goes on"
                );
            }
            (_, Pressure::None) => tracing::info!(used, limit, "there is enough memory again"),
            _ => {}
        }
    }
}

/// What is to be done at this usage: shed from `shed_at` percent on, refuse halfway from there to the limit, and stop only
/// when usage is clearly lower again.
fn decide(before: Pressure, used: u64, limit: u64, shed_at: u64) -> Pressure {
    let percent = used.saturating_mul(100) / limit.max(1);
    let refuse_at = (shed_at + 100) / 2;
    match before {
        _ if percent >= refuse_at => Pressure::RefuseConnections,
        _ if percent >= shed_at => Pressure::ShedRequests,
        Pressure::None => Pressure::None,
        _ if percent + SLACK > shed_at => Pressure::ShedRequests,
        _ => Pressure::None,
    }
}

/// How many bytes may be read before the next look: they must not take usage far past what sheds.
fn allowance(used: u64, limit: u64, shed_at: u64) -> i64 {
    let sheds = limit / 100 * shed_at.min(100);
    let bytes = (sheds.saturating_sub(used) / COST).max(limit / LEAST);
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Watches memory for as long as the process runs; not at all without a limit.
pub async fn watch(shared: Arc<Shared>) {
    while shared.memory.watched.is_some() {
        shared.memory.look();
        if shared.memory.pressure() != Pressure::None {
            give_back();
        }
        sleep(LOOK).await;
    }
}

/// Has the allocator give the kernel back what is free. It does that on its own while it is at work, but a process that
/// refuses everything has no work; to free something large, untouched as it is, is the occasion.
fn give_back() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(16 << 20)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_shed_near_the_limit_and_taken_again_clearly_below_it() {
        let mut pressure = Pressure::None;
        let steps = [50, 89, 90, 94, 95, 99, 94, 89, 86, 85, 89, 90].map(|used| {
            pressure = decide(pressure, used, 100, 90);
            pressure
        });
        use Pressure::{None as Enough, RefuseConnections as Refuse, ShedRequests as Shed};
        let expected = [Enough, Enough, Shed, Shed, Refuse, Refuse, Shed, Shed, Shed, Enough, Enough, Shed];
        assert_eq!(steps, expected);
    }

    #[test]
    fn who_sends_much_between_two_looks_makes_the_next_one_come_sooner() {
        let limit = 64 << 20;
        for used in [0, 10 << 20, 50 << 20, 60 << 20, 64 << 20, 80 << 20] {
            let most = u64::try_from(allowance(used, limit, 90)).unwrap() * COST;
            assert!(
                most > 0 && used + most <= (used.max(limit / 100 * 90)) + (limit / LEAST * COST),
                "{used}"
            );
        }
    }

    #[test]
    fn a_process_without_room_sheds_at_once_and_one_without_a_limit_never_does() {
        let settings = |limit, shed_at_percent| whichpod_config::Memory { limit, shed_at_percent };
        let short = Gauge::new(settings(Some(1 << 20), 90));
        assert_eq!(short.pressure(), Pressure::None, "nobody has looked");
        short.grow(1);
        assert_eq!(short.pressure(), Pressure::RefuseConnections);
        let never = Gauge::new(settings(Some(1 << 20), 0));
        never.grow(usize::MAX);
        assert_eq!(never.pressure(), Pressure::None);
    }

    #[test]
    fn no_number_panics() {
        for (used, limit) in [(u64::MAX, 1), (0, 0), (u64::MAX, u64::MAX), (0, u64::MAX)] {
            let _ = (decide(Pressure::None, used, limit, 100), allowance(used, limit, 100));
        }
    }
}
