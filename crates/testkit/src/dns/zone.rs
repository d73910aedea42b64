//! The zone: names, their records, and how it fails. Clones are handles to one zone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};

use crate::sync::lock;

/// Names and records that one or more servers answer from; can be edited at any time through any clone.
///
/// Names are absolute, with or without the last dot, in any case. A name that was never set does not exist (NXDOMAIN),
/// unless names below it do.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    contents: Arc<Mutex<Contents>>,
}

/// What the server does instead of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Answers SERVFAIL.
    ServFail,
    /// Answers REFUSED.
    Refused,
    /// Answers nothing: the client's timeout.
    Silent,
    /// Answers with bytes that are no DNS message, but for the id.
    Garbage,
    /// Over UDP answers without records that the answer is truncated; over TCP closes the connection.
    Truncate,
}

/// What one name has.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) addresses_ttl: u32,
    pub(super) services: Vec<ServiceRecord>,
    pub(super) services_ttl: u32,
    pub(super) pointers: Vec<String>,
}

/// One SRV record and the address of its target.
#[derive(Debug, Clone)]
pub(super) struct ServiceRecord {
    pub(super) target: String,
    pub(super) port: u16,
    pub(super) address: IpAddr,
}

/// The zone behind its lock.
#[derive(Debug, Default)]
pub(super) struct Contents {
    names: BTreeMap<String, Records>,
    failures: BTreeMap<String, Failure>,
    failure_of_all: Option<Failure>,
    delay: Duration,
    queries: BTreeMap<(String, RecordType), usize>,
    tcp_queries: usize,
}

impl Zone {
    /// An empty zone.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the name these IPv4 (A) and IPv6 (AAAA) addresses instead of those it had; `ttl` in seconds.
    pub fn set_a(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        self.edit(|contents| {
            let records = contents.records(name);
            records.addresses = addresses.to_vec();
            records.addresses_ttl = ttl;
        });
    }

    /// Gives the name these SRV records (target, port, the target's address) instead of those it had; `ttl` in seconds.
    /// The targets resolve too, and their addresses come along with the answer.
    pub fn set_srv(&self, name: &str, targets: &[(&str, u16, IpAddr)], ttl: u32) {
        self.edit(|contents| {
            let records = contents.records(name);
            let record = |&(target, port, address): &(&str, _, _)| ServiceRecord {
                target: key(target),
                port,
                address,
            };
            records.services = targets.iter().map(record).collect();
            records.services_ttl = ttl;
        });
    }

    /// Lets the address's reverse name (PTR) point to this name only.
    pub fn set_ptr(&self, address: IpAddr, name: &str) {
        self.edit(|contents| contents.records(&reverse(address)).pointers = vec![key(name)]);
    }

    /// Takes the name and all its records away: NXDOMAIN.
    pub fn remove(&self, name: &str) {
        self.edit(|contents| contents.names.remove(&key(name)));
    }

    /// Keeps the name without any records: an answer without data (NOERROR).
    pub fn set_empty(&self, name: &str) {
        self.edit(|contents| *contents.records(name) = Records::default());
    }

    /// Fails queries for this name, of any type, until [`heal`](Self::heal).
    pub fn fail(&self, name: &str, failure: Failure) {
        self.edit(|contents| contents.failures.insert(key(name), failure));
    }

    /// Fails all queries until [`heal`](Self::heal); a failure of a certain name goes first.
    pub fn fail_all(&self, failure: Failure) {
        self.edit(|contents| contents.failure_of_all = Some(failure));
    }

    /// Ends all failures.
    pub fn heal(&self) {
        self.edit(|contents| {
            contents.failures.clear();
            contents.failure_of_all = None;
        });
    }

    /// Answers every query this much later; zero to end that.
    pub fn delay(&self, delay: Duration) {
        self.edit(|contents| contents.delay = delay);
    }

    /// How many queries for this name and type have come, failed ones too.
    pub fn queries(&self, name: &str, kind: RecordType) -> usize {
        self.edit(|contents| contents.queries.get(&(key(name), kind)).copied().unwrap_or(0))
    }

    /// How many queries have come in all.
    pub fn all_queries(&self) -> usize {
        self.edit(|contents| contents.queries.values().sum())
    }

