//! One request from its head to its line in the access log.

use std::borrow::Cow;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use tokio::time::{Instant, Sleep};
use whichpod_access_log::{Attempt, Flags, Needs, Record};
use whichpod_config::Timeouts;
use whichpod_upstream::{Choice, Endpoint};

use crate::body::BodyProgress;
use crate::error::{Broken, Failure, Verdict, broken};
use crate::io::Downstream;
use crate::site::Site;
use crate::upstream_connection::UpstreamConnection;
use crate::worker::Worker;

/// A running request: what is known of it, and what it holds. Its line is written when it ends, or when it
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
    started: Instant,
    attempt_started: Instant,
    response_started: Option<Instant>,
    body: Option<Rc<BodyProgress>>,
    endpoint: Option<Arc<Endpoint>>,
    retrying: bool,
    timers: Timers,
    ended: bool,
}

impl Exchange {
    /// Begins with a head that was just read.
    #[must_use]
    pub fn begin(worker: Rc<Worker>, site: Arc<Site>, downstream: Rc<Downstream>) -> Box<Self> {
        let started = downstream.begin_request();
        let mut record = Record::new(SystemTime::now());
        record.downstream_remote = Some(downstream.remote);
        record.downstream_local = Some(downstream.local);
        record.connection_id = Some(downstream.id);
        record.upstream = Some(Arc::clone(&site.config.name));
        site.stats.requests_active.fetch_add(1, Relaxed);
        record.stream_id = Some(worker.shared.next_request.fetch_add(1, Relaxed));
        Box::new(Self {
            record,
            timers: Timers::new(&site.config.timeouts, started),
            site,
            worker,
            downstream,
            started,
            attempt_started: started,
            response_started: None,
            body: None,
            endpoint: None,
            retrying: false,
            ended: false,
        })
    }

    /// Takes what the log needs from the request's head, as it is sent on.
    pub fn request_head(&mut self, head: &Parts) {
        self.record.method = Some(head.method.clone());
        self.record.path = head.uri.path_and_query().cloned();
        self.record.authority = head.headers.get(http::header::HOST).cloned();
        let needs = self.worker.shared.format.needs();
        Needs::capture(&needs.request_headers, &head.headers, &mut self.record.request_headers);
    }

    /// The request has a body; returns what it will tell about itself.
    pub fn request_body(&mut self) -> Rc<BodyProgress> {
        Rc::clone(self.body.get_or_insert_default())
    }

    /// True once the client has sent everything.
    #[must_use]
    pub fn request_is_complete(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.ended.get().is_some())
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

    /// Why the request's body ended badly, if it did.
    #[must_use]
    pub fn body_failure(&self) -> Option<Failure> {
        self.body.as_ref()?.failure.get()
    }

    /// A pod was chosen: the time of the attempt starts.
    pub fn chosen(&mut self, choice: &Choice) {
        self.attempt_started = Instant::now();
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

    /// The request is about to be sent on this connection.
    pub fn attempt(&mut self, connection: &UpstreamConnection) {
        let endpoint = &connection.endpoint;
        self.record.attempts.push(Attempt {
            address: endpoint.address(),
            pod: connection.pod.clone(),
            node: endpoint.node().cloned(),
            zone: endpoint.zone().cloned(),
            status: None,
            duration: Duration::ZERO,
            reason: "client_gone",
            reused_connection: connection.reused,
            sent: true,
        });
        self.record.upstream_local = connection.local;
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

    /// The pod answered.
    pub fn attempt_answered(&mut self, status: StatusCode) {
        let now = Instant::now();
        let duration = now - self.attempt_started;
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.status = Some(status);
            attempt.duration = duration;
            attempt.reason = "ok";
        }
        self.response_started = Some(now);
        self.record.upstream_service_time = Some(duration);
    }

    /// The pod's answer was not good enough: another attempt follows.
    pub fn attempt_discarded(&mut self) {
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.reason = "retried";
        }
        self.response_started = None;
        self.record.upstream_service_time = None;
        self.release_endpoint(false);
    }

    /// A counted retry begins; it ends with the request.
    pub fn retry_begins(&mut self) {
        self.site.stats.retries_total.fetch_add(1, Relaxed);
        if !self.retrying {
            self.retrying = true;
            self.site.stats.retries_active.fetch_add(1, Relaxed);
        }
    }

