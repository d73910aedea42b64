//! Which pod is next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::aside::Admission;
use crate::endpoint::{Endpoint, EndpointId};
use crate::maglev::{Maglev, mix};
use crate::slow_start::SlowStart;

/// How a pod is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// In turn, exact over all workers.
    #[default]
    RoundRobin,
    /// The one of two random pods with fewer requests under way.
    LeastRequest,
    /// The one of two random pods that is expected to answer sooner: by its latency, peaks first, and by how many requests
    /// it has under way.
    Ewma,
    /// Any of them.
    Random,
    /// By a hash of the request: the same pod for the same hash. Any of them for a request without one.
    Maglev,
}

/// How many pods the random policies look at to find those that are not avoided.
const DRAWS: usize = 8;

/// One choice: among whom, and what there is to go by.
pub(crate) struct Chooser<'a> {
    pub balance: Balance,
    pub endpoints: &'a [Arc<Endpoint>],
    /// Of these endpoints.
    pub maglev: Option<&'a Maglev>,
    pub tried: &'a [EndpointId],
    pub cursor: &'a AtomicUsize,
    /// Milliseconds since the upstream was made.
    pub now: u64,
    /// What `Maglev` goes by.
    pub hash: Option<u64>,
    /// Pods that are ejected or fail their health checks are to be avoided.
    pub avoids_unwell: bool,
    pub slow_start: Option<&'a SlowStart>,
}

impl<'a> Chooser<'a> {
    /// A pod that was not tried: one that nothing speaks against, or whose trial this is; else one that is not aside; else
    /// any.
    pub(crate) fn choose(&self) -> Option<&'a Arc<Endpoint>> {
        let chosen = match self.balance {
            Balance::RoundRobin => self.in_turn(),
            Balance::LeastRequest => self.better_of_two(|endpoint| f64::from(active(endpoint))),
            Balance::Ewma => self.better_of_two(|endpoint| endpoint.latency.cost(self.now, active(endpoint))),
            Balance::Random => self.drawn(),
            Balance::Maglev => self.by_hash(),
        };
        chosen.or_else(|| self.anywhere())
    }

    fn admit(&self, endpoint: &Endpoint) -> Admission {
        if self.slow_start.is_some_and(|rule| rule.turns_down(&endpoint.youth, self.now, fastrand::f64)) {
            return Admission::No;
        }
        self.admit_warm(endpoint)
    }

    /// All that can speak against a pod, but that it is new.
    fn admit_warm(&self, endpoint: &Endpoint) -> Admission {
        if self.avoids_unwell && endpoint.is_unwell() || self.tried.contains(&endpoint.id()) {
            return Admission::No;
        }
        endpoint.aside.admit(self.now)
    }

    /// Who may not be chosen uses up a turn, so that the turns of the others stay even (the neighbour of a pod that is
    /// aside gets no double share).
    fn in_turn(&self) -> Option<&'a Arc<Endpoint>> {
        let (endpoints, cursor) = (self.endpoints, self.cursor);
        (0..endpoints.len())
            .filter_map(|_| endpoints.get(cursor.fetch_add(1, Ordering::Relaxed) % endpoints.len()))
            .find(|endpoint| self.admit(endpoint) != Admission::No)
    }

    fn draw(&self) -> Option<&'a Arc<Endpoint>> {
        self.endpoints.get(fastrand::usize(..self.endpoints.len().max(1)))
    }

    fn drawn(&self) -> Option<&'a Arc<Endpoint>> {
        (0..DRAWS).filter_map(|_| self.draw()).find(|endpoint| self.admit(endpoint) != Admission::No)
    }

    /// The power of two choices (Mitzenmacher 2001): the one of two that costs less.
    fn better_of_two(&self, cost: impl Fn(&Endpoint) -> f64) -> Option<&'a Arc<Endpoint>> {
        let mut first: Option<&Arc<Endpoint>> = None;
        for _ in 0..DRAWS {
            let endpoint = self.draw()?;
            match (self.admit(endpoint), first) {
                (Admission::No, _) => {}
                (Admission::Trial, _) => return Some(endpoint),
                (Admission::Free, None) => first = Some(endpoint),
                (Admission::Free, Some(other)) if other.id() == endpoint.id() => {}
                (Admission::Free, Some(other)) => {
                    return Some(if cost(endpoint) < cost(other) { endpoint } else { other });
                }
            }
        }
        first
    }

    /// The pod that the hash belongs to. If that may not be chosen, the one that another hash of it belongs to: the keys of
    /// a pod that is down are spread over all others, and come back with it.
    fn by_hash(&self) -> Option<&'a Arc<Endpoint>> {
        let (Some(first), Some(table)) = (self.hash, self.maglev) else { return self.drawn() };
        std::iter::successors(Some(first), |hash| Some(mix(*hash)))
            .take(DRAWS)
            .filter_map(|hash| self.endpoints.get(table.pod(hash)?))
            .find(|endpoint| self.admit_warm(endpoint) != Admission::No)
    }

    /// From a random place on: the first that nothing speaks against, else the first that is not aside, else the first
    /// that was not tried.
    fn anywhere(&self) -> Option<&'a Arc<Endpoint>> {
        let (endpoints, start) = (self.endpoints, fastrand::usize(..self.endpoints.len().max(1)));
        let from_start = || endpoints.iter().skip(start).chain(endpoints.iter().take(start));
        let untried = || from_start().filter(|endpoint| !self.tried.contains(&endpoint.id()));
        from_start()
            .find(|endpoint| self.admit_warm(endpoint) != Admission::No)
            .or_else(|| untried().find(|endpoint| !endpoint.aside.is_set()))
            .or_else(|| untried().next())
    }
}

