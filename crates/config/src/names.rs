//! Every flag, variable and default that other parts and the documentation refer to.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

/// The binary's name.
pub const BINARY: &str = "whichpod-sidecar";
/// What every environment variable of ours begins with.
pub const VARIABLE_PREFIX: &str = "WHICHPOD_";
/// The variable that holds the document itself, as YAML or JSON; it has no flag.
pub const INLINE_DOCUMENT: &str = "WHICHPOD_CONFIG";
/// The access log's path that means no log.
pub const OFF: &str = "off";

macro_rules! names {
    ($($name:ident $flag:literal $variable:literal;)*) => {
        /// Flags, without the dashes.
        pub mod flag {
            $(#[doc = concat!("`--", $flag, "`")] pub const $name: &str = $flag;)*
        }
        /// Environment variables.
        pub mod variable {
            $(#[doc = concat!("`", $variable, "`, the variable of `--", $flag, "`")] pub const $name: &str = $variable;)*
        }
    };
}

names! {
    UPSTREAM "upstream" "WHICHPOD_UPSTREAM";
    PROTOCOL "protocol" "WHICHPOD_PROTOCOL";
    BALANCE "balance" "WHICHPOD_BALANCE";
    CONNECT_TIMEOUT "connect-timeout" "WHICHPOD_CONNECT_TIMEOUT";
    REQUEST_TIMEOUT "request-timeout" "WHICHPOD_REQUEST_TIMEOUT";
    IDLE_TIMEOUT "idle-timeout" "WHICHPOD_IDLE_TIMEOUT";
    RETRY_ON "retry-on" "WHICHPOD_RETRY_ON";
    RETRY_ATTEMPTS "retry-attempts" "WHICHPOD_RETRY_ATTEMPTS";
    APPEND_X_FORWARDED_FOR "append-x-forwarded-for" "WHICHPOD_APPEND_X_FORWARDED_FOR";
    EXPOSE_UPSTREAM "expose-upstream" "WHICHPOD_EXPOSE_UPSTREAM";
    DNS_SERVER "dns-server" "WHICHPOD_DNS_SERVER";
    RESOLV_CONF "resolv-conf" "WHICHPOD_RESOLV_CONF";
    CLUSTER_DOMAIN "cluster-domain" "WHICHPOD_CLUSTER_DOMAIN";
    NAMESPACE "namespace" "WHICHPOD_NAMESPACE";
    ALLOW_LOOPBACK "allow-loopback" "WHICHPOD_ALLOW_LOOPBACK";
    LOG_FORMAT "log-format" "WHICHPOD_LOG_FORMAT";
    ACCESS_LOG "access-log" "WHICHPOD_ACCESS_LOG";
    ADMIN "admin" "WHICHPOD_ADMIN";
    HEALTH "health" "WHICHPOD_HEALTH";
    WORKERS "workers" "WHICHPOD_WORKERS";
    GRACE_PERIOD "grace-period" "WHICHPOD_GRACE_PERIOD";
    NATIVE_SIDECAR "native-sidecar" "WHICHPOD_NATIVE_SIDECAR";
    LOG_LEVEL "log-level" "WHICHPOD_LOG_LEVEL";
    CONFIG_FILE "config" "WHICHPOD_CONFIG_FILE";
    CHECK "check" "WHICHPOD_CHECK";
}

/// The admin server's port.
pub const ADMIN_PORT: u16 = 9901;
/// The port of `/ready` and `/metrics`.
pub const HEALTH_PORT: u16 = 9902;
/// The admin server's address.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, ADMIN_PORT));
/// The address of `/ready` and `/metrics`: dual stack.
pub const DEFAULT_HEALTH: SocketAddr =
    SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, HEALTH_PORT, 0, 0));
/// What [`DEFAULT_HEALTH`] becomes where there is no IPv6.
pub const DEFAULT_HEALTH_WITHOUT_IPV6: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, HEALTH_PORT));
/// Ports on which the server speaks first, or nobody speaks HTTP (as Linkerd's default opaque ports): SMTP, submission,
/// MySQL, Galera, PostgreSQL, Redis, Elasticsearch's transport, Memcached.
pub const TCP_PORTS: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];
/// The port of a DNS server (RFC 1035 §4.2).
pub const DNS_PORT: u16 = 53;
/// Where nameservers and the search list come from.
pub const DEFAULT_RESOLV_CONF: &str = "/etc/resolv.conf";
/// The access log's format.
pub const DEFAULT_LOG_FORMAT: &str = "text";
/// The access log's path.
pub const DEFAULT_ACCESS_LOG: &str = "/dev/stdout";
/// The filter for diagnostics on stderr.
pub const DEFAULT_LOG_LEVEL: &str = "info";
/// Kubernetes' own default for `terminationGracePeriodSeconds`.
pub const DEFAULT_GRACE_PERIOD: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use crate::settings::SETTINGS;

    #[test]
    fn a_variable_is_found_by_its_flag() {
        for setting in SETTINGS {
            let usual = format!("WHICHPOD_{}", setting.flag.to_uppercase().replace('-', "_"));
            let expected =
                if setting.flag == super::flag::CONFIG_FILE { "WHICHPOD_CONFIG_FILE" } else { &usual };
            assert_eq!(setting.variable, expected);
        }
    }
}
