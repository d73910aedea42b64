//! One loopback address below 127.77/16 per Service: the same in every pod and after every new injection, as far as no
//! other Service of the pod has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::hash;

/// Addresses whose last part is neither 0 nor 255.
const COUNT: u64 = 256 * 254;

/// Gives each key an address that is neither another key's nor taken.
pub(crate) fn assign<'k>(
    keys: impl IntoIterator<Item = &'k str>,
    taken: &BTreeSet<IpAddr>,
) -> BTreeMap<&'k str, IpAddr> {
    let keys: BTreeSet<&str> = keys.into_iter().collect();
    let mut taken = taken.clone();
    let mut assigned = BTreeMap::new();
    for key in keys {
        let start = hash::of_text(key) % COUNT;
        let free =
            (0..COUNT).map(|step| address((start + step) % COUNT)).find(|address| taken.insert(*address));
        if let Some(address) = free {
            assigned.insert(key, address);
        }
    }
    assigned
}

fn address(index: u64) -> IpAddr {
    let [third, fourth] = [index / 254, index % 254 + 1].map(|part| u8::try_from(part).unwrap_or(1));
    IpAddr::V4(Ipv4Addr::new(127, 77, third, fourth))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_service_keeps_its_address_whatever_else_the_pod_calls() {
        let alone = assign(["shop/backend"], &BTreeSet::new());
        let many: Vec<String> = (0..99).map(|n| format!("shop/s{n}")).collect();
        let among = assign(many.iter().map(String::as_str).chain(["shop/backend"]), &BTreeSet::new());
        assert_eq!(alone["shop/backend"], among["shop/backend"]);
        assert_eq!(alone["shop/backend"].to_string(), "127.77.39.26", "stored in clusters");
    }

    #[test]
    fn a_taken_address_is_passed_over() {
        let first = assign(["shop/backend"], &BTreeSet::new())["shop/backend"];
        let second = assign(["shop/backend"], &BTreeSet::from([first]))["shop/backend"];
        assert_ne!(first, second);
    }

    proptest! {
        #[test]
        fn no_two_services_share_an_address(keys in prop::collection::btree_set("[a-z]{1,3}/[a-z]{1,3}", 0..300)) {
            let assigned = assign(keys.iter().map(String::as_str), &BTreeSet::new());
            prop_assert_eq!(assigned.len(), keys.len());
            let addresses: BTreeSet<IpAddr> = assigned.values().copied().collect();
            prop_assert_eq!(addresses.len(), keys.len());
            for address in addresses {
                let IpAddr::V4(address) = address else { panic!("{address}") };
                let [a, b, _, d] = address.octets();
                prop_assert!(a == 127 && b == 77 && d != 0 && d != 255);
            }
        }
    }
}
