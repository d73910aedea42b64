//! What a response says about the pods; pure. Nothing that was not asked about is believed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::resolv_conf::Family;
use crate::resolver::{Data, Record, Response};

/// Aliases that are followed within one response.
const MAX_ALIASES: usize = 16;

/// What one response says about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said<T> {
    /// This, for so many seconds.
    This(T, u32),
    /// Ask about this name instead; the alias is good for so many seconds.
    Alias(Arc<str>, u32),
    /// Nothing of that kind is there.
    Absent(Absence),
    /// The aliases lead nowhere.
    Loop,
}

/// How something is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// The name does not exist: NXDOMAIN.
    Name,
    /// The name exists without such a record: NODATA (RFC 2308 §2.2).
    Kind,
}

/// The addresses of `name`.
pub(crate) fn addresses(response: &Response, name: &Arc<str>) -> Said<Vec<IpAddr>> {
    records(response, name, |data| match data {
        Data::Address(ip) => Some(*ip),
        _ => None,
    })
}

/// One SRV record (RFC 2782) with what the additional section says about its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub target: Arc<str>,
    pub port: u16,
    /// Of one family; empty if the response does not tell.
    pub addresses: Vec<IpAddr>,
}

/// The services at `name`: those of the lowest priority that is there. Weights are not used: pods are equal.
pub(crate) fn services(response: &Response, name: &Arc<str>, family: Family) -> Said<Vec<Service>> {
    let said = records(response, name, |data| match data {
        // A target of "." says that the service is decidedly not here.
        Data::Srv { priority, port, target } if !target.is_empty() => {
            Some((*priority, *port, Arc::clone(target)))
        }
        _ => None,
    });
    let (found, mut ttl) = match said {
        Said::This(found, ttl) => (found, ttl),
        Said::Alias(name, ttl) => return Said::Alias(name, ttl),
        Said::Absent(absence) => return Said::Absent(absence),
        Said::Loop => return Said::Loop,
    };
    let mut told: HashMap<&str, Vec<(IpAddr, u32)>> = HashMap::new();
    for record in response.additionals.iter().chain(&response.answers) {
        if let Data::Address(ip) = record.data {
            told.entry(&record.name).or_default().push((ip, record.ttl));
        }
    }
    let first = found.iter().map(|(priority, ..)| *priority).min();
    let lowest = found.into_iter().filter(|(priority, ..)| Some(*priority) == first);
    let services = lowest
        .map(|(_, port, target)| {
            let mut addresses = Vec::new();
            for (ip, seconds) in preferred(told.get(&*target).map_or(&[][..], Vec::as_slice), family) {
                ttl = ttl.min(*seconds);
                addresses.push(*ip);
            }
            Service { target, port, addresses }
        })
        .collect();
    Said::This(services, ttl)
}

/// Those of the family that is asked first, else the others.
fn preferred(told: &[(IpAddr, u32)], family: Family) -> impl Iterator<Item = &(IpAddr, u32)> {
    let is = move |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4);
    let any = told.iter().any(|(ip, _)| is(ip));
    told.iter().filter(move |(ip, _)| is(ip) == any)
}

/// True if one of the names of `reverse` is `service`: the address is the Service's virtual IP. The names of pods of
/// a headless Service are below the Service's name.
pub(crate) fn is_name_of(response: &Response, reverse: &Arc<str>, service: &str) -> bool {
    let said = records(response, reverse, |data| match data {
        Data::Ptr(name) => Some(Arc::clone(name)),
        _ => None,
    });
    matches!(said, Said::This(names, _) if names.iter().any(|name| **name == *service))
}

/// Follows the aliases within the response and collects what `pick` takes.
fn records<T>(response: &Response, name: &Arc<str>, pick: impl Fn(&Data) -> Option<T>) -> Said<Vec<T>> {
    if response.nxdomain {
        return Said::Absent(Absence::Name);
    }
    let (mut owner, mut ttl) = (name, u32::MAX);
    for _ in 0..MAX_ALIASES {
        let mut found = Vec::new();
        let mut alias: Option<&Record> = None;
        let mut seconds = ttl;
        for record in response.answers.iter().filter(|record| record.name == *owner) {
            if let Some(value) = pick(&record.data) {
                found.push(value);
                seconds = seconds.min(record.ttl);
            } else if matches!(record.data, Data::Cname(_)) {
                alias = Some(record);
            }
        }
        match alias {
            _ if !found.is_empty() => return Said::This(found, seconds),
            Some(Record { data: Data::Cname(target), ttl: alias_ttl, .. }) => {
                ttl = ttl.min(*alias_ttl);
                owner = target;
            }
            _ if owner == name => return Said::Absent(Absence::Kind),
            _ => return Said::Alias(Arc::clone(owner), ttl),
        }
    }
    Said::Loop
}

/// Addresses that no pod has: an answer with one of them is a mistake or an attack. `allow_loopback` is for tests and
/// demos.
pub(crate) fn is_refused(ip: IpAddr, allow_loopback: bool) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            (ip.is_loopback() && !allow_loopback)
                || ip.octets()[0] == 0
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            (ip.is_loopback() && !allow_loopback)
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
        }
    }
}

/// The pod's name, where the target of an SRV record carries one: a label right below the Service's own name, which
/// StatefulSets have, and all pods where CoreDNS says `endpoint_pod_names`. A dashed address (CoreDNS) or a hash
/// (kube-dns) is what a server makes up when it knows no name: none.
pub(crate) fn pod_name(target: &str, service: &str) -> Option<Arc<str>> {
    let label = target.strip_suffix(service)?.strip_suffix('.')?;
    let dns_label = (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-');
    let made_up = label.replace('-', ".").parse::<Ipv4Addr>().is_ok()
        || label.replace('-', ":").parse::<Ipv6Addr>().is_ok()
        || (label.len() >= 6 && label.bytes().all(|byte| byte.is_ascii_hexdigit()));
    (dns_label && !made_up).then(|| label.into())
}

/// The name that an address has in the DNS (RFC 1035 §3.5, RFC 3596 §2.5).
pub(crate) fn reverse_name(ip: IpAddr) -> Arc<str> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa").into()
        }
        IpAddr::V6(ip) => {
            let mut name = String::with_capacity(72);
            for byte in ip.octets().iter().rev() {
                name.push_str(&format!("{:x}.{:x}.", byte & 0xf, byte >> 4));
            }
            name.push_str("ip6.arpa");
            name.into()
        }
    }
}

#[cfg(test)]
mod tests;
