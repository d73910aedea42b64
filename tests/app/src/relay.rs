//! A service that calls another, as services do: by its name, over connections that it keeps.

use std::cell::RefCell;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::server::text;

/// Passes requests on to one upstream.
pub(crate) struct Relay {
    upstream: String,
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
}

impl Relay {
    /// `upstream` is a name or an address, with a port.
    pub(crate) fn to(upstream: &str) -> Self {
        Self { upstream: upstream.to_owned(), idle: RefCell::default() }
    }

    /// The upstream's answer, or 502 and why there is none.
    pub(crate) async fn answer<B: Body<Error: std::error::Error + Send + Sync + 'static>>(
        &self,
        request: Request<B>,
    ) -> Response<Full<Bytes>> {
        self.pass_on(request)
            .await
            .unwrap_or_else(|error| text(StatusCode::BAD_GATEWAY, format!("the relay failed: {error:#}\n")))
    }

    async fn pass_on<B: Body<Error: std::error::Error + Send + Sync + 'static>>(
        &self,
        request: Request<B>,
    ) -> Result<Response<Full<Bytes>>> {
        let (mut head, body) = request.into_parts();
        let body = body.collect().await.context("the request's body did not come")?.to_bytes();
        head.headers.insert(HOST, HeaderValue::from_str(&self.upstream)?);
        head.headers.remove(CONNECTION);
        head.headers.remove(TRANSFER_ENCODING);
        head.version = http::Version::HTTP_11;

        let mut connection = self.connection().await?;
        let request = Request::from_parts(head, Full::new(body));
        let (head, body) = connection.send_request(request).await.context("no answer")?.into_parts();
        let body = body.collect().await.context("half an answer")?.to_bytes();
        self.idle.borrow_mut().push(connection);
        let mut response = text(head.status, body);
        if let Some(received) = head.headers.get("x-received-bytes") {
            response.headers_mut().insert("x-received-bytes", received.clone());
        }
        Ok(response)
    }

    /// One that was used before, if the other side has not closed it.
    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>> {
        loop {
            let Some(mut kept) = self.idle.borrow_mut().pop() else { break };
            if kept.ready().await.is_ok() {
                return Ok(kept);
            }
        }
        let stream = TcpStream::connect(&self.upstream).await;
        let stream = stream.with_context(|| format!("cannot connect to {}", self.upstream))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        drop(tokio::task::spawn_local(connection));
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn what_is_asked_and_answered_passes_through_over_one_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::to(&listener.local_addr().unwrap().to_string());
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = service_fn(async |request: Request<hyper::body::Incoming>| {
                assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/status/503"));
                Ok::<_, std::convert::Infallible>(crate::serve::answer(request).await)
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await.unwrap();
        };
        let client = async {
            for _ in 0..2 {
                let request = Request::post("/status/503").body(Full::new(Bytes::from("abc"))).unwrap();
                let response = relay.answer(request).await;
                assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
                assert_eq!(response.headers()["x-received-bytes"], "3");
            }
            drop(relay.idle.take());
        };
        tokio::task::LocalSet::new().run_until(async { tokio::join!(server, client) }).await;
    }

    #[tokio::test]
    async fn an_upstream_that_is_not_there_is_a_bad_gateway_with_its_name() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let response =
            Relay::to(&nobody).answer(Request::get("/").body(Full::new(Bytes::new())).unwrap()).await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(&format!("cannot connect to {nobody}")));
    }
}
