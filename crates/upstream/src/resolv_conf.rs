//! What resolv.conf(5) says: servers, search list, ndots. Lines that make no sense are passed over, as glibc does.

use std::net::{IpAddr, Ipv6Addr};

use resolv_conf::{Config, ScopedIp};

/// The most that `ndots` may say (resolv.conf(5)).
const MAX_NDOTS: u32 = 15;

/// The part of resolv.conf(5) that matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvConf {
    /// `nameserver` lines in their order, without those that need an interface (`fe80::1%eth0`).
    pub servers: Vec<IpAddr>,
    /// The last `search` or `domain` line: lower case, no trailing dot.
    pub search: Vec<String>,
    /// A name with at least this many dots is asked as it stands first.
    pub ndots: usize,
}

impl ResolvConf {
    /// Reads any bytes; what cannot be understood is left out.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let (config, _) = Config::parse_with_errors(text);
        let search = config.get_last_search_or_domain().map(|domain| absolute(domain));
        Self {
            servers: config.nameservers.iter().filter_map(server).collect(),
            // Two dots at the end are no name.
            search: search.filter(|domain| !domain.is_empty() && !domain.ends_with('.')).collect(),
            ndots: config.ndots.min(MAX_NDOTS) as usize,
        }
    }
}

fn server(address: &ScopedIp) -> Option<IpAddr> {
    match address {
        ScopedIp::V4(ip) => Some(IpAddr::V4(*ip)),
        ScopedIp::V6(ip, None) if !ip.is_unicast_link_local() => Some(IpAddr::V6(*ip)),
        ScopedIp::V6(..) => None,
    }
}

/// The form in which names are compared here: lower case, no trailing dot.
pub(crate) fn absolute(name: &str) -> String {
    let mut name = name.to_ascii_lowercase();
    if name.ends_with('.') {
        name.pop();
    }
    name
}

/// Which kind of address is asked for first; the other is asked only for names that have none of it, so that a pod
/// with both is not counted twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// A before AAAA.
    #[default]
    V4,
    /// AAAA before A: a pod that has only IPv6.
    V6,
}

impl Family {
    /// What this pod can reach, by the kernel's tables in /proc: IPv6 only if it has a global IPv6 address and no IPv4
    /// route but loopback's. IPv4 where there is no /proc.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let read = |path| std::fs::read_to_string(path).ok();
        match (read("/proc/net/route"), read("/proc/net/if_inet6")) {
            (Some(route), Some(if_inet6)) => Self::of_tables(&route, &if_inet6),
            _ => Self::V4,
        }
    }

    fn of_tables(route: &str, if_inet6: &str) -> Self {
        let v4 = route.lines().skip(1).any(|line| {
            let interface = line.split_whitespace().next();
            interface.is_some_and(|name| name != "lo")
        });
        let v6 = if_inet6.lines().any(|line| {
            let address = line.split_whitespace().next().and_then(|hex| u128::from_str_radix(hex, 16).ok());
            address
                .map(Ipv6Addr::from_bits)
                .is_some_and(|ip| !ip.is_loopback() && !ip.is_unicast_link_local())
        });
        if v6 && !v4 { Self::V6 } else { Self::V4 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_kubelet_writes_is_understood() {
        let parsed = ResolvConf::parse(
            b"search default.svc.cluster.local svc.cluster.local Cluster.Local. corp.example\n\
              nameserver 10.96.0.10\noptions ndots:5\n",
        );
        assert_eq!(parsed.servers, [IpAddr::from([10, 96, 0, 10])]);
        assert_eq!(
            parsed.search,
            ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]
        );
        assert_eq!(parsed.ndots, 5);
    }

    #[test]
    fn one_bad_line_does_not_lose_the_others() {
        let parsed = ResolvConf::parse(
            b"\xff\xfe\nnameserver nonsense\nfrobnicate 7\nnameserver fe80::1%eth0\noptions ndots:x\nnameserver ::1\n\
              domain a.example\nsearch b.example . c.example..\n",
        );
        assert_eq!(parsed.servers, [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        assert_eq!(parsed.search, ["b.example"], "the last of domain and search counts");
        assert_eq!(parsed.ndots, 1);
    }

    #[test]
    fn ndots_beyond_the_limit_is_the_limit() {
        assert_eq!(ResolvConf::parse(b"options ndots:4000000000").ndots, 15);
    }

    const ROUTE: &str = "Iface\tDestination\tGateway\neth0\t00000000\t0100FEC6\n";
    const LO6: &str = "00000000000000000000000000000001 01 80 10 80       lo\n";
    const LINK6: &str = "fe800000000000000000000000000001 02 40 20 80     eth0\n";
    const GLOBAL6: &str = "fd000000000000000000000000000001 02 40 00 80     eth0\n";

    #[test]
    fn a_pod_with_only_ipv6_asks_for_ipv6_first() {
        let none = "Iface\tDestination\tGateway\n";
        assert_eq!(Family::of_tables(none, &format!("{LO6}{LINK6}{GLOBAL6}")), Family::V6);
        assert_eq!(Family::of_tables(none, &format!("{LO6}{LINK6}")), Family::V4);
        assert_eq!(Family::of_tables(ROUTE, &format!("{LO6}{GLOBAL6}")), Family::V4, "dual stack");
        assert_eq!(Family::of_tables("", "garbage\n\u{0}"), Family::V4);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let parsed = ResolvConf::parse(&bytes);
            prop_assert!(parsed.ndots <= 15);
        }

        #[test]
        fn any_lines_of_known_words_are_read_without_panic(
            text in "((nameserver|search|domain|options|sortlist|lookup|family)[ \t%:.,;#0-9a-z/-]{0,40}\n){0,8}"
        ) {
            let parsed = ResolvConf::parse(text.as_bytes());
            prop_assert!(parsed.search.iter().all(|domain| !domain.is_empty()));
        }

        #[test]
        fn any_kernel_tables_are_read_without_panic(route in ".{0,80}", inet6 in ".{0,80}") {
            Family::of_tables(&route, &inet6);
        }
    }
}
