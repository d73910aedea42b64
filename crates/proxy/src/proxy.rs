//! The way of one request: never fails, every error becomes a response.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body;
use whichpod_protocols::error::{Failure, body, verdict};
use whichpod_protocols::grpc;
use whichpod_protocols::retry::{self, Decision, Progress, Replay};
use whichpod_protocols::upgrade::{self, Switch};
use whichpod_protocols::{hash, headers};
use whichpod_upstream::Outcome;

use crate::body::{Link, RequestBody, ResponseBody};
use crate::connect::{Tried, acquire};
use crate::downstream::Downstream;
use crate::exchange::Exchange;
use crate::incoming::Incoming;
use crate::limits;
use crate::peer::Peer;
use crate::site::Site;
use crate::tunnel::Switched;
use crate::upstream_connection::{SendError, UpstreamConnection};
use crate::worker::Worker;

/// A request that may not be sent twice takes only a connection that the pod cannot have closed yet.
const FRESH: Duration = Duration::from_secs(1);
/// Messages that were handed back unsent are sent again without being counted, but not for ever.
const MOST_SENDS: u32 = 16;

/// Begins one request, which [`answer`] answers. The request stays where it is put here until it is sent: it is large, and to
/// move it costs.
pub fn begin(
    worker: Rc<Worker>,
    site: Arc<Site>,
    downstream: Rc<Downstream>,
    request: Request<Incoming>,
) -> Box<Exchange> {
    let mut exchange = Exchange::begin(worker, site, downstream);
    exchange.request = prepare(&mut exchange, request);
    exchange
}

