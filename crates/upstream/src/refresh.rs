//! When DNS is asked, and what its answers mean over time. Pure: events and times go in, a view comes out; all timing
//! rules are here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::set::{Found, SetState, Source};

/// First and longest wait after an answer without pods or a failure, and between refreshes that connects ask for.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Connects that go on failing within this time make one storm, with a growing wait.
const STORM_OVER: Duration = Duration::from_secs(10);
/// An upstream that served no request for so long is not refreshed.
pub(crate) const DORMANT_AFTER: Duration = Duration::from_secs(300);
/// How many failures in a row make a verdict.
const FAILED_AFTER: u32 = 2;

/// What the user can set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    floor: Duration,
    cap: Duration,
    hold_empty: Duration,
}

impl Rules {
    /// Between 100 ms, so that no setting makes this ask without pause, and a day, so that no sum of times overflows.
    pub(crate) fn new(floor: Duration, cap: Duration, hold_empty: Duration) -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        let floor = floor.clamp(Duration::from_millis(100), DAY);
        Self { floor, cap: cap.clamp(floor, DAY), hold_empty: hold_empty.min(DAY) }
    }

    /// When an answer with pods is asked for again: when its TTL (between floor and cap) ends, less up to 20 %, so that
    /// many sidecars do not ask in step and a name is not printed past its TTL. Where the cap makes it earlier than
    /// the TTL, up to 20 % later, but not later than the TTL.
    pub(crate) fn after_pods(&self, ttl: Duration, random: f64) -> Duration {
        let base = ttl.clamp(self.floor, self.cap);
        let jittered = if ttl > self.cap { base.mul_f64(0.8 + 0.4 * random) } else { less(base, random) };
        jittered.min(self.names_hold(ttl))
    }

    /// For how long the names in an answer may be printed.
    pub(crate) fn names_hold(&self, ttl: Duration) -> Duration {
        ttl.max(self.floor)
    }
}

/// 1 s, 2 s, 4 s, 5 s, 5 s …, less up to 20 %.
fn back_off(misses: u32, random: f64) -> Duration {
    let full = BACK_OFF.0.saturating_mul(1 << misses.saturating_sub(1).min(8)).min(BACK_OFF.1);
    less(full, random)
}

fn less(full: Duration, random: f64) -> Duration {
    full.mul_f64(0.8 + 0.2 * random)
}

/// What one refresh brought.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Pods(Pods),
    /// NXDOMAIN or no data, and which names.
    Absent(Arc<str>),
    /// SERVFAIL, REFUSED, silence, garbage, an answer cut short, nothing but refused addresses.
    Failed(Arc<str>),
}

/// An answer with pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pods {
    /// Sorted by address, one for each.
    pub found: Vec<Found>,
    pub ttl: Duration,
    /// The name that answered; `None` for a literal address.
    pub asked: Option<Arc<str>>,
    /// Addresses that were taken out.
    pub refused: Vec<IpAddr>,
}

/// What is known about one of the two names.
#[derive(Debug, Default)]
struct Known {
    pods: Option<(Arc<Pods>, Instant)>,
    absent_since: Option<Instant>,
    /// Absent for the hold time.
    empty: bool,
    failures: u32,
    misses: u32,
    settled: bool,
    error: Option<Arc<str>>,
    due: Option<Instant>,
}

impl Known {
    fn absent(&self) -> bool {
        self.empty || self.absent_since.is_some()
    }

    fn state(&self) -> SetState {
        match () {
            () if self.pods.is_some() => SetState::Ready,
            () if self.empty => SetState::Empty,
            () if self.failures >= FAILED_AFTER => SetState::Failed,
            () => SetState::Pending,
        }
    }

    fn learn(&mut self, outcome: Outcome, now: Instant, rules: &Rules, random: f64) {
        match outcome {
            Outcome::Pods(pods) => {
                let due = now + rules.after_pods(pods.ttl, random);
                *self = Self {
                    due: Some(due),
                    settled: true,
                    pods: Some((Arc::new(pods), now)),
                    ..Self::default()
                };
            }
            Outcome::Absent(reason) => {
                self.misses = self.misses.saturating_add(1);
                self.failures = 0;
                self.settled = true;
                self.error = Some(reason);
                let held_at = *self.absent_since.get_or_insert(now) + rules.hold_empty;
                let mut due = now + back_off(self.misses, random);
                if now >= held_at {
                    self.empty = true;
                    self.pods = None;
                } else {
                    due = due.min(held_at);
                }
                self.due = Some(due);
            }
            Outcome::Failed(reason) => {
                self.misses = self.misses.saturating_add(1);
                self.failures = self.failures.saturating_add(1);
                // Only an absence without interruption makes a set empty.
                self.absent_since = None;
                self.settled |= self.failures >= FAILED_AFTER;
                self.error = Some(reason);
                self.due = Some(now + back_off(self.misses, random));
            }
        }
    }