    /// How many of the queries came over TCP.
    pub fn tcp_queries(&self) -> usize {
        self.edit(|contents| contents.tcp_queries)
    }

    pub(super) fn current_delay(&self) -> Duration {
        self.edit(|contents| contents.delay)
    }

    /// Runs several changes as one: no query sees a state in between.
    pub(super) fn edit<T>(&self, change: impl FnOnce(&mut Contents) -> T) -> T {
        change(&mut lock(&self.contents))
    }
}

impl Contents {
    /// The records of a name, which exists from now on.
    pub(super) fn records(&mut self, name: &str) -> &mut Records {
        self.names.entry(key(name)).or_default()
    }

    /// Takes away the name, all names below it, and all pointers to these.
    pub(super) fn remove_tree(&mut self, name: &str) {
        let root = key(name);
        self.names.retain(|name, records| {
            let before = records.pointers.len();
            records.pointers.retain(|target| !is_in_tree(target, &root));
            let emptied = before > 0 && records.pointers.is_empty();
            !(emptied || is_in_tree(name, &root))
        });
    }

    pub(super) fn count(&mut self, name: &str, kind: RecordType, over_tcp: bool) {
        *self.queries.entry((key(name), kind)).or_default() += 1;
        self.tcp_queries += usize::from(over_tcp);
    }

    pub(super) fn failure(&self, name: &str) -> Option<Failure> {
        self.failures.get(&key(name)).copied().or(self.failure_of_all)
    }

    /// What the name has: its own records and the addresses that SRV records give it. None: no such name.
    pub(super) fn find(&self, name: &str) -> Option<Records> {
        let name = key(name);
        let mut found = self.names.get(&name).cloned();
        for records in self.names.values() {
            for record in records.services.iter().filter(|record| record.target == name) {
                let found = found.get_or_insert_default();
                if !found.addresses.contains(&record.address) {
                    found.addresses.push(record.address);
                    found.addresses_ttl = records.services_ttl;
                }
            }
        }
        let is_above = |below: &String| is_in_tree(below, &name);
        let is_above_any = |records: &Records| records.services.iter().any(|record| is_above(&record.target));
        found
            .or_else(|| self.names.iter().any(|(n, r)| is_above(n) || is_above_any(r)).then(Records::default))
    }
}

fn is_in_tree(name: &str, root: &str) -> bool {
    root == "." || name.strip_suffix(root).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// One spelling for each name: lower case, with the last dot.
pub(super) fn key(name: &str) -> String {
    let mut key = name.to_ascii_lowercase();
    if !key.ends_with('.') {
        key.push('.');
    }
    key
}

/// The name that is asked for an address's name (RFC 1035 §3.5, RFC 3596 §2.5).
pub(super) fn reverse(address: IpAddr) -> String {
    Name::from(address).to_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_any_spelling_and_its_parents_exist() {
        let zone = Zone::new();
        zone.set_a("Backend.default.svc.cluster.local", &["127.1.0.1".parse().unwrap()], 5);
        zone.edit(|contents| {
            assert_eq!(contents.find("backend.DEFAULT.svc.cluster.local.").unwrap().addresses.len(), 1);
            assert!(contents.find("svc.cluster.local.").unwrap().addresses.is_empty());
            assert!(contents.find("ackend.default.svc.cluster.local.").is_none());
            assert!(contents.find("end.default.svc.cluster.local.").is_none());
        });
    }

    #[test]
    fn removing_a_tree_leaves_names_that_only_look_alike() {
        let zone = Zone::new();
        let ip = |last: u8| IpAddr::from([127, 1, 0, last]);
        zone.set_a("web.local.", &[ip(1)], 5);
        zone.set_a("a.web.local.", &[ip(1)], 5);
        zone.set_a("myweb.local.", &[ip(2)], 5);
        zone.set_ptr(ip(1), "a.web.local.");
        zone.set_ptr(ip(2), "myweb.local.");
        zone.edit(|contents| {
            contents.remove_tree("web.local");
            assert!(contents.find("web.local.").is_none());
            assert!(contents.find("a.web.local.").is_none());
            assert!(contents.find(&reverse(ip(1))).is_none());
            assert!(contents.find("myweb.local.").is_some());
            assert_eq!(contents.find(&reverse(ip(2))).unwrap().pointers, ["myweb.local."]);
        });
    }
}
