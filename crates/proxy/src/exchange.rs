//! One request (or TCP connection) from its beginning to its line in the access log.

mod request;
mod timers;
mod tunnel;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::Body;
use tokio::time::Instant;
use whichpod_access_log::{Attempt, Flags, Needs, Record};
use whichpod_protocols::error::{Broken, Ended, Failure, Verdict, broken};
use whichpod_protocols::grpc;
use whichpod_protocols::kept_head::KeptHead;
use whichpod_protocols::proxy_protocol;
use whichpod_protocols::retry;
use whichpod_protocols::upgrade::{self, Switch};
use whichpod_upstream::{Choice, Endpoint, Outcome};

use crate::body::{BodyProgress, RequestBody};
use crate::downstream::{Downstream, LONG};
use crate::limits::{self, Permit};
use crate::peer::Peer;
use crate::pool::Owner;
use crate::site::Site;
use crate::upstream_connection::UpstreamConnection;
use crate::worker::Worker;
use timers::Timers;

/// What runs, and thus what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    /// A TCP connection.
    Connection,
    /// A connection that nobody has said a word on: if nothing comes of it, it leaves no trace.
    Silent,
}

/// A running request (or TCP connection): what is known of it, and what it holds. Its line is written when it ends, or when it
/// is dropped because the client went away.
pub struct Exchange {
    /// What the line will say.
    pub record: Record,
    /// The upstream that the client connected to.
    pub site: Arc<Site>,
    /// The worker that runs it.
    pub worker: Rc<Worker>,
    /// The client's connection.
    pub downstream: Rc<Downstream>,
    /// What is to be sent next, or why there is nothing to be sent.
    pub request: Result<Request<RequestBody>, Failure>,
    /// What was sent, where it can be sent again.
    kept: Option<KeptHead>,
    kind: Kind,
    started: Instant,
    attempt_started: Instant,
    response_started: Option<Instant>,
    body: Option<Rc<BodyProgress>>,
    endpoint: Option<Arc<Endpoint>>,
    /// A gRPC call.
    grpc: bool,
    /// The call's trailers will tell how its pod did.
    awaits_trailers: bool,
    /// Bytes go both ways, whatever they mean.
    tunnel: bool,
    /// What the client asks its connection to become.
    asked: Option<Switch>,
    /// Counted as a tunnel that somebody waits for.
    wanted: bool,
    /// What its pod is chosen by, where that is a hash.
    pub hash: Option<u64>,
    /// Its place among the requests under way, where these are limited.
    pub permit: Option<Permit>,
    retrying: Option<Retrying>,
    /// Its number among those that wait.
    waits: Option<usize>,
    /// It has a line already, because it is long open.
    told_open: bool,
    timers: Timers,
    ended: bool,
}

impl Exchange {
    /// Begins with a head that was just read.
    #[must_use]
    pub fn begin(worker: Rc<Worker>, site: Arc<Site>, downstream: Rc<Downstream>) -> Box<Self> {
        let started = downstream.begin_request();
        site.stats.requests_active.fetch_add(1, Relaxed);
        let mut exchange = Self::new(worker, site, downstream, Kind::Request, started, SystemTime::now());
        exchange.record.stream_id = Some(exchange.worker.shared.next_request.fetch_add(1, Relaxed));
        exchange
    }

    /// Begins with a connection, which may yet turn out to be one for requests: see [`Self::is_tcp`].
    #[must_use]
    pub fn begin_connection(worker: Rc<Worker>, site: Arc<Site>, downstream: Rc<Downstream>) -> Box<Self> {
        let started = downstream.accepted;
        let now = SystemTime::now();
        let start = now.checked_sub(started.elapsed()).unwrap_or(now);
        Self::new(worker, site, downstream, Kind::Silent, started, start)
    }

    fn new(
        worker: Rc<Worker>,
        site: Arc<Site>,
        downstream: Rc<Downstream>,
        kind: Kind,
        started: Instant,
        start: SystemTime,
    ) -> Box<Self> {
        Box::new(Self {
            record: downstream.record(&site, start),
            timers: Timers::new(&site.config.timeouts, site.config.retry.per_try_timeout, started),
            site,
            worker,
            downstream,
            request: Err(Failure::Closed),
            kept: None,
            kind,
            started,
            attempt_started: started,
            response_started: None,
            body: None,
            endpoint: None,
            grpc: false,
            awaits_trailers: false,
            tunnel: false,
            asked: None,
            wanted: false,
            hash: None,
            permit: None,
            retrying: None,
            waits: None,
            told_open: false,
            ended: false,
        })
    }