    fn hasten(&mut self, at: Instant) {
        self.due = self.due.map(|due| due.min(at));
    }
}

/// Connects that fail, and when they may have DNS asked next.
#[derive(Debug)]
struct Storm {
    last: Instant,
    not_before: Instant,
    refreshes: u32,
    wanted: bool,
}

/// What is to be published.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    pub state: SetState,
    pub source: Source,
    /// With the time of the answer.
    pub pods: Option<(Arc<Pods>, Instant)>,
    pub last_error: Option<Arc<str>>,
    /// The last answer about the target was that nothing is there.
    pub absent: bool,
    /// The target was answered or failed twice, and the fallback too where it is needed.
    pub settled: bool,
}

/// All that is known about an upstream's target and fallback, and when they are asked.
#[derive(Debug)]
pub(crate) struct Refresh {
    rules: Rules,
    target: Known,
    fallback: Option<Known>,
    storm: Option<Storm>,
}

impl Refresh {
    pub(crate) fn new(rules: Rules, has_fallback: bool, now: Instant) -> Self {
        Self {
            rules,
            target: Known { due: Some(now), ..Known::default() },
            fallback: has_fallback.then(Known::default),
            storm: None,
        }
    }

    /// Which name is asked next, and when; the target if both are due.
    pub(crate) fn next(&self) -> Option<(Source, Instant)> {
        let target = self.target.due.map(|due| (Source::Target, due));
        let fallback = self.fallback.as_ref().and_then(|known| known.due).map(|due| (Source::Fallback, due));
        [target, fallback].into_iter().flatten().min_by_key(|(_, due)| *due)
    }

    /// A connect failed: ask at once, but not again and again while they go on failing.
    pub(crate) fn connect_failed(&mut self, now: Instant) {
        let storm = match self.storm.take() {
            Some(storm) if now.saturating_duration_since(storm.last) < STORM_OVER => storm,
            _ => Storm { last: now, not_before: now, refreshes: 0, wanted: false },
        };
        let at = storm.not_before.max(now);
        self.storm = Some(Storm { last: now, wanted: true, ..storm });
        match (self.view().source, &mut self.fallback) {
            (Source::Fallback, Some(fallback)) => fallback.hasten(at),
            _ => self.target.hasten(at),
        }
    }

    /// An upstream that was dormant got a request.
    pub(crate) fn wake(&mut self, now: Instant) {
        self.target.hasten(now);
        if let Some(fallback) = &mut self.fallback {
            fallback.hasten(now);
        }
    }

    /// A refresh begins; `random` is in 0..1.
    pub(crate) fn begin(&mut self, now: Instant, random: f64) {
        if let Some(storm) = &mut self.storm
            && storm.wanted
        {
            storm.wanted = false;
            storm.refreshes = storm.refreshes.saturating_add(1);
            storm.not_before = now + back_off(storm.refreshes, random);
        }
    }

    /// A refresh ended; `random` is in 0..1.
    pub(crate) fn finish(&mut self, source: Source, outcome: Outcome, now: Instant, random: f64) {
        match (source, &mut self.fallback) {
            (Source::Fallback, Some(fallback)) => fallback.learn(outcome, now, &self.rules, random),
            _ => self.target.learn(outcome, now, &self.rules, random),
        }
        // The fallback is asked while the target has no pods, or is about to have none.
        let needed = self.target.pods.is_none() || self.target.absent_since.is_some();
        if let Some(fallback) = &mut self.fallback {
            if !needed {
                *fallback = Known::default();
            } else if fallback.due.is_none() {
                fallback.due = Some(now);
            }
        }
    }

    /// Whether a name has pods, perhaps from an old answer.
    pub(crate) fn has_pods(&self, source: Source) -> bool {
        match (source, &self.fallback) {
            (Source::Fallback, Some(fallback)) => fallback.pods.is_some(),
            _ => self.target.pods.is_some(),
        }
    }

    pub(crate) fn view(&self) -> View {
        let target = &self.target;
        let view = View {
            state: target.state(),
            source: Source::Target,
            pods: target.pods.clone(),
            last_error: target.error.clone(),
            absent: target.absent(),
            settled: target.settled,
        };
        match &self.fallback {
            Some(_) if target.pods.is_some() => view,
            Some(fallback) if fallback.pods.is_some() => View {
                state: SetState::Ready,
                source: Source::Fallback,
                pods: fallback.pods.clone(),
                last_error: fallback.error.clone().or(view.last_error),
                settled: true,
                ..view
            },
            Some(fallback) => {
                // Whichever names it was asked for: DNS that failed twice is not waited for.
                let down = target.failures.saturating_add(fallback.failures) >= FAILED_AFTER;
                let settled = down || (target.settled && fallback.settled);
                View { state: if settled { view.state } else { SetState::Pending }, settled, ..view }
            }
            None => view,
        }
    }
}

#[cfg(test)]
mod tests;