    /// Takes what the log needs from the response's head, as it is sent on.
    pub fn response_head(&mut self, status: StatusCode, version: http::Version, headers: &HeaderMap) {
        self.record.status = Some(status);
        self.record.upstream_protocol = Some(version);
        self.record.details = Some(Cow::Borrowed("via_upstream"));
        let needs = self.worker.shared.format.needs();
        Needs::capture(&needs.response_headers, headers, &mut self.record.response_headers);
    }

    /// Takes what the log needs from the response's trailers.
    pub fn response_trailers(&mut self, trailers: &HeaderMap) {
        let needs = self.worker.shared.format.needs();
        Needs::capture(&needs.response_trailers, trailers, &mut self.record.response_trailers);
    }

    /// The request fails with this verdict.
    pub fn failed(&mut self, verdict: &Verdict) {
        self.record.status = verdict.status;
        self.record.flags |= verdict.flags;
        self.record.details = Some(Cow::Borrowed(verdict.details));
    }

    /// So many bytes of the response's body went to the client.
    pub fn sent(&mut self, bytes: usize) {
        self.record.bytes_sent += bytes as u64;
        self.timers.moved();
    }

    /// The failure of a configured timeout that has passed; arms the timers otherwise.
    pub fn interrupted(&mut self, cx: &mut Context<'_>) -> Option<Failure> {
        self.timers.poll(cx, self.body.as_deref())
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
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let now = Instant::now();
        self.downstream.end_request(now, self.body.clone());
        if let Some(how) = how {
            let (flags, details) = broken(how);
            self.record.flags |= flags;
            self.record.details = Some(Cow::Borrowed(details));
        }
        self.times(now);
        let answered = self.record.status.is_some_and(|status| status.as_u16() < 500);
        self.release_endpoint(answered && self.record.flags.is_empty());
        self.count();
        self.worker.write_line(&self.record);
    }

    fn times(&mut self, now: Instant) {
        let record = &mut self.record;
        record.duration = now - self.started;
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

    fn count(&self) {
        let (stats, record) = (&self.site.stats, &self.record);
        stats.requests_active.fetch_sub(1, Relaxed);
        if self.retrying {
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
        // Dropped before its end: whoever asked is no longer there.
        if self.record.status.is_none() {
            self.record.flags = Flags::EMPTY;
            if let Some(Attempt { duration, status: None, sent: true, .. }) = self.record.attempts.last_mut()
            {
                *duration = self.attempt_started.elapsed();
            }
        }
        self.end(Some(Broken::ClientGone));
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

/// The timeouts of one request; off unless configured, and then no timer exists.
struct Timers {
    request: Option<Duration>,
    idle: Option<Duration>,
    request_timer: Option<Pin<Box<Sleep>>>,
    idle_timer: Option<Pin<Box<Sleep>>>,
    moved: Instant,
}

impl Timers {
    fn new(timeouts: &Timeouts, started: Instant) -> Self {
        Self {
            request: timeouts.request,
            idle: timeouts.idle,
            request_timer: None,
            idle_timer: None,
            moved: started,
        }
    }

    fn moved(&mut self) {
        if self.idle.is_some() {
            self.moved = Instant::now();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, body: Option<&BodyProgress>) -> Option<Failure> {
        let complete = body.is_none_or(|body| body.ended.get().is_some());
        if let Some(limit) = self.request {
            // The pod's time starts when it has the whole request.
            if complete {
                let timer = self.request_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                if timer.as_mut().poll(cx).is_ready() {
                    return Some(Failure::RequestTimeout);
                }
            }
        }
        if let Some(limit) = self.idle {
            let moved = body.and_then(|body| body.moved.get()).map_or(self.moved, |m| m.max(self.moved));
            let timer =
                self.idle_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(moved + limit)));
            while timer.as_mut().poll(cx).is_ready() {
                if moved.elapsed() >= limit {
                    return Some(if complete { Failure::StreamIdle } else { Failure::RequestIdle });
                }
                timer.as_mut().reset(moved + limit);
            }
        }
        None
    }
}
