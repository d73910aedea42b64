//! The rows of the comparison: what is asked of every contestant.

use crate::peer::{Peer, Protocol};

/// What is measured side by side.
#[derive(Debug, Clone)]
pub struct Row {
    /// For `--rows`.
    pub id: &'static str,
    /// In the table.
    pub title: &'static str,
    /// Between client and proxy, and between proxy and pods.
    pub protocol: Protocol,
    /// What clients do.
    pub traffic: Traffic,
    /// How many pods DNS knows.
    pub pods: Pods,
    /// Who is compared; the first with all others.
    pub contestants: &'static [Contestant],
}

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// HTTP/1.1 requests, one at a time on each connection.
    Requests {
        /// Connections.
        connections: usize,
        /// The answer's body.
        body: Body,
        /// A connection for each request.
        fresh: bool,
    },
    /// HTTP/2 requests, 8 connections with 16 streams each (2 where a call is long).
    Streams(Call),
    /// 16 KiB there and back, one after another on each of 8 connections.
    Bytes,
    /// So many connections that sent a request each, and then nothing.
    Idle(usize),
}

/// The answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// [`crate::backends::SMALL`].
    Small,
    /// 10 KB.
    Medium,
    /// 1 MB.
    Large,
}

/// A request over HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// GET with a small answer.
    Get,
    /// gRPC: a small message each way.
    Unary,
    /// gRPC: 64 messages of 1 KiB each way in one call.
    Streaming,
}

/// What DNS says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pods {
    /// Three, always the same.
    Three,
    /// Three of six, others every second.
    Changing,
    /// A thousand, always the same.
    Thousand,
}

/// One proxy in one configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contestant {
    /// In the table.
    pub label: &'static str,
    /// Which proxy.
    pub peer: Peer,
    /// With an access log.
    pub log: bool,
}

const fn with_log(label: &'static str, peer: Peer) -> Contestant {
    Contestant { label, peer, log: true }
}

const fn without_log(label: &'static str, peer: Peer) -> Contestant {
    Contestant { label, peer, log: false }
}

const NOISE: &[Contestant] =
    &[with_log("whichpod", Peer::Whichpod), with_log("whichpod, a second one", Peer::Whichpod)];
const ALL: &[Contestant] = &[
    with_log("whichpod", Peer::Whichpod),
    with_log("HAProxy", Peer::Haproxy),
    with_log("nginx", Peer::Nginx),
    with_log("Envoy", Peer::Envoy),
];
const LOG_OFF: &[Contestant] = &[
    with_log("whichpod, log on", Peer::Whichpod),
    without_log("whichpod, log off", Peer::Whichpod),
    without_log("HAProxy, log off", Peer::Haproxy),
    without_log("nginx, log off", Peer::Nginx),
    without_log("Envoy, log off", Peer::Envoy),
];

const fn requests(connections: usize, body: Body, fresh: bool) -> Traffic {
    Traffic::Requests { connections, body, fresh }
}

const fn row(id: &'static str, title: &'static str, protocol: Protocol, traffic: Traffic) -> Row {
    Row { id, title, protocol, traffic, pods: Pods::Three, contestants: ALL }
}

/// All rows; the noise of the machine comes first.
#[must_use]
pub fn rows() -> Vec<Row> {
    use Protocol::{Grpc, H2c, Http1, Tcp};
    let small = requests(64, Body::Small, false);
    vec![
        Row { contestants: NOISE, ..row("noise", "A/A: the same program twice", Http1, small) },
        row("http1", "HTTP/1.1 keep-alive, 64 connections", Http1, small),
        row("http1-one", "HTTP/1.1 keep-alive, 1 connection", Http1, requests(1, Body::Small, false)),
        row("http1-10k", "HTTP/1.1, bodies of 10 KB", Http1, requests(64, Body::Medium, false)),
        row("http1-1m", "HTTP/1.1, bodies of 1 MB", Http1, requests(8, Body::Large, false)),
        row("http1-fresh", "HTTP/1.1, a connection for each request", Http1, requests(64, Body::Small, true)),
        row("h2c", "HTTP/2, 8 connections with 16 streams", H2c, Traffic::Streams(Call::Get)),
        row("grpc-unary", "gRPC unary, 8 × 16 streams", Grpc, Traffic::Streams(Call::Unary)),
        row(
            "grpc-streaming",
            "gRPC streaming, 64 × 1 KiB each way, 8 × 2 streams",
            Grpc,
            Traffic::Streams(Call::Streaming),
        ),
        row("tcp", "TCP, 16 KiB there and back, 8 connections", Tcp, Traffic::Bytes),
        Row { contestants: LOG_OFF, ..row("log", "access log off against on", Http1, small) },
        Row { pods: Pods::Thousand, ..row("thousand", "1,000 endpoints", Http1, small) },
        Row { pods: Pods::Changing, ..row("dns", "other DNS answers every second", Http1, small) },
        row("idle", "1,000 idle connections", Http1, Traffic::Idle(1_000)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_compares_whichpod_with_somebody() {
        for row in rows() {
            assert_eq!(row.contestants[0].peer, Peer::Whichpod, "{}", row.id);
            assert!(row.contestants.len() > 1, "{}", row.id);
        }
    }
}
