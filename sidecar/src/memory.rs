//! New requests are shed when memory runs short, before the kernel kills the process. Sampled on the control thread: a
//! request only looks at a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::sleep;
use whichpod_runtime::memory::Usage;

use crate::worker::Shared;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// So far below the limit that sheds, in percent of memory, must usage fall until requests are taken again.
const SLACK: u64 = 5;

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
pub struct Gauge(AtomicU8);

impl Gauge {
    /// What is to be done.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        match self.0.load(Relaxed) {
            0 => Pressure::None,
            1 => Pressure::ShedRequests,
            _ => Pressure::RefuseConnections,
        }
    }

    fn set(&self, pressure: Pressure) {
        self.0.store(pressure as u8, Relaxed);
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

/// Watches memory for as long as the process runs; not at all without a limit.
pub async fn watch(shared: Arc<Shared>, settings: whichpod_config::Memory) {
    if settings.shed_at_percent == 0 {
        return;
    }
    let Some(usage) = Usage::new(settings.limit) else { return };
    let (limit, shed_at) = (usage.limit(), u64::from(settings.shed_at_percent));
    tracing::debug!(limit, shed_at, "requests are shed when memory runs short");
    let mut before = Pressure::None;
    loop {
        if let Some(used) = usage.now() {
            let pressure = decide(before, used, limit, shed_at);
            shared.memory.set(pressure);
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
            before = pressure;
        }
        sleep(LOOK).await;
    }
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
    fn no_number_panics() {
        for (used, limit) in [(u64::MAX, 1), (0, 0), (u64::MAX, u64::MAX)] {
            let _ = decide(Pressure::None, used, limit, 100);
        }
    }
}
