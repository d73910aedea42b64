//! A client's connection that speaks HTTP/1.0 or HTTP/1.1: one request after another.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use http::{Request, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use whichpod_access_log::{Flags, Record};
use whichpod_protocols::error::{Ended, Failure, Verdict, body, verdict};

use crate::downstream::Downstream;
use crate::incoming::Incoming;
use crate::io::DownstreamIo;
use crate::proxy;
use crate::site::Site;
use crate::tunnel::{self, Ends, Switched};
use crate::worker::Worker;

/// What a head gets that is not complete when memory runs short: its request would get the same.
const SHED: Verdict = verdict(Failure::Overloaded);

/// Serves one connection until either side ends it, or until it is idle for so long that it should rest: hyper's buffers are
/// 16 KiB.
pub async fn serve(
    worker: Rc<Worker>,
    site: Arc<Site>,
    io: DownstreamIo,
    downstream: Rc<Downstream>,
) -> Option<DownstreamIo> {
    let service = {
        let (worker, site, downstream) = (Rc::clone(&worker), Arc::clone(&site), Rc::clone(&downstream));
        service_fn(move |request: Request<hyper::body::Incoming>| {
            let (worker, site, downstream) = (Rc::clone(&worker), Arc::clone(&site), Rc::clone(&downstream));
            let exchange = proxy::begin(worker, site, downstream, request.map(Incoming::Http1));
            async { Ok::<_, Infallible>(proxy::answer(exchange).await) }
        })
    };
    let limits = site.config.limits;
    let mut builder = http1::Builder::new();
    builder.auto_date_header(false);
    // The first ends a head that does not end, the second refuses one that came in one piece.
    builder.max_buf_size(limits.head_bytes.max(8192)).max_header_size(limits.head_bytes);
    if limits.headers != 100 {
        // hyper's own default is 100 too, and costs no allocation a head.
        builder.max_headers(limits.headers);
    }
    let mut connection = builder.serve_connection(TokioIo::new(io), service);
    let ended = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Pending if downstream.rests() => Poll::Ready(None),
        polled => polled.map(Some),
    });
    let Some(result) = ended.await else {
        let parts = connection.into_parts();
        let mut io = parts.io.into_inner();
        io.unread(&parts.read_buf);
        return Some(io);
    };
    if let Some(Switched { mut exchange, pod, peer, from_pod }) = downstream.take_switched() {
        if result.is_err() {
            exchange.end_tunnel(Ended::ClientReset);
            return None;
        }
        let parts = connection.into_parts();
        let (client, from_client) = (parts.io.into_inner(), parts.read_buf);
        // In a box of its own, because few connections come to this.
        Box::pin(tunnel::run(exchange, Ends { client, pod, peer, from_client, from_pod })).await;
        return None;
    }
    if let Err(error) = result
        && let Some(line) = refused_head(&error, &downstream, &site)
    {
        site.stats.ended(line.status, line.flags, line.duration);
        worker.write_line(&line);
        if line.status.is_some() {
            // What was read of the head is of no use any more, and must not stay for as long as the client does.
            let io = { connection.into_parts().io.into_inner() };
            Box::pin(say_goodbye(io, &line, &site)).await;
        }
    }
    None
}

/// Lets the client read why its head was refused: hyper has said so, except where memory is short.
async fn say_goodbye(mut io: DownstreamIo, line: &Record, site: &Site) {
    if line.flags == SHED.flags {
        let text = body(&SHED, &site.config.name);
        let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n";
        let answer = format!("{head}content-length: {}\r\n\r\n{text}", text.len());
        // Nothing was sent before: there is room for it at once, unless the client is gone.
        let _ = io.write(answer.as_bytes()).await;
        let _ = io.shutdown().await;
    }
    io.linger().await;
}

/// What hyper answers by itself; nothing to the preface of HTTP/2.
fn answered(error: &hyper::Error) -> Option<StatusCode> {
    if error.is_parse_version_h2() {
        None
    } else if !error.is_parse_too_large() {
        Some(StatusCode::BAD_REQUEST)
    } else if error.to_string() == "URI too long" {
        Some(StatusCode::URI_TOO_LONG)
    } else {
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    }
}

/// The line of a head that never became a request: hyper answered it, or its time was over.
fn refused_head(error: &hyper::Error, downstream: &Downstream, site: &Site) -> Option<Record> {
    let (_, since) = downstream.phase();
    let (status, flags, details) = if error.is_parse() {
        (answered(error), Flags::DOWNSTREAM_PROTOCOL, "http1.codec_error")
    } else {
        let Verdict { status, flags, details, .. } = downstream.unfinished()?;
        (status, flags, details)
    };
    let mut record = downstream.record(site, SystemTime::now());
    record.status = status;
    record.flags = flags;
    record.details = Some(details.into());
    record.duration = Instant::now() - since;
    Some(record)
}
