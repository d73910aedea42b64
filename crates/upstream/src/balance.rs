//! Which pod is next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::aside::Admission;
use crate::endpoint::{Endpoint, EndpointId};

/// How a pod is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// In turn, exact over all workers.
    #[default]
    RoundRobin,
    /// The one of two random pods with fewer requests under way.
    LeastRequest,
}

/// How many pods `least_request` looks at to find two that are not avoided.
const DRAWS: usize = 8;

/// A pod that is not in `tried`: one that is not aside, or whose trial this is; if all are aside, any of them.
/// `now` is in milliseconds since the upstream was made.
pub(crate) fn choose<'a>(
    balance: Balance,
    endpoints: &'a [Arc<Endpoint>],
    tried: &[EndpointId],
    cursor: &AtomicUsize,
    now: u64,
) -> Option<&'a Arc<Endpoint>> {
    let chosen = match balance {
        Balance::RoundRobin => in_turn(endpoints, tried, cursor, now),
        Balance::LeastRequest => less_busy(endpoints, tried, now),
    };
    chosen.or_else(|| from_anywhere(endpoints, tried, now))
}

fn admit(endpoint: &Endpoint, tried: &[EndpointId], now: u64) -> Admission {
    if tried.contains(&endpoint.id()) { Admission::No } else { endpoint.aside.admit(now) }
}

/// Who may not be chosen uses up a turn, so that the turns of the others stay even (the neighbour of a pod that is
/// aside gets no double share).
fn in_turn<'a>(
    endpoints: &'a [Arc<Endpoint>],
    tried: &[EndpointId],
    cursor: &AtomicUsize,
    now: u64,
) -> Option<&'a Arc<Endpoint>> {
    (0..endpoints.len())
        .filter_map(|_| endpoints.get(cursor.fetch_add(1, Ordering::Relaxed) % endpoints.len()))
        .find(|endpoint| admit(endpoint, tried, now) != Admission::No)
}

/// The power of two choices (Mitzenmacher 2001).
fn less_busy<'a>(
    endpoints: &'a [Arc<Endpoint>],
    tried: &[EndpointId],
    now: u64,
) -> Option<&'a Arc<Endpoint>> {
    let active = |endpoint: &Endpoint| endpoint.counts().requests_active.load(Ordering::Relaxed);
    let mut first: Option<&Arc<Endpoint>> = None;
    for _ in 0..DRAWS {
        let endpoint = endpoints.get(fastrand::usize(..endpoints.len().max(1)))?;
        match (admit(endpoint, tried, now), first) {
            (Admission::No, _) => {}
            (Admission::Trial, _) => return Some(endpoint),
            (Admission::Free, None) => first = Some(endpoint),
            (Admission::Free, Some(other)) if other.id() == endpoint.id() => {}
            (Admission::Free, Some(other)) => {
                return Some(if active(endpoint) < active(other) { endpoint } else { other });
            }
        }
    }
    first
}

