//! The way of one request: never fails, every error becomes a response.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use whichpod_upstream::Outcome;

use crate::body::{RequestBody, ResponseBody};
use crate::connect::{Tried, acquire};
use crate::error::{Failure, body, verdict};
use crate::exchange::Exchange;
use crate::io::Downstream;
use crate::memory::Pressure;
use crate::retry::{self, Decision, Progress, Replay};
use crate::site::Site;
use crate::upstream_connection::{SendError, UpstreamConnection};
use crate::worker::Worker;
use crate::{hash, headers, limits};

/// A request that may not be sent twice takes only a connection that the pod cannot have closed yet.
const FRESH: Duration = Duration::from_secs(1);
/// Messages that were handed back unsent are sent again without being counted, but not for ever.
const MOST_SENDS: u32 = 16;

/// Answers one request.
///
/// # Errors
/// Never: the type is hyper's.
pub async fn handle(
    worker: Rc<Worker>,
    site: Arc<Site>,
    downstream: Rc<Downstream>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let mut exchange = Exchange::begin(worker, site, downstream);
    let draining = exchange.worker.shared.is_draining();
    let mut response = match forward(&mut exchange, request).await {
        Ok((head, connection)) => {
            let (mut parts, incoming) = head.into_parts();
            if exchange.ends_with_connection(&incoming) {
                parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Response::from_parts(parts, ResponseBody::pod(incoming, connection, exchange))
        }
        Err(failure) => local_answer(exchange, failure),
    };
    if draining {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Sends the request to one pod after another until one answers or the rules say stop.
async fn forward(
    exchange: &mut Exchange,
    request: Request<Incoming>,
) -> Result<(Response<Incoming>, Box<UpstreamConnection>), Failure> {
    let mut request = prepare(exchange, request)?;
    if exchange.worker.shared.memory.pressure() != Pressure::None {
        return Err(Failure::Overloaded);
    }
    exchange.permit = limits::enter(exchange.site.limits.requests.as_ref()).map_err(|_| Failure::Overflow)?;
    let replay = Replay::of(request.method(), !request.body().is_end_stream());
    let keeps_body = replay == Replay::BodyConsumed
        || replay == Replay::Unsafe && exchange.site.config.retry.non_idempotent;
    if keeps_body {
        exchange.keep_body();
    }
    let fits = keeps_body && exchange.fits_buffer(request.body());
    let mut max_idle = match replay {
        Replay::Safe => exchange.site.config.timeouts.upstream_idle,
        Replay::BodyConsumed if fits => exchange.site.config.timeouts.upstream_idle,
        Replay::Unsafe | Replay::BodyConsumed => FRESH.min(exchange.site.config.timeouts.upstream_idle),
    };
    let mut tried = Tried::default();
    let mut retries = 0;
    for _ in 0..MOST_SENDS {
        let mut connection = acquire(exchange, &mut tried, max_idle).await?;
        exchange.attempt(&connection);
        let copy = (replay == Replay::Safe || keeps_body).then(|| copy_head(&request));
        let sent = send(exchange, &mut connection, request).await;
        let (decision, failure, again, discarded) = match sent {
            Ok(mut response) => {
                let status = response.status();
                exchange.attempt_answered(status);
                exchange.observe(&connection.endpoint, Outcome::Status(status.as_u16()));
                let replay = with_body(exchange, replay);
                let decision = after_response(exchange, replay, &response, retries);
                let copy = if allows(exchange, decision) { copy } else { None };
                let Some(again) = copy.and_then(|copy| refill(exchange, copy)) else {
                    note_limit(exchange, decision);
                    exchange.forget_body();
                    if let Err(failure) = finish_head(exchange, &mut connection, &mut response) {
                        exchange.attempt_failed("protocol_error", false);
                        return Err(failure);
                    }
                    return Ok((response, connection));
                };
                exchange.attempt_discarded();
                (decision, Failure::Closed, Some(again), true)
            }
            Err(SendError { failure, reason, progress, request }) => {
                let reused = connection.reused;
                if retry::blames_the_pod(failure, progress, reused) {
                    exchange.observe(&connection.endpoint, Outcome::NoResponse);
                }
                exchange.attempt_failed(reason, progress == Progress::NothingSent);
                let replay = with_body(exchange, replay);
                let policy = &exchange.site.config.retry;
                if !reused && matches!(failure, Failure::Closed | Failure::Reset) {
                    // It took a new connection and ended it: so does a pod that is about to go.
                    exchange.site.upstream.doubt();
                }
                let decision = retry::after_failure(policy, replay, progress, failure, reused, retries);
                let again = request.or_else(|| refill(exchange, copy?));
                (decision, failure, again, false)
            }
        };
        let Some(again) = again.filter(|_| discarded || allows(exchange, decision)) else {
            note_limit(exchange, decision);
            return Err(failure);
        };
        tried.failed(connection.endpoint.id());
        drop(connection);
        if let Decision::Again { counted: true } = decision {
            let policy = &exchange.site.config.retry;
            tokio::time::sleep(retry::back_off(policy, retries, fastrand::f64())).await;
            retries += 1;
        }
        // What failed on one idle connection may fail on the next: take a new one.
        max_idle = Duration::ZERO;
        request = again;
    }
    Err(Failure::Closed)
}

/// Checks and rewrites the head, finds the route, and gives the body a progress that the log can read.
fn prepare(exchange: &mut Exchange, request: Request<Incoming>) -> Result<Request<RequestBody>, Failure> {
    let (mut head, incoming) = request.into_parts();
    exchange.record.protocol = Some(head.version);
    let body = if incoming.is_end_stream() {
        RequestBody::empty()
    } else {
        let progress = exchange.request_body();
        progress.expects_continue.set(head.headers.contains_key(header::EXPECT));
        RequestBody::new(incoming, progress)
    };
    let site = Arc::clone(&exchange.site);
    let prepared = headers::prepare(&mut head, &site.host);
    headers::ensure_request_id(&mut head.headers);
    exchange.record.trace_id = headers::trace_id(&head.headers);
    if site.config.headers.append_x_forwarded_for {
        headers::append_forwarded_for(&mut head.headers, exchange.caller());
    }
    exchange.request_head(&head);
    exchange.hash = hash::of_request(&site.config.balance, &head.headers, exchange.caller());
    prepared?;
    exchange.record.route = site.route(head.uri.path())?;
    // Only hyper's own extensions could be in there, and they belong to the client's connection.
    head.extensions.clear();
    Ok(Request::from_parts(head, body))
}

/// Sends it once; a broken body of the client's wins over what it did to the pod's connection.
async fn send(
    exchange: &mut Exchange,
    connection: &mut UpstreamConnection,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, SendError> {
    let interrupted = |cx: &mut Context<'_>| exchange.interrupted(cx);
    connection.send(request, interrupted).await.map_err(|mut error| {
        if let Some(failure) = exchange.body_failure() {
            error.failure = failure;
            error.reason =
                if failure == Failure::ClientGone { "client_gone" } else { "request_body_malformed" };
        }
        error
    })
}

/// What may be done with the request, now that it is known whether its whole body is kept.
fn with_body(exchange: &Exchange, replay: Replay) -> Replay {
    match (replay, exchange.body_is_replayable()) {
        (Replay::BodyConsumed, true) => Replay::Safe,
        (Replay::Unsafe, false) if exchange.site.config.retry.non_idempotent => Replay::BodyConsumed,
        _ => replay,
    }
}

/// Decides after a complete response head.
fn after_response(
    exchange: &Exchange,
    replay: Replay,
    response: &Response<Incoming>,
    retries: u32,
) -> Decision {
    let policy = &exchange.site.config.retry;
    match retry::after_status(policy, replay, response.status().as_u16(), retries) {
        Decision::GiveUp => retry::after_headers(policy, replay, response.headers(), retries),
        decision => decision,
    }
}

/// The copy with the request's body, if that is still there.
fn refill(exchange: &Exchange, copy: Request<RequestBody>) -> Option<Request<RequestBody>> {
    let body = exchange.body_again()?;
    Some(copy.map(|_| body))
}

/// A copy of a request without its body, to be sent again.
fn copy_head(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = Uri::clone(request.uri());
    *copy.version_mut() = request.version();
    *copy.headers_mut() = HeaderMap::clone(request.headers());
    copy
}

/// True if the decision is to go on, and the upstream's retry budget agrees: the retry counts from now on.
fn allows(exchange: &mut Exchange, decision: Decision) -> bool {
    match decision {
        Decision::Again { counted: false } => true,
        Decision::Again { counted: true } => exchange.may_retry(),
        Decision::GiveUp | Decision::LimitReached => false,
    }
}

/// A retry that was wanted and not made shows in the line (URX).
fn note_limit(exchange: &mut Exchange, decision: Decision) {
    if !matches!(decision, Decision::GiveUp) {
        exchange.record.flags |= whichpod_access_log::Flags::RETRY_LIMIT;
        exchange.site.stats.retries_denied.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Makes the pod's head the client's.
fn finish_head(
    exchange: &mut Exchange,
    connection: &mut UpstreamConnection,
    response: &mut Response<Incoming>,
) -> Result<(), Failure> {
    let (status, version) = (response.status(), response.version());
    // Nobody asked to switch protocols: `Upgrade` is not passed on. hyper swallows the other interim responses.
    if status.is_informational() {
        return Err(Failure::UpstreamProtocol);
    }
    let idle_seconds = headers::finish(response.headers_mut())?;
    // The pod closes at its limit: stop using the connection a second before.
    if let Some(seconds) = idle_seconds {
        connection.idle_limit = Duration::from_secs(seconds.saturating_sub(1));
    }
    if exchange.site.config.headers.expose_upstream {
        expose(connection, response.headers_mut());
    }
    exchange.response_head(status, version, response.headers());
    *response.version_mut() = Version::HTTP_11;
    Ok(())
}

fn expose(connection: &UpstreamConnection, headers: &mut HeaderMap) {
    if let Ok(address) = HeaderValue::try_from(connection.endpoint.address().to_string()) {
        headers.insert(headers::X_WHICHPOD_UPSTREAM, address);
    }
    if let Some(pod) = connection.pod.as_deref().and_then(|pod| HeaderValue::from_str(pod).ok()) {
        headers.insert(headers::X_WHICHPOD_POD, pod);
    }
}

/// The response to a request that no pod answered.
fn local_answer(mut exchange: Box<Exchange>, failure: Failure) -> Response<ResponseBody> {
    let verdict = verdict(failure);
    exchange.failed(&verdict);
    let mut response = Response::builder().status(verdict.status.unwrap_or(http::StatusCode::BAD_GATEWAY));
    if let Some(headers) = response.headers_mut() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if verdict.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    let text = body(&verdict, &exchange.site.config.name);
    let is_head = exchange.record.method == Some(Method::HEAD);
    let mut response = response.body(()).unwrap_or_default();
    if is_head {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        exchange.end(None);
        return response.map(|()| ResponseBody::Local(None, exchange));
    }
    response.map(|()| ResponseBody::local(text, exchange))
}
