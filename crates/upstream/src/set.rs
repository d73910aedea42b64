//! Who the pods are: an immutable set, and how the next one is made from an answer.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::maglev::Maglev;
use crate::upstream::NoEndpoint;

/// An immutable answer: who the pods are.
#[derive(Debug, Clone)]
pub struct EndpointSet {
    pub(crate) endpoints: Arc<[Arc<Endpoint>]>,
    /// Of these endpoints, where that is how they are chosen.
    pub(crate) maglev: Option<Arc<Maglev>>,
    pub(crate) state: SetState,
    pub(crate) source: Source,
    pub(crate) virtual_ip: bool,
    pub(crate) answered_at: Option<Instant>,
    /// Until when the names in the answer may be printed; `None`: for ever.
    pub(crate) names_until: Option<Instant>,
    pub(crate) last_error: Option<Arc<str>>,
    /// The last answer said that nothing is there, be it confirmed or not.
    pub(crate) absent: bool,
}

impl EndpointSet {
    pub(crate) fn pending() -> Self {
        Self {
            endpoints: Arc::new([]),
            maglev: None,
            state: SetState::Pending,
            source: Source::Target,
            virtual_ip: false,
            answered_at: None,
            names_until: None,
            last_error: None,
            absent: false,
        }
    }

    /// The pods, sorted by address: a stable order.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// What is known about the name.
    #[must_use]
    pub fn state(&self) -> SetState {
        self.state
    }

    /// Which of the two names the set came from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// True if the answer is a Service's virtual IP, which hides the pods behind it.
    #[must_use]
    pub fn virtual_ip(&self) -> bool {
        self.virtual_ip
    }

    /// When the last answer with pods came; `None` before, and for a literal address.
    #[must_use]
    pub fn answered_at(&self) -> Option<Instant> {
        self.answered_at
    }

    /// Why the last refresh brought no pods; `None` if it did.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Why there is nothing to choose.
    pub(crate) fn without_pods(&self) -> NoEndpoint {
        match self.state {
            SetState::Failed => NoEndpoint::DnsFailed,
            SetState::Pending if !self.absent => NoEndpoint::DnsFailed,
            _ => NoEndpoint::Empty,
        }
    }

    /// True if the names in the answer are within their TTL.
    pub(crate) fn names_hold(&self, now: Instant) -> bool {
        self.names_until.is_none_or(|until| now <= until)
    }
}

/// What is known about the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetState {
    /// No answer yet, or a first one without pods that is not confirmed.
    Pending,
    /// Pods, perhaps from an old answer.
    Ready,
    /// The name does not exist or has no pods, confirmed over the hold time.
    Empty,
    /// Never an answer; DNS fails.
    Failed,
}

/// Which of the two names a set came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// What was asked for.
    Target,
    /// What stands in while the target does not exist.
    Fallback,
}

/// One pod in an answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub address: SocketAddr,
    pub identity: Option<Arc<str>>,
}

/// Sorts by address and leaves one for each address; of several names for one address a real one is kept.
pub(crate) fn normalise(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_unstable_by(|a, b| {
        a.address
            .cmp(&b.address)
            .then_with(|| a.identity.is_none().cmp(&b.identity.is_none()))
            .then_with(|| a.identity.cmp(&b.identity))
    });
    found.dedup_by(|next, kept| next.address == kept.address);
    found
}

/// The next set of endpoints and what changed.
#[derive(Debug)]
pub(crate) struct Merge {
    pub endpoints: Arc<[Arc<Endpoint>]>,
    pub added: Vec<Arc<Endpoint>>,
    pub removed: Vec<Arc<Endpoint>>,
}

impl Merge {
    pub(crate) fn changed(&self) -> bool {
        !(self.added.is_empty() && self.removed.is_empty())
    }
}