    /// It is a TCP connection: it will have a line.
    pub fn is_tcp(&mut self) {
        self.kind = Kind::Connection;
        self.downstream.begin_request();
        self.site.stats.tcp_total.fetch_add(1, Relaxed);
        self.site.stats.tcp_active.fetch_add(1, Relaxed);
    }

    /// What a pod is told about the client before its first byte, where that is wanted.
    #[must_use]
    pub fn introduction(&self) -> Option<bytes::Bytes> {
        let version = self.site.config.proxy_protocol?;
        Some(proxy_protocol::header(version, self.downstream.remote, self.downstream.local).into())
    }

    /// The only client's connection for which a pod's may be used again, where the pod was told who the client is.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.site.config.proxy_protocol.is_some().then_some(self.downstream.id)
    }

    /// Takes what the log needs from the request's head, as it is sent on.
    pub fn request_head(&mut self, head: &Parts) {
        self.record.method = Some(head.method.clone());
        self.record.path = head.uri.path_and_query().cloned();
        self.record.authority = authority(head);
        self.grpc = grpc::is_call(&head.method, &head.headers);
        if self.grpc {
            self.timers.deadline(self.started, grpc::timeout(&head.headers));
        }
        let needs = self.worker.shared.format.needs();
        Needs::capture(&needs.request_headers, &head.headers, &mut self.record.request_headers);
    }

    /// True for a gRPC call: its errors are gRPC's.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// The client's address.
    #[must_use]
    pub fn caller(&self) -> std::net::IpAddr {
        self.downstream.remote.ip()
    }

    /// True if the client learns the end of this response by the end of the connection: HTTP/1.0 has no chunks.
    #[must_use]
    pub fn ends_with_connection(&self, response: &impl Body) -> bool {
        self.record.protocol == Some(http::Version::HTTP_10) && response.size_hint().exact().is_none()
    }

    /// A pod was chosen: the time of the attempt starts.
    pub fn chosen(&mut self, choice: &Choice) {
        self.attempt_started = choice.at;
        self.record.endpoints = Some(choice.endpoints);
        self.record.dns_age = Some(choice.dns_age);
        if choice.virtual_ip {
            self.site.stats.virtual_ip_requests.fetch_add(1, Relaxed);
        }
    }

    /// A pod did not take a connection.
    pub fn connect_failed(&mut self, choice: &Choice, reason: &'static str, since: Instant) {
        self.record.attempts.push(Attempt {
            address: choice.endpoint.address(),
            pod: choice.pod.clone(),
            node: choice.endpoint.node().cloned(),
            zone: choice.endpoint.zone().cloned(),
            status: None,
            duration: since.elapsed(),
            reason,
            reused_connection: false,
            sent: false,
        });
        self.record.transport_failure = Some(Cow::Borrowed(reason));
    }

    /// The request is about to be sent on this connection; `reused`: it has served before.
    pub fn attempt(&mut self, peer: &Peer, reused: bool) {
        let endpoint = &peer.endpoint;
        self.record.attempts.push(Attempt {
            address: endpoint.address(),
            pod: peer.pod.clone(),
            node: endpoint.node().cloned(),
            zone: endpoint.zone().cloned(),
            status: None,
            duration: Duration::ZERO,
            reason: "client_gone",
            reused_connection: reused,
            sent: true,
        });
        self.record.upstream_local = peer.local;
        self.timers.attempt_begins();
        endpoint.counts().requests_total.fetch_add(1, Relaxed);
        endpoint.counts().requests_active.fetch_add(1, Relaxed);
        self.endpoint = Some(Arc::clone(endpoint));
    }

    /// The attempt got no response.
    pub fn attempt_failed(&mut self, reason: &'static str, nothing_sent: bool) {
        let duration = self.attempt_started.elapsed();
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.duration = duration;
            attempt.reason = reason;
            attempt.sent = !nothing_sent;
        }
        self.record.transport_failure = Some(Cow::Borrowed(reason));
        self.release_endpoint(false);
    }

    /// The pod took the connection, which is all that it has to do where bytes are only passed on.
    pub fn attempt_connected(&mut self) {
        let duration = self.attempt_started.elapsed();
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.duration = duration;
            attempt.reason = "ok";
        }
    }

    /// The pod answered.
    pub fn attempt_answered(&mut self, status: StatusCode) {
        let now = Instant::now();
        let duration = now - self.attempt_started;
        self.timers.attempt_answered();
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.status = Some(status);
            attempt.duration = duration;
            attempt.reason = "ok";
        }
        self.response_started = Some(now);
        self.record.upstream_service_time = Some(duration);
    }

    /// Tells the pod's health how the attempt went.
    pub fn observe(&self, endpoint: &Endpoint, outcome: Outcome) {
        let took = match outcome {
            Outcome::Status(_) => self.record.upstream_service_time.unwrap_or_default(),
            Outcome::NoResponse => self.attempt_started.elapsed(),
        };
        self.site.upstream.observe(endpoint, outcome, took);
    }

    /// How the attempt went is told to the pod's health when the call's trailers have come.
    pub fn trailers_tell(&mut self) {
        self.awaits_trailers = true;
    }

    /// The pod's answer was not good enough: another attempt follows.
    pub fn attempt_discarded(&mut self) {
        self.awaits_trailers = false;
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.reason = "retried";
        }
        self.response_started = None;
        self.record.upstream_service_time = None;
        self.release_endpoint(false);
    }

    /// A counted retry begins, if it may; it ends with the request.
    pub fn may_retry(&mut self) -> bool {
        if self.retrying.is_none() {
            let policy = &self.site.config.retry;
            let stats = &self.site.stats;
            let running = stats.requests_active.load(Relaxed);
            if !retry::within_budget(policy, running, stats.retries_active.load(Relaxed)) {
                return false;
            }
            let Ok(permit) = limits::enter(self.site.limits.retries.as_ref()) else { return false };
            stats.retries_active.fetch_add(1, Relaxed);
            self.retrying = Some(Retrying { _permit: permit });
        }
        self.site.stats.retries_total.fetch_add(1, Relaxed);
        true
    }

    /// Takes what the log needs from the response's head, as it is sent on.
    pub fn response_head(&mut self, status: StatusCode, version: http::Version, headers: &HeaderMap) {
        self.record.status = Some(status);
        self.record.upstream_protocol = Some(version);
        self.record.details = Some(Cow::Borrowed("via_upstream"));
        let needs = self.worker.shared.format.needs();
        Needs::capture(&needs.response_headers, headers, &mut self.record.response_headers);
        if self.grpc {
            self.record.grpc_status = grpc::status(headers);
        }
    }

    /// Takes what the log needs from the response's trailers.
    pub fn response_trailers(&mut self, trailers: &HeaderMap) {
        let needs = self.worker.shared.format.needs();
        Needs::capture(&needs.response_trailers, trailers, &mut self.record.response_trailers);
        if self.grpc {
            let status = grpc::status(trailers);
            self.record.grpc_status = status.or(self.record.grpc_status);
            if let (Some(status), Some(endpoint), true) = (status, &self.endpoint, self.awaits_trailers) {
                self.observe(endpoint, Outcome::Status(grpc::http_status_of(status)));
                self.awaits_trailers = false;
            }
        }
    }

    /// The request fails with this verdict.
    pub fn failed(&mut self, verdict: &Verdict) {
        self.record.status = verdict.status.filter(|_| self.kind == Kind::Request);
        self.record.flags |= verdict.flags;
        self.record.details = Some(Cow::Borrowed(verdict.details));
    }

    /// So many bytes of the response's body went to the client.
    pub fn sent(&mut self, bytes: usize) {
        self.record.bytes_sent += bytes as u64;
        self.timers.moved();
    }

    /// The client asks its connection to become something else.
    pub fn ask(&mut self, switch: Switch) {
        self.asked = Some(switch);
    }

    /// True if the pod agrees to what was asked.
    ///
    /// # Errors
    /// As [`upgrade::switches`].
    pub fn switches(&mut self, status: StatusCode, headers: &mut HeaderMap) -> Result<bool, Failure> {
        self.tunnel = upgrade::switches(self.asked.as_ref(), status, headers)?;
        Ok(self.tunnel)
    }

    /// True once the pod has agreed.
    #[must_use]
    pub fn is_switched(&self) -> bool {
        self.tunnel
    }

    /// The failure of a configured timeout that has passed; arms the timers otherwise.
    pub fn interrupted(&mut self, cx: &mut Context<'_>) -> Option<Failure> {
        if self.kind == Kind::Request && !self.tunnel {
            self.tell_if_long(cx);
        }
        let failure = self.timers.poll(cx, self.body.as_deref());
        self.downstream.set_due(self.timers.due());
        failure
    }

    /// Writes the line of what is long open, and has itself woken when that is to be seen to.
    fn tell_if_long(&mut self, cx: &Context<'_>) {
        if self.waits.is_none() && self.downstream.is_multiplexed() {
            self.waits = Some(self.downstream.wait(self.started, cx.waker()));
        }
        if self.downstream.has_long() && !self.told_open && self.started.elapsed() >= LONG {
            self.write_open_line();
        }
    }

    /// Lets a task of its own move the bytes, because the client is still sending its request.
    pub fn drive_apart(&self, connection: Box<UpstreamConnection>) {
        crate::worker::spawn(drive_to_end(Rc::clone(&self.worker), connection));
    }

    /// Keeps the connection for another request, as soon as this one is complete in both directions.
    pub fn give_back(&self, mut connection: Box<UpstreamConnection>) {
        if connection.is_reusable() {
            self.worker.keep(connection);
        } else {
            // Its last bytes, the end of a chunked body say, are still to be read.
            self.drive_apart(connection);
        }
    }

    /// Ends the request and writes its line; further calls do nothing.
    pub fn end(&mut self, how: Option<Broken>) {
        if std::mem::replace(&mut self.ended, true) || self.kind == Kind::Silent {
            return;
        }
        self.client_is_done();
        if let Some(number) = self.waits.take() {
            self.downstream.stop_waiting(number);
        }
        let now = Instant::now();
        if let Some(body) = self.body.as_ref().filter(|body| body.is_kept()) {
            body.abandon();
        }
        self.permit = None;
        self.downstream.end_request(now, self.body.clone());
        if self.downstream.is_multiplexed() {
            let abandoned = how == Some(Broken::ClientGone) && self.response_started.is_none();
            self.downstream.count(abandoned, now - self.started);
        }
        if let Some(how) = how {
            let (flags, details) = broken(how);
            self.record.flags |= flags;
            self.record.details = Some(Cow::Borrowed(details));
        }
        if self.grpc && self.record.grpc_status.is_none() {
            self.record.grpc_status = self.record.status.map(grpc::status_of_http);
        }
        self.times(now);
        let answered = match self.kind {
            Kind::Request => self.record.status.is_some_and(|status| status.as_u16() < 500),
            Kind::Connection | Kind::Silent => true,
        };
        self.release_endpoint(answered && self.record.flags.is_empty());
        self.count();
        self.worker.write_line(&self.record);
    }

    fn times(&mut self, now: Instant) {
        let record = &mut self.record;
        record.duration = now - self.started;
        if self.kind != Kind::Request {
            return;
        }
        match &self.body {
            None => record.request_duration = Some(Duration::ZERO),
            Some(body) => {
                record.bytes_received = body.bytes.get();
                record.request_duration = body.ended.get().map(|ended| ended.duration_since(self.started));
            }
        }
        if let Some(response) = self.response_started {
            record.response_duration = Some(response - self.started);
            record.response_tx_duration = Some(now - response);
        }
    }

    fn count(&mut self) {
        let (stats, record) = (&self.site.stats, &self.record);
        if self.kind == Kind::Connection {
            stats.tcp_active.fetch_sub(1, Relaxed);
            stats.flagged(record.flags);
            return;
        }
        stats.requests_active.fetch_sub(1, Relaxed);
        if self.retrying.take().is_some() {
            stats.retries_active.fetch_sub(1, Relaxed);
        }
        stats.bytes_received.fetch_add(record.bytes_received, Relaxed);
        stats.bytes_sent.fetch_add(record.bytes_sent, Relaxed);
        stats.ended(record.status, record.flags, record.duration);
    }

    fn release_endpoint(&mut self, success: bool) {
        if let Some(endpoint) = self.endpoint.take() {
            let counts = endpoint.counts();
            counts.requests_active.fetch_sub(1, Relaxed);
            let result = if success { &counts.requests_success } else { &counts.requests_error };
            result.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.kind == Kind::Connection || self.tunnel {
            // Only the end of the process drops what passes bytes on.
            self.end_tunnel(Ended::Shutdown);
            return;
        }
        // Dropped before its end: whoever asked is no longer there.
        if self.record.status.is_none() {
            self.record.flags = Flags::EMPTY;
            if let Some(Attempt { duration, status: None, sent: true, .. }) = self.record.attempts.last_mut()
            {
                *duration = self.attempt_started.elapsed();
            }
        }
        self.end(Some(self.downstream.gone()));
    }
}

/// A request that is being retried, until it ends.
struct Retrying {
    _permit: Option<Permit>,
}

/// `:authority` of HTTP/2, or Host.
fn authority(head: &Parts) -> Option<HeaderValue> {
    match head.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => head.headers.get(http::header::HOST).cloned(),
    }
}

/// Moves bytes until the connection can serve again, or has ended.
async fn drive_to_end(worker: Rc<Worker>, mut connection: Box<UpstreamConnection>) {
    std::future::poll_fn(|cx| {
        if connection.drive(cx) || connection.is_reusable() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    worker.keep(connection);
}