/// Answers one request.
pub async fn answer(mut exchange: Box<Exchange>) -> Response<ResponseBody> {
    let draining = exchange.worker.shared.is_draining();
    let over_http2 = exchange.record.protocol == Some(Version::HTTP_2);
    if draining && over_http2 {
        exchange.downstream.leave();
    }
    let mut response = match forward(&mut exchange).await {
        Ok((head, Link::Http1(connection))) if exchange.is_switched() => {
            return switch(exchange, head, connection).await;
        }
        Ok((head, link)) => {
            let (mut parts, incoming) = head.into_parts();
            if exchange.ends_with_connection(&incoming) {
                parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Response::from_parts(parts, ResponseBody::pod(incoming, link, exchange))
        }
        Err(failure) => local_answer(exchange, failure),
    };
    if over_http2 {
        // It belongs to HTTP/1: there is GOAWAY.
        response.headers_mut().remove(header::CONNECTION);
    } else if draining {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The pod has agreed to switch: hands its end of the tunnel to whoever has the client's.
async fn switch(
    exchange: Box<Exchange>,
    head: Response<Incoming>,
    connection: Box<UpstreamConnection>,
) -> Response<ResponseBody> {
    let downstream = Rc::clone(&exchange.downstream);
    let Some((pod, from_pod, peer)) = connection.into_parts().await else {
        return local_answer(exchange, Failure::Closed);
    };
    downstream.switch(Switched { exchange, pod, peer, from_pod });
    head.map(|_| ResponseBody::Empty)
}

/// Sends the request to one pod after another until one answers or the rules say stop.
async fn forward(exchange: &mut Exchange) -> Result<(Response<Incoming>, Link), Failure> {
    let request = exchange.request.as_ref().map_err(|failure| *failure)?;
    if exchange.worker.shared.memory.is_short() {
        return Err(Failure::Overloaded);
    }
    exchange.permit = limits::enter(exchange.site.limits.requests.as_ref()).map_err(|_| Failure::Overflow)?;
    let version = request.version();
    let replay = Replay::of(request.method(), !request.body().is_end_stream());
    // HTTP/2 tells which requests were not processed: those are sent again whatever their method.
    let keeps_body = version == Version::HTTP_2
        || replay == Replay::BodyConsumed
        || replay == Replay::Unsafe && exchange.site.config.retry.non_idempotent;
    let fits = keeps_body && exchange.fits_buffer(request.body());
    if keeps_body {
        exchange.keep_body();
    }
    let mut max_idle = match replay {
        Replay::Safe => exchange.site.config.timeouts.upstream_idle,
        Replay::BodyConsumed if fits => exchange.site.config.timeouts.upstream_idle,
        Replay::Unsafe | Replay::BodyConsumed => FRESH.min(exchange.site.config.timeouts.upstream_idle),
    };
    let mut tried = Tried::default();
    let mut retries = 0;
    for _ in 0..MOST_SENDS {
        let mut link = acquire(exchange, &mut tried, max_idle, version).await?;
        if exchange.worker.shared.memory.is_short() {
            // To send it takes memory again, and it may have waited for long.
            return Err(Failure::Overloaded);
        }
        let reused = link.reused();
        exchange.attempt(link.peer(), reused);
        let sent = send(exchange, &mut link, replay == Replay::Safe || keeps_body).await;
        let (decision, failure, again, discarded) = match sent {
            Ok(mut response) => {
                let status = response.status();
                exchange.attempt_answered(status);
                match status_for_health(exchange, &response) {
                    Some(status) => exchange.observe(&link.peer().endpoint, Outcome::Status(status)),
                    None => exchange.trailers_tell(),
                }
                let replay = with_body(exchange, replay);
                let decision = after_response(exchange, &response, replay, retries);
                if !(allows(exchange, decision) && exchange.renew_request()) {
                    note_limit(exchange, decision);
                    exchange.forget_request();
                    if let Err(failure) = finish_head(exchange, &mut link, &mut response) {
                        exchange.attempt_failed("protocol_error", false);
                        return Err(failure);
                    }
                    return Ok((response, link));
                }
                exchange.attempt_discarded();
                (decision, Failure::Closed, true, true)
            }
            Err(SendError { failure, reason, progress, request }) => {
                if retry::blames_the_pod(failure, progress, reused) {
                    exchange.observe(&link.peer().endpoint, Outcome::NoResponse);
                }
                exchange.attempt_failed(reason, progress == Progress::NothingSent);
                let replay = with_body(exchange, replay);
                let policy = &exchange.site.config.retry;
                if !reused && matches!(failure, Failure::Closed | Failure::Reset) {
                    // It took a new connection and ended it: so does a pod that is about to go.
                    exchange.site.upstream.doubt();
                }
                let decision = retry::after_failure(policy, replay, progress, failure, reused, retries);
                if let Some(request) = request {
                    exchange.request = Ok(*request);
                }
                (decision, failure, exchange.request.is_ok() || exchange.renew_request(), false)
            }
        };
        if !(again && (discarded || allows(exchange, decision))) {
            note_limit(exchange, decision);
            return Err(failure);
        }
        tried.failed(link.peer().endpoint.id());
        drop(link);
        if let Decision::Again { counted: true } = decision {
            let policy = &exchange.site.config.retry;
            tokio::time::sleep(retry::back_off(policy, retries, fastrand::f64())).await;
            retries += 1;
        }
        // What failed on one idle connection may fail on the next: take a new one.
        max_idle = Duration::ZERO;
    }
    Err(Failure::Closed)
}

/// What the response says about its pod: a call's own status, where that is the whole answer; `None` where it is still to
/// come.
fn status_for_health(exchange: &Exchange, response: &Response<Incoming>) -> Option<u16> {
    let call = if exchange.is_grpc() { grpc::status(response.headers()) } else { None };
    let to_come =
        exchange.is_grpc() && response.status() == StatusCode::OK && !response.body().is_end_stream();
    match call {
        Some(call) => Some(grpc::http_status_of(call)),
        None => (!to_come).then(|| response.status().as_u16()),
    }
}

/// Decides after a response's head.
fn after_response(
    exchange: &Exchange,
    response: &Response<Incoming>,
    replay: Replay,
    retries: u32,
) -> Decision {
    let policy = &exchange.site.config.retry;
    if exchange.is_grpc() && response.body().is_end_stream() {
        let replayable = exchange.body_is_replayable();
        if let Some(status) = grpc::status(response.headers()) {
            return retry::after_grpc_status(policy, replayable, status, retries);
        }
    }
    match retry::after_status(policy, replay, response.status().as_u16(), retries) {
        Decision::GiveUp => retry::after_headers(policy, replay, response.headers(), retries),
        decision => decision,
    }
}

/// Checks and rewrites the head, finds the route, and gives the body a progress that the log can read.
fn prepare(exchange: &mut Exchange, request: Request<Incoming>) -> Result<Request<RequestBody>, Failure> {
    let (mut head, incoming) = request.into_parts();
    exchange.record.protocol = Some(head.version);
    let site = Arc::clone(&exchange.site);
    let version = site.pods_speak(head.version);
    let has_body = !incoming.is_end_stream();
    let body = if has_body {
        let progress = exchange.request_body();
        progress.expects_continue.set(head.headers.contains_key(header::EXPECT));
        RequestBody::new(incoming, progress)
    } else {
        RequestBody::empty()
    };
    // HTTP/2 knows no upgrades (RFC 9113 §8.6).
    let switch = (version != Version::HTTP_2).then(|| upgrade::asked(&head, has_body)).flatten();
    let prepared = match &switch {
        Some(Switch::Connect) => upgrade::prepare_connect(&mut head),
        _ => headers::prepare(&mut head, &site.host, site.config.limits, version, has_body),
    };
    if let Some(switch) = switch {
        upgrade::ask(&switch, &mut head);
        exchange.ask(switch);
    }
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

/// Sends it once; a broken body of the client's wins over what it did to the pod's connection. `again`: it may have to be sent
/// once more.
async fn send(
    exchange: &mut Exchange,
    link: &mut Link,
    again: bool,
) -> Result<Response<Incoming>, SendError> {
    let sent = match link {
        Link::Http1(connection) => {
            let ready = connection.wake().await?;
            let request = exchange.take_request(again).map_err(SendError::nothing_sent)?;
            ready.send(request, |cx| exchange.interrupted(cx)).await
        }
        Link::Http2(slot) => {
            let request = exchange.take_request(again).map_err(SendError::nothing_sent)?;
            slot.send(request, |cx| exchange.interrupted(cx)).await
        }
    };
    sent.map_err(|mut error| {
        if let Some(failure) = exchange.body_failure() {
            error.failure = failure;
            error.reason = failure.reason();
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
    link: &mut Link,
    response: &mut Response<Incoming>,
) -> Result<(), Failure> {
    let (status, version) = (response.status(), response.version());
    // The pod closes at its limit: stop using the connection a second before.
    if !exchange.switches(status, response.headers_mut())?
        && let Some(seconds) = headers::finish(response.headers_mut())?
        && let Link::Http1(connection) = &mut *link
    {
        connection.idle_limit = Duration::from_secs(seconds.saturating_sub(1));
    }
    if exchange.site.config.headers.expose_upstream {
        expose(link.peer(), response.headers_mut());
    }
    exchange.response_head(status, version, response.headers());
    // Over HTTP/2 it is not looked at.
    *response.version_mut() = Version::HTTP_11;
    Ok(())
}

fn expose(peer: &Peer, headers: &mut HeaderMap) {
    if let Ok(address) = HeaderValue::try_from(peer.endpoint.address().to_string()) {
        headers.insert(headers::X_WHICHPOD_UPSTREAM, address);
    }
    if let Some(pod) = peer.pod.as_deref().and_then(|pod| HeaderValue::from_str(pod).ok()) {
        headers.insert(headers::X_WHICHPOD_POD, pod);
    }
}

/// The response to a request that no pod answered.
fn local_answer(mut exchange: Box<Exchange>, failure: Failure) -> Response<ResponseBody> {
    // What was not sent is not wanted any more: its body is thrown away from now on.
    exchange.request = Err(failure);
    let mut verdict = verdict(failure);
    let over_http2 = exchange.record.protocol == Some(Version::HTTP_2);
    if over_http2 && matches!(failure, Failure::BadRequest(_) | Failure::BadRequestBody) {
        // RFC 9113 §8.1.1: a stream error.
        (verdict.status, verdict.details) = (None, "http2.codec_error");
        exchange.failed(&verdict);
        exchange.end(None);
        return Response::new(ResponseBody::Malformed(exchange));
    }
    let text = body(&verdict, &exchange.site.config.name);
    if exchange.is_grpc() && verdict.status.is_some() {
        let status = grpc::status_of(&verdict);
        verdict.status = Some(StatusCode::OK);
        exchange.record.grpc_status = Some(status);
        exchange.failed(&verdict);
        exchange.end(None);
        let mut response = Response::new(ResponseBody::Local(None, exchange));
        grpc::trailers_only(response.headers_mut(), status, text.trim_end());
        if verdict.close {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        return response;
    }
    exchange.failed(&verdict);
    let mut response = Response::builder().status(verdict.status.unwrap_or(StatusCode::BAD_GATEWAY));
    if let Some(headers) = response.headers_mut() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if verdict.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    let is_head = exchange.record.method == Some(Method::HEAD);
    let mut response = response.body(()).unwrap_or_default();
    if is_head {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        exchange.end(None);
        return response.map(|()| ResponseBody::Local(None, exchange));
    }
    response.map(|()| ResponseBody::local(text, exchange))
}