/// One pass over two sorted lists: a pod that stays keeps its endpoint; an address with another identity is another
/// pod. `found` must be [`normalise`]d. Without a difference nothing is allocated.
pub(crate) fn merge(old: &Arc<[Arc<Endpoint>]>, found: &[Found]) -> Merge {
    let same = |endpoint: &Endpoint, found: &Found| {
        endpoint.address() == found.address && endpoint.identity() == found.identity.as_ref()
    };
    if old.len() == found.len() && old.iter().zip(found).all(|(endpoint, found)| same(endpoint, found)) {
        return Merge { endpoints: Arc::clone(old), added: Vec::new(), removed: Vec::new() };
    }
    let mut endpoints = Vec::with_capacity(found.len());
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    let mut before = old.iter().peekable();
    for found in found {
        while let Some(endpoint) = before.next_if(|endpoint| endpoint.address() < found.address) {
            removed.push(Arc::clone(endpoint));
        }
        match before.next_if(|endpoint| endpoint.address() == found.address) {
            Some(endpoint) if same(endpoint, found) => endpoints.push(Arc::clone(endpoint)),
            replaced => {
                removed.extend(replaced.cloned());
                let endpoint = Endpoint::new(found.address, found.identity.clone());
                added.push(Arc::clone(&endpoint));
                endpoints.push(endpoint);
            }
        }
    }
    removed.extend(before.cloned());
    Merge { endpoints: endpoints.into(), added, removed }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn found(last: u8, identity: Option<&str>) -> Found {
        Found { address: SocketAddr::from(([10, 0, 0, last], 80)), identity: identity.map(Arc::from) }
    }

    fn empty() -> Arc<[Arc<Endpoint>]> {
        Arc::new([])
    }

    #[test]
    fn a_pod_that_stays_keeps_its_connections_and_counts() {
        let first = merge(&empty(), &[found(1, None), found(2, None)]);
        let second = merge(&first.endpoints, &[found(2, None), found(3, None)]);
        assert!(Arc::ptr_eq(&first.endpoints[1], &second.endpoints[0]));
        assert_eq!(second.added.len(), 1);
        assert_eq!(second.removed.len(), 1);
        assert_eq!(second.removed[0].id(), first.endpoints[0].id());
    }

    #[test]
    fn an_address_with_another_name_is_another_pod() {
        let first = merge(&empty(), &[found(1, Some("web-0"))]);
        for identity in [Some("web-1"), None] {
            let second = merge(&first.endpoints, &[found(1, identity)]);
            assert_ne!(first.endpoints[0].id(), second.endpoints[0].id());
            assert_eq!((second.added.len(), second.removed.len()), (1, 1));
        }
    }

    #[test]
    fn an_answer_without_a_difference_allocates_no_new_set() {
        let first = merge(&empty(), &[found(1, None), found(2, None)]);
        let second = merge(&first.endpoints, &[found(1, None), found(2, None)]);
        assert!(Arc::ptr_eq(&first.endpoints, &second.endpoints));
        assert!(!second.changed());
    }

    #[test]
    fn a_pod_listed_twice_gets_no_double_share_and_keeps_its_name() {
        let pods = normalise(vec![found(2, None), found(1, None), found(1, Some("web-0")), found(1, None)]);
        assert_eq!(pods, [found(1, Some("web-0")), found(2, None)]);
    }

    #[test]
    fn names_end_with_their_ttl() {
        let now = Instant::now();
        let mut set = EndpointSet::pending();
        assert!(set.names_hold(now));
        set.names_until = Some(now);
        assert!(set.names_hold(now));
        assert!(!set.names_hold(now + std::time::Duration::from_millis(1)));
    }

    prop_compose! {
        fn answer()(pods in prop::collection::vec((0..12u8, prop::option::of(0..3u8)), 0..14)) -> Vec<Found> {
            normalise(pods.into_iter().map(|(last, name)| found(last, name.map(|n| format!("web-{n}")).as_deref())).collect())
        }
    }

    proptest! {
        #[test]
        fn a_merge_is_the_set_difference(answers in prop::collection::vec(answer(), 1..8)) {
            let mut endpoints = empty();
            for answer in answers {
                let key = |e: &Arc<Endpoint>| (e.address(), e.identity().cloned());
                let old: BTreeMap<_, _> = endpoints.iter().map(|e| (key(e), e.id())).collect();
                let merge = merge(&endpoints, &answer);
                let new: BTreeMap<_, _> = merge.endpoints.iter().map(|e| (key(e), e.id())).collect();
                let asked: Vec<_> = answer.iter().map(|f| (f.address, f.identity.clone())).collect();
                prop_assert_eq!(new.keys().cloned().collect::<Vec<_>>(), asked, "exactly the answer, in order");
                let added: Vec<_> = merge.added.iter().map(key).collect();
                let removed: Vec<_> = merge.removed.iter().map(key).collect();
                prop_assert_eq!(added, new.keys().filter(|k| !old.contains_key(*k)).cloned().collect::<Vec<_>>());
                prop_assert_eq!(removed, old.keys().filter(|k| !new.contains_key(*k)).cloned().collect::<Vec<_>>());
                for (key, id) in &new {
                    prop_assert!(old.get(key).is_none_or(|before| before == id), "who stays keeps the endpoint");
                }
                endpoints = merge.endpoints;
            }
        }
    }
}
