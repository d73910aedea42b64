//! The record: all that is known of one request (or TCP connection) when it ends.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Version};
use smallvec::SmallVec;

use crate::flags::Flags;

/// Header values in the order of the matching list in [`crate::Needs`]; shorter means unset.
pub type Captured = SmallVec<[Option<HeaderValue>; 6]>;

/// All that is known of one request when it ends. Unset renders `-` (text) or `null` (JSON).
#[derive(Debug, Clone)]
pub struct Record {
    /// When the request's head was read.
    pub start: SystemTime,
    /// What the client spoke.
    pub protocol: Option<Version>,
    /// `:METHOD`
    pub method: Option<Method>,
    /// `:PATH`, with the query.
    pub path: Option<PathAndQuery>,
    /// `:AUTHORITY` (the Host header in HTTP/1).
    pub authority: Option<HeaderValue>,
    /// Request headers, by [`crate::Needs::request_headers`].
    pub request_headers: Captured,
    /// Response headers, by [`crate::Needs::response_headers`].
    pub response_headers: Captured,
    /// Response trailers, by [`crate::Needs::response_trailers`].
    pub response_trailers: Captured,
    /// `None` renders 0: no response was begun.
    pub status: Option<StatusCode>,
    /// `RESPONSE_CODE_DETAILS`, in Envoy's vocabulary.
    pub details: Option<Cow<'static, str>>,
    /// `RESPONSE_FLAGS`
    pub flags: Flags,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// Start to the last byte out.
    pub duration: Duration,
    /// Start to the last byte of the request read.
    pub request_duration: Option<Duration>,
    /// Start to the first byte of the upstream's response.
    pub response_duration: Option<Duration>,
    /// First byte of the upstream's response to the last byte sent to the client.
    pub response_tx_duration: Option<Duration>,
    /// Time from the send of the last attempt to its response head, where the upstream says nothing itself.
    pub upstream_service_time: Option<Duration>,
    /// `GRPC_STATUS`, as a number.
    pub grpc_status: Option<u32>,
    /// The upstream's configured name.
    pub upstream: Option<Arc<str>>,
    /// What the upstream spoke.
    pub upstream_protocol: Option<Version>,
    /// Our end of the last upstream connection.
    pub upstream_local: Option<SocketAddr>,
    /// Why the last transport failed.
    pub transport_failure: Option<Cow<'static, str>>,
    /// Every try at a pod, in order; the last is the one that answered.
    pub attempts: SmallVec<[Attempt; 1]>,
    /// The client.
    pub downstream_remote: Option<SocketAddr>,
    /// The listener's end of the client's connection.
    pub downstream_local: Option<SocketAddr>,
    /// Number of the client's connection in this process.
    pub connection_id: Option<u64>,
    /// Number of the request in this process.
    pub stream_id: Option<u64>,
    /// 32 hex digits, from `traceparent`.
    pub trace_id: Option<TraceId>,
    /// The route's name.
    pub route: Option<Arc<str>>,
    /// SNI.
    pub server_name: Option<Arc<str>>,
    /// How many endpoints there were to choose from.
    pub endpoints: Option<u32>,
    /// Age of the answer the last choice came from.
    pub dns_age: Option<Duration>,
    /// The line of something that is still running.
    pub open: bool,
}

/// A W3C trace id: 32 lower-case hex digits (Trace Context §3.2.2.3).
pub type TraceId = [u8; 32];

/// One try at a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The pod's address and port, exact.
    pub address: SocketAddr,
    /// The pod's name as it was known when the connection was opened, if something told it.
    pub pod: Option<Arc<str>>,
    /// The node's name, if something told it.
    pub node: Option<Arc<str>>,
    /// The zone, if something told it.
    pub zone: Option<Arc<str>>,
    /// The status the pod answered, if it did.
    pub status: Option<StatusCode>,
    /// From the choice of the pod to its response head or its failure.
    pub duration: Duration,
    /// `ok`, or why it failed: `connect_refused`, `connect_timeout`, `reset`, ...
    pub reason: &'static str,
    /// Sent on a connection that had served before.
    pub reused_connection: bool,
    /// The request's first byte may have left for the pod (a failed connect has not).
    pub sent: bool,
}

impl Record {
    /// An empty record that starts now, on the wall clock.
    #[must_use]
    pub fn new(start: SystemTime) -> Self {
        Self {
            start,
            protocol: None,
            method: None,
            path: None,
            authority: None,
            request_headers: Captured::new(),
            response_headers: Captured::new(),
            response_trailers: Captured::new(),
            status: None,
            details: None,
            flags: Flags::EMPTY,
            bytes_received: 0,
            bytes_sent: 0,
            duration: Duration::ZERO,
            request_duration: None,
            response_duration: None,
            response_tx_duration: None,
            upstream_service_time: None,
            grpc_status: None,
            upstream: None,
            upstream_protocol: None,
            upstream_local: None,
            transport_failure: None,
            attempts: SmallVec::new(),
            downstream_remote: None,
            downstream_local: None,
            connection_id: None,
            stream_id: None,
            trace_id: None,
            route: None,
            server_name: None,
            endpoints: None,
            dns_age: None,
            open: false,
        }
    }
}
