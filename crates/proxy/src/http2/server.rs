//! A client's connection: many requests at a time, a task each.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use whichpod_access_log::Flags;
use whichpod_config::Limits;
use whichpod_protocols::error::Verdict;

use crate::body::ResponseBody;
use crate::downstream::Downstream;
use crate::incoming::Incoming;
use crate::proxy;
use crate::site::Site;
use crate::worker::{Worker, spawn};

use super::{CONNECTION_WINDOW, Pump, SEND_BUFFER, STREAM_WINDOW, Stopped};

/// Streams that a client may open and reset in one breath, before we have looked at them.
const RESETS_UNSEEN: usize = 256;

/// Serves one connection until either side ends it; the preface is still to be read from `io`.
pub async fn serve<I>(worker: Rc<Worker>, site: Arc<Site>, io: I, downstream: Rc<Downstream>)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let started = Instant::now();
    downstream.multiplex();
    let mut connection = match settings(site.config.limits).handshake::<_, Bytes>(io).await {
        Ok(connection) => connection,
        Err(error) => return broken(&error, started, &worker, &site, &downstream),
    };
    let ended = poll_fn(|cx| {
        loop {
            if downstream.is_abusive() {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            } else if downstream.is_leaving() {
                connection.graceful_shutdown();
            }
            match ready!(connection.poll_accept(cx)) {
                Some(Ok((request, respond))) => {
                    let (worker, site) = (Rc::clone(&worker), Arc::clone(&site));
                    spawn(answer(worker, site, Rc::clone(&downstream), request, respond));
                }
                Some(Err(error)) => return Poll::Ready(Some(error)),
                None => return Poll::Ready(None),
            }
        }
    })
    .await;
    if let Some(error) = ended {
        broken(&error, started, &worker, &site, &downstream);
    }
}

fn settings(limits: Limits) -> Builder {
    let mut builder = Builder::new();
    // h2 answers what exceeds its limit without a word to us: ours comes first, and has a line.
    let head = u32::try_from(limits.head_bytes.saturating_mul(2)).unwrap_or(u32::MAX);
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(head)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS_UNSEEN);
    builder
}

/// One request and its response.
async fn answer(
    worker: Rc<Worker>,
    site: Arc<Site>,
    downstream: Rc<Downstream>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (head, stream) = request.into_parts();
    let body = Incoming::http2(stream, &head.headers);
    let expects_continue = whichpod_protocols::headers::expects_continue(&head.headers);
    if expects_continue && !body.is_end_stream() {
        let mut go_on = Response::new(());
        *go_on.status_mut() = http::StatusCode::CONTINUE;
        // The client may have left.
        let _ = respond.send_informational(go_on);
    }
    let response = {
        let exchange = proxy::begin(worker, site, downstream, Request::from_parts(head, body));
        let mut answering = pin!(proxy::answer(exchange));
        poll_fn(|cx| match answering.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            // The client does not want it any more: what runs is dropped, and says so in its line.
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    let Some(response) = response else { return };
    let (head, body) = response.into_parts();
    if let ResponseBody::Malformed(_) = body {
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return;
    }
    let ends = body.is_end_stream();
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), ends) else { return };
    if ends {
        return;
    }
    let mut pump = Pump::new(body, stream);
    let sent = poll_fn(|cx| match (Pin::new(&mut pump).poll(cx), pump.waiting()) {
        (Poll::Pending, Some(body)) => body.poll_stalled(cx).map(|broken| Err(Stopped::Body(broken))),
        (polled, _) => polled,
    });
    if let Err(Stopped::Body(broken)) = sent.await {
        pump.reset(broken.reset());
    }
}

/// The line of a connection that the client broke, or that was too long without a request.
fn broken(error: &h2::Error, since: Instant, worker: &Worker, site: &Site, downstream: &Downstream) {
    let (flags, details) = if error.is_library() {
        (Flags::DOWNSTREAM_PROTOCOL, "http2.codec_error")
    } else if downstream.is_abusive() {
        (Flags::DOWNSTREAM_PROTOCOL, "http2.too_many_resets")
    } else {
        let Some(Verdict { flags, details, .. }) = downstream.unfinished() else { return };
        (flags, details)
    };
    let mut record = downstream.record(site, SystemTime::now());
    record.flags = flags;
    record.details = Some(details.into());
    record.duration = since.elapsed();
    site.stats.ended(record.status, record.flags, record.duration);
    worker.write_line(&record);
}
