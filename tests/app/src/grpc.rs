//! A gRPC service of one method, which answers with the name of its pod, and somebody who calls it: HTTP/2 in clear text,
//! each message a string in field 1.

use std::convert::Infallible;
use std::future::ready;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::server::pod;

/// The one method.
const METHOD: &str = "/whichpod.test.Backend/WhoAreYou";
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: &str = "grpc-status";
const OK: HeaderValue = HeaderValue::from_static("0");
const UNIMPLEMENTED: HeaderValue = HeaderValue::from_static("12");
/// Of field 1, with a length.
const TAG: u8 = 0x0a;
/// Before every message: whether it is compressed, and its length in four bytes.
const PREFIX: usize = 5;

/// Runs futures that stay on their thread.
#[derive(Clone, Copy)]
pub(crate) struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        drop(tokio::task::spawn_local(async move { drop(future.await) }));
    }
}

/// Answers once the whole request is there.
pub(crate) async fn answer<B: Body>(request: Request<B>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let known = request.uri().path() == METHOD;
    let whole = request.into_body().collect().await.is_ok();
    let (message, status) = if known && whole { (framed(&pod()), OK) } else { (Bytes::new(), UNIMPLEMENTED) };
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static(STATUS), status)]);
    let body = Full::new(message).with_trailers(ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, MEDIA_TYPE);
    response
}

/// Calls the method so often, one call after the other on one connection; gives the pods that answered.
pub(crate) async fn ask(upstream: &str, times: usize) -> Result<Vec<String>> {
    let stream =
        TcpStream::connect(upstream).await.with_context(|| format!("cannot connect to {upstream}"))?;
    let (mut sender, connection) = handshake(Local, TokioIo::new(stream)).await?;
    drop(tokio::task::spawn_local(connection));
    let mut pods = Vec::new();
    for _ in 0..times {
        let request = Request::post(format!("http://{upstream}{METHOD}"))
            .header(CONTENT_TYPE, MEDIA_TYPE)
            .header(TE, "trailers")
            .body(Full::new(framed("")))?;
        let response = sender.send_request(request).await.context("no answer")?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.context("half an answer")?;
        let status = body.trailers().unwrap_or(&head.headers).get(STATUS).cloned();
        ensure!(status == Some(OK), "{STATUS} is {status:?}, with {head:?}");
        pods.push(read(&body.to_bytes()).context("no message")?);
    }
    Ok(pods)
}

fn framed(text: &str) -> Bytes {
    // Names of pods are shorter than 128 bytes, so their length is one byte.
    let text = &text.as_bytes()[..text.len().min(127)];
    let length = text.len() + 2;
    let mut frame = vec![0; PREFIX - 1];
    #[expect(clippy::cast_possible_truncation, reason = "at most 129")]
    frame.extend([length as u8, TAG, (length - 2) as u8]);
    frame.extend_from_slice(text);
    frame.into()
}

fn read(frame: &[u8]) -> Option<String> {
    let text = frame.get(PREFIX..)?.strip_prefix(&[TAG])?.get(1..)?;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn every_call_on_a_connection_is_answered_with_the_pods_name_and_a_status() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = async move {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = service_fn(async |request| Ok::<_, Infallible>(answer(request).await));
            http2::Builder::new(Local).serve_connection(TokioIo::new(stream), answer).await
        };
        tokio::task::LocalSet::new()
            .run_until(async {
                drop(tokio::task::spawn_local(server));
                assert_eq!(ask(&address, 3).await.unwrap(), [pod(), pod(), pod()]);
            })
            .await;
    }

    #[tokio::test]
    async fn a_method_that_nobody_has_is_unimplemented() {
        let request = Request::post("/a.b/C").body(Full::new(Bytes::new())).unwrap();
        let body = answer(request).await.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()[STATUS], "12");
        assert!(body.to_bytes().is_empty());
    }

    #[test]
    fn what_is_no_message_is_none() {
        for frame in [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1, TAG], &[0, 0, 0, 0, 1, 1, 1]]
        {
            assert_eq!(read(frame), None, "{frame:?}");
        }
        assert_eq!(read(&framed("backend-1")).unwrap(), "backend-1");
    }
}
