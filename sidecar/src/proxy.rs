//! The way of one request: never fails, every error becomes a response.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body;

use crate::body::{Link, RequestBody, ResponseBody};
use crate::connect::{Tried, acquire};
use crate::error::{Failure, body, verdict};
use crate::exchange::Exchange;
use crate::grpc;
use crate::headers;
use crate::incoming::Incoming;
use crate::io::Downstream;
use crate::peer::Peer;
use crate::retry::{self, Decision, Progress, Replay};
use crate::site::Site;
use crate::upstream_connection::SendError;
use crate::worker::Worker;

/// A request that may not be sent twice takes only a connection that the pod cannot have closed yet.
const FRESH: Duration = Duration::from_secs(1);
/// Messages that were handed back unsent are sent again without being counted, but not for ever.
const MOST_SENDS: u32 = 16;

/// Answers one request.
pub async fn handle(
    worker: Rc<Worker>,
    site: Arc<Site>,
    downstream: Rc<Downstream>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let mut exchange = Exchange::begin(worker, site, downstream);
    let draining = exchange.worker.shared.is_draining();
    let over_http2 = request.version() == Version::HTTP_2;
    if draining && over_http2 {
        exchange.downstream.leave();
    }
    let mut response = match forward(&mut exchange, request).await {
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

/// Sends the request to one pod after another until one answers or the rules say stop.
async fn forward(
    exchange: &mut Exchange,
    request: Request<Incoming>,
) -> Result<(Response<Incoming>, Link), Failure> {
    let mut request = prepare(exchange, request)?;
    let version = request.version();
    let replay = Replay::of(request.method(), !request.body().is_end_stream());
    // HTTP/2 tells which requests were not processed: those are sent again whatever their method.
    let copies = replay == Replay::Safe || version == Version::HTTP_2;
    let mut max_idle = match replay {
        Replay::Safe => exchange.site.config.timeouts.upstream_idle,
        Replay::Unsafe | Replay::BodyConsumed => FRESH.min(exchange.site.config.timeouts.upstream_idle),
    };
    let mut tried = Tried::default();
    let mut retries = 0;
    for _ in 0..MOST_SENDS {
        let mut link = acquire(exchange, &mut tried, max_idle, version).await?;
        let reused = link.reused();
        exchange.attempt(link.peer(), reused);
        let copy = copies.then(|| copy_head(&request));
        let sent = send(exchange, &mut link, request).await;
        let (decision, failure, again) = match sent {
            Ok(mut response) => {
                let status = response.status();
                exchange.attempt_answered(status);
                let decision = after_response(exchange, &response, replay, retries);
                let again =
                    copy.filter(|_| allows(exchange, decision)).and_then(|copy| refill(exchange, copy));
                let Some(again) = again else {
                    note_limit(exchange, decision);
                    exchange.forget_body();
                    if let Err(failure) = finish_head(exchange, &mut link, &mut response) {
                        exchange.attempt_failed("protocol_error", false);
                        return Err(failure);
                    }
                    return Ok((response, link));
                };
                exchange.attempt_discarded();
                (decision, Failure::Closed, Some(again))
            }
            Err(SendError { failure, reason, progress, request }) => {
                exchange.attempt_failed(reason, progress == Progress::NothingSent);
                let policy = &exchange.site.config.retry;
                if !reused && matches!(failure, Failure::Closed | Failure::Reset) {
                    // It took a new connection and ended it: so does a pod that is about to go.
                    exchange.site.upstream.doubt();
                }
                let decision = retry::after_failure(policy, replay, progress, failure, reused, retries);
                (decision, failure, request.or_else(|| refill(exchange, copy?)))
            }
        };
        let (true, Some(again)) = (allows(exchange, decision), again) else {
            note_limit(exchange, decision);
            return Err(failure);
        };
        tried.failed(link.peer().endpoint.id());
        drop(link);
        if let Decision::Again { counted: true } = decision {
            exchange.retry_begins();
            tokio::time::sleep(retry::back_off(retries, fastrand::f64())).await;
            retries += 1;
        }
        // What failed on one idle connection may fail on the next: take a new one.
        max_idle = Duration::ZERO;
        request = again;
    }
    Err(Failure::Closed)
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
    retry::after_status(policy, replay, response.status().as_u16(), retries)
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
        if version == Version::HTTP_2 {
            progress.keep();
        }
        RequestBody::new(incoming, progress)
    } else {
        RequestBody::empty()
    };
    let prepared = headers::prepare(&mut head, &site.host, site.config.limits, version, has_body);
    headers::ensure_request_id(&mut head.headers);
    exchange.record.trace_id = headers::trace_id(&head.headers);
    if site.config.headers.append_x_forwarded_for {
        headers::append_forwarded_for(&mut head.headers, exchange.caller());
    }
    exchange.request_head(&head);
    prepared?;
    exchange.record.route = site.route(head.uri.path())?;
    // Only hyper's own extensions could be in there, and they belong to the client's connection.
    head.extensions.clear();
    Ok(Request::from_parts(head, body))
}

/// Sends it once; a broken body of the client's wins over what it did to the pod's connection.
async fn send(
    exchange: &mut Exchange,
    link: &mut Link,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, SendError> {
    let interrupted = |cx: &mut Context<'_>| exchange.interrupted(cx);
    let sent = match link {
        Link::Http1(connection) => connection.send(request, interrupted).await,
        Link::Http2(slot) => slot.send(request, interrupted).await,
    };
    sent.map_err(|mut error| {
        if let Some(failure) = exchange.body_failure() {
            error.failure = failure;
            error.reason =
                if failure == Failure::ClientGone { "client_gone" } else { "request_body_malformed" };
        }
        error
    })
}

/// A copy of a request without a body, to be sent again.
fn copy_head(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = Uri::clone(request.uri());
    *copy.version_mut() = request.version();
    *copy.headers_mut() = HeaderMap::clone(request.headers());
    copy
}

/// Gives the copy the body of the request; `None` if that is gone.
fn refill(exchange: &Exchange, copy: Request<RequestBody>) -> Option<Request<RequestBody>> {
    let body = exchange.body_again()?;
    Some(copy.map(|_| body))
}

/// True if the decision is to go on, and the upstream's retry budget agrees.
fn allows(exchange: &Exchange, decision: Decision) -> bool {
    use std::sync::atomic::Ordering::Relaxed;
    match decision {
        Decision::Again { counted: false } => true,
        Decision::Again { counted: true } => {
            let stats = &exchange.site.stats;
            retry::within_budget(stats.requests_active.load(Relaxed), stats.retries_active.load(Relaxed))
        }
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
    // Nobody asked to switch protocols: `Upgrade` is not passed on. hyper swallows the other interim responses.
    if status.is_informational() {
        return Err(Failure::UpstreamProtocol);
    }
    let idle_seconds = headers::finish(response.headers_mut())?;
    // The pod closes at its limit: stop using the connection a second before.
    if let (Some(seconds), Link::Http1(connection)) = (idle_seconds, &mut *link) {
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