fn active(endpoint: &Endpoint) -> u32 {
    endpoint.counts().requests_active.load(Ordering::Relaxed)
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

    fn chooser<'a>(balance: Balance, pods: &'a [Arc<Endpoint>], cursor: &'a AtomicUsize) -> Chooser<'a> {
        Chooser {
            balance,
            endpoints: pods,
            maglev: None,
            tried: &[],
            cursor,
            now: 1,
            hash: None,
            avoids_unwell: true,
            slow_start: None,
        }
    }

    fn choose<'a>(
        balance: Balance,
        pods: &'a [Arc<Endpoint>],
        tried: &'a [EndpointId],
        cursor: &'a AtomicUsize,
        now: u64,
    ) -> Option<&'a Arc<Endpoint>> {
        Chooser { tried, now, ..chooser(balance, pods, cursor) }.choose()
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

    const ALL: [Balance; 5] =
        [Balance::RoundRobin, Balance::LeastRequest, Balance::Ewma, Balance::Random, Balance::Maglev];

    #[test]
    fn no_pods_is_no_choice_and_no_panic() {
        for balance in ALL {
            assert!(choose(balance, &[], &[], &AtomicUsize::new(0), 1).is_none());
        }
    }

    #[test]
    fn what_was_tried_is_not_chosen_again() {
        let pods = pods(3);
        for balance in ALL {
            let cursor = AtomicUsize::new(0);
            for _ in 0..50 {
                let tried = [pods[0].id(), pods[2].id()];
                let chosen = choose(balance, &pods, &tried, &cursor, 1).unwrap();
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
        for balance in ALL {
            let shares = shares(balance, &pods, 300, &AtomicUsize::new(0));
            assert!(shares.iter().all(|share| *share > 50), "{balance:?} {shares:?}");
        }
    }

    #[test]
    fn a_pod_whose_time_aside_is_over_gets_one_request() {
        for balance in ALL {
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

    #[test]
    fn random_spreads_over_all_pods() {
        let shares = shares(Balance::Random, &pods(4), 4_000, &AtomicUsize::new(0));
        assert!(shares.iter().all(|share| (800..1_200).contains(share)), "{shares:?}");
    }

    #[test]
    fn ewma_leaves_a_slow_pod_alone_and_spreads_over_the_quick_ones() {
        let pods = pods(4);
        for (pod, micros) in pods.iter().zip([50_000, 1_000, 1_000, 1_000]) {
            pod.latency.observe(1, micros);
        }
        let shares = shares(Balance::Ewma, &pods, 3_000, &AtomicUsize::new(0));
        assert!(shares[0] < 60 && shares[1..].iter().all(|share| *share > 600), "{shares:?}");
    }

    #[test]
    fn a_hash_sticks_to_its_pod_and_comes_back_to_it() {
        let (pods, cursor) = (pods(5), AtomicUsize::new(0));
        let table = Maglev::new(&pods, None);
        let home = |hash| {
            let chooser = Chooser {
                hash: Some(hash),
                maglev: Some(&table),
                ..chooser(Balance::Maglev, &pods, &cursor)
            };
            chooser.choose().unwrap().id()
        };
        let before: Vec<_> = (0..500).map(home).collect();
        assert!(pods.iter().all(|pod| before.contains(&pod.id())), "every pod has keys");
        assert_eq!((0..500).map(home).collect::<Vec<_>>(), before);
        pods[2].aside.fail(1, 1.0);
        let meanwhile: Vec<_> = (0..500).map(home).collect();
        let mut heirs: HashMap<EndpointId, usize> = HashMap::new();
        for (from, to) in before.iter().zip(&meanwhile) {
            assert!(from == to || *from == pods[2].id(), "only the keys of the pod that is aside move");
            *heirs.entry(*to).or_default() += usize::from(from != to);
        }
        assert!(
            pods.iter().all(|pod| pod.id() == pods[2].id() || heirs[&pod.id()] > 5),
            "to all others: {heirs:?}"
        );
        pods[2].aside.clear();
        assert_eq!((0..500).map(home).collect::<Vec<_>>(), before);
    }

    #[test]
    fn a_new_pod_gets_a_part_of_its_share_under_each_policy_that_shares() {
        let rule = SlowStart { window: std::time::Duration::from_secs(10), aggression: 1.0, min_weight: 0.1 };
        for balance in [Balance::RoundRobin, Balance::LeastRequest, Balance::Random] {
            let (pods, cursor) = (pods(4), AtomicUsize::new(0));
            pods[1].youth.begin(1);
            let mut counts: HashMap<EndpointId, usize> = HashMap::new();
            for _ in 0..4_000 {
                let chooser =
                    Chooser { now: 5_001, slow_start: Some(&rule), ..chooser(balance, &pods, &cursor) };
                *counts.entry(chooser.choose().unwrap().id()).or_default() += 1;
            }
            let share = counts[&pods[1].id()];
            assert!(
                (450..720).contains(&share),
                "{balance:?}: half of a share, at half of the window: {share}"
            );
        }
    }

    #[test]
    fn pods_that_are_all_new_share_evenly() {
        let rule = SlowStart { window: std::time::Duration::from_secs(10), aggression: 1.0, min_weight: 0.1 };
        let (pods, cursor) = (pods(4), AtomicUsize::new(0));
        for pod in &pods {
            pod.youth.begin(1);
        }
        for balance in ALL {
            let mut counts: HashMap<EndpointId, usize> = HashMap::new();
            for _ in 0..4_000 {
                let chooser = Chooser { now: 2, slow_start: Some(&rule), ..chooser(balance, &pods, &cursor) };
                *counts.entry(chooser.choose().expect("never nobody").id()).or_default() += 1;
            }
            assert!(pods.iter().all(|pod| counts[&pod.id()] > 700), "{balance:?}: {counts:?}");
        }
    }

    #[test]
    fn a_pod_that_fails_its_checks_is_chosen_only_if_there_is_no_other_or_in_a_panic() {
        let (pods, cursor) = (pods(3), AtomicUsize::new(0));
        pods[1].set_fails_checks(true);
        for balance in ALL {
            let shares = shares(balance, &pods, 300, &cursor);
            assert!(shares[1] == 0 && shares[0] > 90 && shares[2] > 90, "{balance:?} {shares:?}");
            let others = [pods[0].id(), pods[2].id()];
            let last = Chooser { tried: &others, ..chooser(balance, &pods, &cursor) };
            assert_eq!(last.choose().map(|pod| pod.id()), Some(pods[1].id()));
            let in_panic = Chooser { avoids_unwell: false, ..chooser(balance, &pods, &cursor) };
            assert!((0..200).any(|_| in_panic.choose().unwrap().id() == pods[1].id()));
        }
    }

    #[test]
    fn a_panic_spares_pods_that_take_no_connections() {
        let (pods, cursor) = (pods(3), AtomicUsize::new(0));
        pods[0].aside.fail(1, 1.0);
        for balance in ALL {
            let in_panic = Chooser { avoids_unwell: false, ..chooser(balance, &pods, &cursor) };
            assert!((0..200).all(|_| in_panic.choose().unwrap().id() != pods[0].id()), "{balance:?}");
        }
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
            for balance in ALL {
                let cursor = AtomicUsize::new(0);
                let chosen = choose(balance, &pods, &tried, &cursor, 1);
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
