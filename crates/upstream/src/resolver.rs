//! What is asked and answered: plain values, so that everything but the wire can be tested without one.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;

use crate::resolv_conf::ResolvConf;

/// Asks DNS servers; never the hosts file, never getaddrinfo, and never answers from memory.
pub trait Resolver: Send + Sync + 'static {
    /// Asks one question. An answer that was cut short is an error, never a [`Response`].
    fn lookup(&self, question: Question) -> Lookup<'_>;

    /// The search list that applies now; the same `Arc` while it does not change.
    fn system(&self) -> Arc<ResolvConf>;
}

/// A response on its way.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = Result<Response, LookupError>> + Send + 'a>>;

/// One question about one absolute name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// Absolute, lower case, no trailing dot.
    pub name: Arc<str>,
    /// What is asked for.
    pub kind: Kind,
    /// Ask over TCP at once, because an answer over UDP leaves addresses of SRV targets out.
    pub whole: bool,
}

/// The type of a record (RFC 1035 §3.2.2, RFC 3596, RFC 2782).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// A port and the name of its host.
    Srv,
    /// The name of an address.
    Ptr,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
            Self::Ptr => "PTR",
        })
    }
}

/// What a server said; a complete message with one of two codes. Everything else is a [`LookupError`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// NXDOMAIN (RFC 8020): nothing is there. Otherwise the name exists, perhaps without records of that kind.
    pub nxdomain: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The additional section: addresses of SRV targets.
    pub additionals: Vec<Record>,
}

/// One record; kinds that are never used here are left out of a [`Response`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Absolute, lower case, no trailing dot.
    pub name: Arc<str>,
    /// Seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// The data of a record; names are absolute, lower case, without trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// An alias (RFC 1034 §3.6.2).
    Cname(Arc<str>),
    /// RFC 2782; the weight is not used.
    Srv {
        /// Lower is first.
        priority: u16,
        /// Where the target listens.
        port: u16,
        /// The host; empty for "not available here".
        target: Arc<str>,
    },
    /// The name of an address.
    Ptr(Arc<str>),
}

impl From<Ipv4Addr> for Data {
    fn from(ip: Ipv4Addr) -> Self {
        Self::Address(ip.into())
    }
}

impl From<Ipv6Addr> for Data {
    fn from(ip: Ipv6Addr) -> Self {
        Self::Address(ip.into())
    }
}

/// No answer that could be used: SERVFAIL, REFUSED, silence, garbage, or one that was cut short. The text names the
/// server, the question and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LookupError(pub String);
