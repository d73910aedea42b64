//! What is to be looked at and when: at once after a change, later and later after failures.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use whichpod_injection::ServiceName;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(10 * 60);
/// Longer than anybody waits.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Services by when they are due.
#[derive(Debug, Default)]
pub(super) struct Queue {
    due: HashMap<ServiceName, Instant>,
    failures: HashMap<ServiceName, u32>,
}

impl Queue {
    /// To be looked at now, whatever was planned.
    pub(super) fn add(&mut self, services: impl IntoIterator<Item = ServiceName>, now: Instant) {
        self.due.extend(services.into_iter().map(|service| (service, now)));
    }

    /// To be looked at later: after 1 s, then twice as long each time, up to 10 minutes.
    pub(super) fn failed(&mut self, service: ServiceName, now: Instant) {
        let failures = self.failures.entry(service.clone()).or_default();
        let pause = FIRST.saturating_mul(2_u32.saturating_pow(*failures)).min(LAST);
        *failures = failures.saturating_add(1);
        self.due.entry(service).or_insert(now + pause);
    }

    /// All is well.
    pub(super) fn done(&mut self, service: &ServiceName) {
        self.failures.remove(service);
    }

    /// When something is due.
    pub(super) fn next(&self) -> Instant {
        self.due.values().min().copied().unwrap_or_else(|| Instant::now() + NEVER)
    }

    /// Takes out what is due.
    pub(super) fn take(&mut self, now: Instant) -> Vec<ServiceName> {
        let due: Vec<_> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(service, _)| service.clone()).collect();
        for service in &due {
            self.due.remove(service);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceName {
        ServiceName { namespace: "shop".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn what_fails_is_tried_again_more_and_more_rarely_and_a_change_brings_it_forward() {
        let mut queue = Queue::default();
        let mut now = Instant::now();
        queue.add([service("web"), service("web")], now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(queue.take(now), [service("web")]);
            queue.failed(service("web"), now);
            pauses.push(queue.next().duration_since(now).as_secs());
            assert!(queue.take(now).is_empty());
            now = queue.next();
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        queue.take(now);
        queue.failed(service("web"), now);
        queue.add([service("web")], now);
        assert_eq!(queue.next(), now);
        queue.take(now);
        queue.done(&service("web"));
        queue.failed(service("web"), now);
        assert_eq!(queue.next().duration_since(now), FIRST);
    }
}
