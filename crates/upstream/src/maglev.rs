//! Maglev hashing: the same key goes to the same pod, and few keys move when pods come and go (Eisenbud et al., "Maglev: A
//! Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).

use std::sync::Arc;

use crate::endpoint::Endpoint;

/// The sizes of a table, all prime: at least a hundred places a pod, so that shares differ by about a hundredth. A set
/// that shrinks keeps its table's size, because another one would move nearly every key.
const SIZES: [usize; 4] = [1_021, 8_191, 65_537, 655_373];
/// Places for each pod at least.
const PLACES_PER_POD: usize = 100;
/// A place that nobody has taken yet.
const FREE: u16 = u16::MAX;

/// Which pod each hash belongs to: two bytes a place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Maglev(Box<[u16]>);

impl Maglev {
    /// The table of these pods; `before` is the last one.
    pub(crate) fn new(endpoints: &[Arc<Endpoint>], before: Option<&Self>) -> Self {
        let wanted = endpoints.len().saturating_mul(PLACES_PER_POD);
        let least = before.map_or(0, |table| table.0.len());
        let [.., largest] = SIZES;
        let size = SIZES.into_iter().find(|size| *size >= wanted && *size >= least).unwrap_or(largest);
        // A DNS answer holds a tenth of this.
        let endpoints = endpoints.get(..usize::from(FREE)).unwrap_or(endpoints);
        let mut walks: Vec<Walk> = endpoints.iter().map(|endpoint| Walk::of(endpoint, size)).collect();
        let mut table = vec![FREE; if walks.is_empty() { 0 } else { size }];
        let mut left = table.len();
        while left > 0 {
            for (pod, walk) in (0_u16..).zip(&mut walks) {
                if left == 0 {
                    break;
                }
                // The places of a walk are all there are, so that it meets a free one.
                while table[walk.place] != FREE {
                    walk.step(size);
                }
                table[walk.place] = pod;
                left -= 1;
            }
        }
        Self(table.into())
    }

    /// The pod's index in the set.
    pub(crate) fn pod(&self, hash: u64) -> Option<usize> {
        let places = u64::try_from(self.0.len()).ok().filter(|places| *places > 0)?;
        self.0.get(usize::try_from(hash % places).ok()?).copied().map(usize::from)
    }
}

/// A pod's way through all places.
struct Walk {
    place: usize,
    skip: usize,
}

impl Walk {
    fn of(endpoint: &Endpoint, size: usize) -> Self {
        // A name outlives an address: a StatefulSet's pod keeps its keys when it is replaced.
        let hash = match endpoint.identity() {
            Some(name) => hash(name.as_bytes()),
            None => hash(endpoint.address().to_string().as_bytes()),
        };
        let places = u64::try_from(size).unwrap_or(u64::MAX);
        let within = |number: u64, of: u64| usize::try_from(number % of).unwrap_or(0);
        Self { place: within(hash, places), skip: within(mix(hash), places - 1) + 1 }
    }

    fn step(&mut self, size: usize) {
        self.place = (self.place + self.skip) % size;
    }
}

/// The hash of a key; the same in every process and every version (FNV-1a, mixed).
#[must_use]
pub fn hash(key: &[u8]) -> u64 {
    let fnv = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(fnv)
}

/// Another hash for the same key, for when its pod cannot be used (the finalizer of SplitMix64).
pub(crate) fn mix(hash: u64) -> u64 {
    let hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn pod(number: u16) -> Arc<Endpoint> {
        let [high, low] = number.to_be_bytes();
        Endpoint::new(SocketAddr::from(([10, 0, high, low], 80)), None)
    }

    fn pods(numbers: impl IntoIterator<Item = u16>) -> Vec<Arc<Endpoint>> {
        numbers.into_iter().map(pod).collect()
    }

    /// Where each of a thousand keys goes.
    fn homes(pods: &[Arc<Endpoint>], table: &Maglev) -> Vec<SocketAddr> {
        (0..1_000_u64).map(|key| pods[table.pod(hash(&key.to_be_bytes())).unwrap()].address()).collect()
    }

    #[test]
    fn no_pods_is_no_table_and_no_panic() {
        let table = Maglev::new(&[], None);
        assert_eq!((table.0.len(), table.pod(7)), (0, None));
    }

    #[test]
    fn every_pod_gets_its_share_within_a_few_hundredths() {
        for count in [1_u16, 2, 3, 7, 10, 60, 400] {
            let table = Maglev::new(&pods(0..count), None);
            let mut shares = vec![0_usize; usize::from(count)];
            for pod in &table.0 {
                shares[usize::from(*pod)] += 1;
            }
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{count} pods: {least} to {most} places");
        }
    }

    #[test]
    fn a_small_set_needs_little_memory_and_keeps_its_size_when_it_shrinks() {
        let small = Maglev::new(&pods(0..10), None);
        assert_eq!(small.0.len() * 2, 2_042, "bytes");
        let grown = Maglev::new(&pods(0..11), Some(&small));
        assert_eq!(grown.0.len(), 8_191);
        assert_eq!(Maglev::new(&pods(0..10), Some(&grown)).0.len(), 8_191);
    }

    #[test]
    fn two_sidecars_send_a_key_to_the_same_pod() {
        assert_eq!(hash(b"user-1"), 0xf16d_8d44_0fbb_25d5, "the same in every version");
        let pods = pods(0..5);
        assert_eq!(Maglev::new(&pods, None), Maglev::new(&pods, None));
    }

    #[test]
    fn a_named_pod_keeps_its_keys_when_its_address_changes() {
        let named = |last| Endpoint::new(SocketAddr::from(([10, 0, 0, last], 80)), Some("web-0".into()));
        let other = pod(700);
        let before = Maglev::new(&[named(1), Arc::clone(&other)], None);
        assert_eq!(before, Maglev::new(&[named(9), other], None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn few_keys_move_when_a_pod_leaves_or_comes(count in 2..60_u16, which in 0..60_u16) {
            let all = pods(0..count);
            let gone = which % count;
            let rest = pods((0..count).filter(|number| *number != gone));
            let (with, size) = (Maglev::new(&all, None), Maglev::new(&all, None));
            let without = Maglev::new(&rest, Some(&size));
            let gone = pod(gone).address();
            let (before, after) = (homes(&all, &with), homes(&rest, &without));
            let moved = before.iter().zip(&after).filter(|(from, to)| **from != gone && from != to).count();
            // The paper's figure 12: some hundredths, with a table of a hundred places a pod.
            prop_assert!(moved < 100, "{moved} of 1000 keys of pods that stay have moved, {count} pods");
            prop_assert!(after.iter().all(|home| *home != gone));
        }
    }
}