/// From a random place on: the first that may be chosen, else the first that was not tried.
fn from_anywhere<'a>(
    endpoints: &'a [Arc<Endpoint>],
    tried: &[EndpointId],
    now: u64,
) -> Option<&'a Arc<Endpoint>> {
    let start = fastrand::usize(..endpoints.len().max(1));
    let from_start = || endpoints.iter().skip(start).chain(endpoints.iter().take(start));
    from_start()
        .find(|endpoint| admit(endpoint, tried, now) != Admission::No)
        .or_else(|| from_start().find(|endpoint| !tried.contains(&endpoint.id())))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn pods(count: u8) -> Vec<Arc<Endpoint>> {
        (0..count).map(|last| Endpoint::new(SocketAddr::from(([10, 0, 0, last], 80)), None)).collect()
    }

    /// How often each of `pods` is chosen in `requests`.
    fn shares(balance: Balance, pods: &[Arc<Endpoint>], requests: usize, cursor: &AtomicUsize) -> Vec<usize> {
        let mut counts: HashMap<EndpointId, usize> = HashMap::new();
        for _ in 0..requests {
            let chosen = choose(balance, pods, &[], cursor, 1).expect("there are pods");
            *counts.entry(chosen.id()).or_default() += 1;
        }
        pods.iter().map(|pod| counts.get(&pod.id()).copied().unwrap_or(0)).collect()
    }

    const BOTH: [Balance; 2] = [Balance::RoundRobin, Balance::LeastRequest];

    #[test]
    fn no_pods_is_no_choice_and_no_panic() {
        for balance in BOTH {
            assert!(choose(balance, &[], &[], &AtomicUsize::new(0), 1).is_none());
        }
    }

    #[test]
    fn what_was_tried_is_not_chosen_again() {
        let pods = pods(3);
        for balance in BOTH {
            let cursor = AtomicUsize::new(0);
            for _ in 0..50 {
                let chosen = choose(balance, &pods, &[pods[0].id(), pods[2].id()], &cursor, 1).unwrap();
                assert_eq!(chosen.id(), pods[1].id());
            }
            let all: Vec<_> = pods.iter().map(|pod| pod.id()).collect();
            assert!(choose(balance, &pods, &all, &cursor, 1).is_none());
        }
    }

    #[test]
    fn the_load_of_a_pod_that_is_aside_is_shared_by_all_others() {
        let pods = pods(4);
        pods[1].aside.fail(1, 1.0);
        let shares = shares(Balance::RoundRobin, &pods, 300, &AtomicUsize::new(0));
        assert_eq!(shares, [100, 0, 100, 100]);
    }

    #[test]
    fn if_all_are_aside_all_are_used() {
        let pods = pods(3);
        for pod in &pods {
            pod.aside.fail(1, 1.0);
        }
        for balance in BOTH {
            let shares = shares(balance, &pods, 300, &AtomicUsize::new(0));
            assert!(shares.iter().all(|share| *share > 50), "{balance:?} {shares:?}");
        }
    }

    #[test]
    fn a_pod_whose_time_aside_is_over_gets_one_request() {
        for balance in BOTH {
            let pods = pods(2);
            pods[0].aside.fail(1, 1.0);
            let cursor = AtomicUsize::new(0);
            let chosen = |now| choose(balance, &pods, &[], &cursor, now).unwrap().id();
            let trials = (0..200).filter(|_| chosen(1_500) == pods[0].id()).count();
            assert_eq!(trials, 1, "{balance:?}");
        }
    }

    #[test]
    fn least_request_prefers_the_idle_pod() {
        let pods = pods(2);
        pods[0].counts().requests_active.store(10, Ordering::Relaxed);
        let shares = shares(Balance::LeastRequest, &pods, 1_000, &AtomicUsize::new(0));
        assert!(shares[1] > 950, "{shares:?}");
    }

    #[test]
    fn least_request_spreads_over_equal_pods() {
        let shares = shares(Balance::LeastRequest, &pods(4), 4_000, &AtomicUsize::new(0));
        assert!(shares.iter().all(|share| (700..1_300).contains(share)), "{shares:?}");
    }

    #[test]
    fn round_robin_is_exact_over_all_workers() {
        let pods = pods(7);
        let cursor = AtomicUsize::new(fastrand::usize(..1_000_000));
        let mut total = vec![0; 7];
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| shares(Balance::RoundRobin, &pods, 2_503, &cursor))).collect();
            for worker in workers {
                for (sum, share) in total.iter_mut().zip(worker.join().unwrap()) {
                    *sum += share;
                }
            }
        });
        let (least, most) = (total.iter().min().unwrap(), total.iter().max().unwrap());
        assert!(most - least <= 1, "{total:?}");
    }

    proptest! {
        #[test]
        fn round_robin_is_exact_from_any_start(count in 1..20u8, requests in 0..200usize, start in 0..usize::MAX / 2) {
            let shares = shares(Balance::RoundRobin, &pods(count), requests, &AtomicUsize::new(start));
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1);
        }

        #[test]
        fn a_pod_that_was_not_tried_is_always_found(
            aside in prop::collection::vec(any::<bool>(), 1..12), tried in prop::collection::vec(any::<bool>(), 12)
        ) {
            let pods = pods(u8::try_from(aside.len()).unwrap());
            for (pod, aside) in pods.iter().zip(&aside) {
                if *aside { pod.aside.fail(1, 1.0); }
            }
            let tried: Vec<_> = pods.iter().zip(tried).filter(|(_, tried)| *tried).map(|(pod, _)| pod.id()).collect();
            for balance in BOTH {
                let chosen = choose(balance, &pods, &tried, &AtomicUsize::new(0), 1);
                prop_assert_eq!(chosen.is_some(), tried.len() < pods.len());
                if let Some(chosen) = chosen {
                    prop_assert!(!tried.contains(&chosen.id()));
                    let better = pods.iter().any(|pod| !tried.contains(&pod.id()) && !pod.aside.is_set());
                    prop_assert!(!(better && chosen.aside.is_set()), "a pod that is aside only if there is no other");
                }
            }
        }
    }
}
