//! Active health checks: each pod is asked at intervals, on the control thread; which pods are used is up to the upstream.
//!
//! A pod is used from the start: DNS names only pods that Kubernetes calls ready. (Envoy waits for a first check.)

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use whichpod_config::{CheckKind, HealthCheck};
use whichpod_upstream::{Endpoint, EndpointId};

use crate::site::Site;
use crate::transport::{Tls, Transport};

/// What checks call themselves.
const USER_AGENT: &str = concat!("whichpod-health-check/", env!("CARGO_PKG_VERSION"));
/// The longest answer that is read.
const LONGEST: usize = 4096;
/// `SERVING` (grpc.health.v1.HealthCheckResponse).
const SERVING: u64 = 1;

/// Checks every pod of the upstream for as long as it is one: one checker a pod.
pub async fn run(site: Arc<Site>, check: HealthCheck) {
    let (mut published, check) = (site.upstream.subscribe(), Arc::new(check));
    let mut checkers: HashMap<EndpointId, (Arc<Endpoint>, JoinSet<()>)> = HashMap::new();
    loop {
        published.mark_unchanged();
        checkers.retain(|_, (endpoint, _)| !endpoint.is_gone());
        for endpoint in site.upstream.snapshot().endpoints() {
            checkers.entry(endpoint.id()).or_insert_with(|| {
                let mut checker = JoinSet::new();
                checker.spawn(check_pod(Arc::clone(&site), Arc::clone(endpoint), Arc::clone(&check)));
                (Arc::clone(endpoint), checker)
            });
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

async fn check_pod(site: Arc<Site>, endpoint: Arc<Endpoint>, check: Arc<HealthCheck>) {
    let mut address = endpoint.address();
    address.set_port(check.port.unwrap_or(address.port()));
    let mut tally = Tally::default();
    // Many pods that come at once are not checked at once.
    sleep(check.interval.mul_f64(fastrand::f64()).min(Duration::from_secs(1))).await;
    loop {
        let result = match timeout(check.timeout, ask(address, &check.kind, &Asks::of(&site))).await {
            Ok(result) => result,
            Err(_) => Err(Unwell::Late),
        };
        let stats = &site.stats.checks;
        stats.attempts.fetch_add(1, Relaxed);
        if result.is_err() {
            stats.failures.fetch_add(1, Relaxed);
        }
        if let Some(passes) = tally.count(result.is_ok(), &check) {
            report(&site, &endpoint, passes, result.err().as_ref(), &check);
        }
        sleep(pause(&check, fastrand::f64())).await;
    }
}

/// The interval, more or less the jitter; `random` is in 0..1.
fn pause(check: &HealthCheck, random: f64) -> Duration {
    let jitter = f64::from(check.jitter_percent.min(100)) / 100.0;
    check.interval.mul_f64(1.0 + jitter * (2.0 * random - 1.0))
}

fn report(site: &Site, endpoint: &Endpoint, passes: bool, why: Option<&Unwell>, check: &HealthCheck) {
    if !site.upstream.checked(endpoint, passes) {
        return;
    }
    let (upstream, address) = (&*site.config.name, endpoint.address());
    let pod = endpoint.identity().map_or("-", |name| name);
    if passes {
        let checks = check.healthy_threshold;
        tracing::info!(target: "whichpod::health", upstream, %address, pod, checks, "the pod passes its health checks again");
    } else {
        let (checks, reason) = (check.unhealthy_threshold, why.map(ToString::to_string).unwrap_or_default());
        tracing::warn!(target: "whichpod::health", upstream, %address, pod, checks, reason, "the pod fails its health checks: it is left alone");
    }
}

/// How the last checks of a pod went.
struct Tally {
    passes: bool,
    /// Results in a row that contradict `passes`.
    against: u32,
}

impl Default for Tally {
    fn default() -> Self {
        Self { passes: true, against: 0 }
    }
}

impl Tally {
    /// What the pod is from now on, if that is news.
    fn count(&mut self, passed: bool, check: &HealthCheck) -> Option<bool> {
        self.against = if passed == self.passes { 0 } else { self.against + 1 };
        let threshold = if self.passes { check.unhealthy_threshold } else { check.healthy_threshold };
        if self.against < threshold.max(1) {
            return None;
        }
        *self = Self { passes: passed, against: 0 };
        Some(passed)
    }
}

/// Why a check failed.
#[derive(Debug)]
enum Unwell {
    Late,
    Connect(std::io::Error),
    NoAnswer(String),
    Status(u16),
    Grpc(String),
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("no answer in time"),
            Self::Connect(error) => write!(f, "connect: {error}"),
            Self::NoAnswer(error) => write!(f, "no answer: {error}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Grpc(status) => write!(f, "grpc: {status}"),
        }
    }
}

impl From<hyper::Error> for Unwell {
    fn from(error: hyper::Error) -> Self {
        Self::NoAnswer(error.to_string())
    }
}

/// How an upstream's pods are asked.
struct Asks<'a> {
    /// The host, unless the check has its own.
    name: &'a str,
    /// As requests do.
    tls: Option<&'a Tls>,
}

impl<'a> Asks<'a> {
    fn of(site: &'a Site) -> Self {
        Self { name: site.host.to_str().unwrap_or("upstream"), tls: site.tls.as_ref() }
    }

    async fn connect(&self, address: SocketAddr, protocol: &[u8]) -> std::io::Result<TokioIo<Transport>> {
        let stream = TcpStream::connect(address).await?;
        Ok(TokioIo::new(match self.tls {
            Some(tls) => tls.connect_for(protocol, stream).await?,
            None => Transport::Tcp(stream),
        }))
    }
}

/// One check.
async fn ask(address: SocketAddr, kind: &CheckKind, asks: &Asks<'_>) -> Result<(), Unwell> {
    match kind {
        CheckKind::Tcp => TcpStream::connect(address).await.map(drop).map_err(Unwell::Connect),
        CheckKind::Http { path, host, expected_statuses } => {
            let mut request = request(Method::GET, path.clone(), Full::default())?;
            let host = host.clone().unwrap_or_else(|| asks.name.to_owned());
            request.headers_mut().insert(header::HOST, host.try_into().map_err(unsent)?);
            let io = asks.connect(address, b"http/1.1").await.map_err(Unwell::Connect)?;
            let (mut sender, connection) = http1::handshake(io).await?;
            // Ends with this check, be it in time or not.
            let mut driver = JoinSet::new();
            driver.spawn(async move { drop(connection.await) });
            let status = sender.send_request(request).await?.status().as_u16();
            if expected_statuses.contains(&status) { Ok(()) } else { Err(Unwell::Status(status)) }
        }
        CheckKind::Grpc { service } => {
            let uri = format!(
                "{}://{}/grpc.health.v1.Health/Check",
                if asks.tls.is_some() { "https" } else { "http" },
                asks.name
            );
            let mut request = request(Method::POST, uri, Full::from(question(service)))?;
            *request.version_mut() = Version::HTTP_2;
            let headers = request.headers_mut();
            headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
            headers.insert(header::TE, http::HeaderValue::from_static("trailers"));
            let io = asks.connect(address, b"h2").await.map_err(Unwell::Connect)?;
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            let mut driver = JoinSet::new();
            driver.spawn(async move { drop(connection.await) });
            grpc_answer(sender.send_request(request).await?).await
        }
    }
}

fn request(method: Method, uri: String, body: Full<Bytes>) -> Result<Request<Full<Bytes>>, Unwell> {
    let request = Request::builder().method(method).uri(uri).header(header::USER_AGENT, USER_AGENT);
    request.body(body).map_err(unsent)
}

fn unsent(error: impl fmt::Display) -> Unwell {
    Unwell::NoAnswer(format!("the check cannot be sent: {error}"))
}

async fn grpc_answer(response: http::Response<Incoming>) -> Result<(), Unwell> {
    let (head, body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(Unwell::Status(head.status.as_u16()));
    }
    let body =
        Limited::new(body, LONGEST).collect().await.map_err(|error| Unwell::NoAnswer(error.to_string()))?;
    let status = |headers: &HeaderMap| {
        headers.get("grpc-status").map(|status| String::from_utf8_lossy(status.as_bytes()).into_owned())
    };
    let trailers = body.trailers().and_then(status).or_else(|| status(&head.headers));
    match trailers.as_deref() {
        Some("0") => {}
        Some(code) => return Err(Unwell::Grpc(format!("status {code}"))),
        None => return Err(Unwell::Grpc("an answer without a status".to_owned())),
    }
    match serving_status(&body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(Unwell::Grpc(serving_name(other))),
        None => Err(Unwell::Grpc("an answer that is no HealthCheckResponse".to_owned())),
    }
}

fn serving_name(status: u64) -> String {
    let names = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
    let name = usize::try_from(status).ok().and_then(|status| names.get(status));
    name.map_or_else(|| format!("serving status {status}"), |name| (*name).to_owned())
}

/// `HealthCheckRequest { string service = 1 }` in gRPC's frame: a flag, four bytes of length, the message.
fn question(service: &str) -> Bytes {
    // A name is at most 253 bytes long; one that is longer is asked about as far as that.
    let service = service.as_bytes().get(..service.len().min(253)).unwrap_or_default();
    let mut message = Vec::with_capacity(service.len() + 3);
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        write_varint(&mut message, service.len());
        message.extend_from_slice(service);
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], &message].concat().into()
}

fn write_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

/// The status in a framed `HealthCheckResponse { ServingStatus status = 1 }`; 0 if it is not set, as protobuf has it.
fn serving_status(frame: &[u8]) -> Option<u64> {
    let (head, mut rest) = frame.split_at_checked(5)?;
    let length = head.get(1..).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes)?;
    if head.first() != Some(&0) || usize::try_from(length) != Ok(rest.len()) {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let key = read_varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = read_varint(&mut rest)?,
            (_, 0) => drop(read_varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(read_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(unhealthy_threshold: u32, healthy_threshold: u32) -> HealthCheck {
        HealthCheck {
            kind: CheckKind::Tcp,
            port: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy_threshold,
            healthy_threshold,
            jitter_percent: 20,
        }
    }

    #[test]
    fn one_bad_check_is_no_verdict_and_news_comes_once() {
        let mut tally = Tally::default();
        let mut count = |passed| tally.count(passed, &check(3, 2));
        let results =
            [false, false, true, false, false, false, false, true, false, true, true, true].map(&mut count);
        let expected = [None, None, None, None, None, Some(false), None, None, None, None, Some(true), None];
        assert_eq!(results, expected);
    }

    #[test]
    fn checks_of_many_sidecars_do_not_fall_into_step() {
        let check = check(1, 1);
        assert_eq!(pause(&check, 0.0), Duration::from_secs(8));
        assert_eq!(pause(&check, 0.5), Duration::from_secs(10));
        assert!(pause(&check, 0.99) < Duration::from_secs(12));
    }

    #[test]
    fn the_question_is_what_protoc_would_write() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = question(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01], "a length of two bytes");
    }

    #[test]
    fn the_answer_is_read_with_whatever_a_later_version_adds() {
        let framed = |message: &[u8]| {
            let length = u32::try_from(message.len()).unwrap();
            serving_status(&[&[0], &length.to_be_bytes()[..], message].concat())
        };
        assert_eq!(framed(&[8, 1]), Some(SERVING));
        assert_eq!(framed(&[8, 2]), Some(2));
        assert_eq!(framed(&[]), Some(0), "UNKNOWN is protobuf's default");
        assert_eq!(
            framed(&[0x12, 2, 9, 9, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1]),
            Some(SERVING)
        );
        for broken in
            [&[8_u8] as &[u8], &[0x12, 9, 1], &[8, 0x80], &[0x0b], &[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]]
        {
            assert_eq!(framed(broken), None, "{broken:?}");
        }
        assert_eq!(serving_status(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed, which nobody asked for");
        assert_eq!(serving_status(&[0, 0, 0, 0, 9, 8, 1]), None, "cut");
        assert_eq!(serving_name(2), "NOT_SERVING");
        assert_eq!(serving_name(9), "serving status 9");
    }

    const CLEAR: Asks<'_> = Asks { name: "web", tls: None };

    /// What a gRPC server says: its HTTP status, the message, the trailer.
    type Says = (u16, &'static [u8], Option<&'static str>);

    async fn grpc_says((status, message, trailer): Says) -> String {
        use std::convert::Infallible;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                assert_eq!(request.headers()["content-type"], "application/grpc");
                let asked = request.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(asked, question("db.Query"));
                let trailers = trailer.map(|code| {
                    HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())])
                });
                let body = Full::new(Bytes::from_static(message))
                    .with_trailers(std::future::ready(trailers.map(Ok)));
                Ok::<_, Infallible>(http::Response::builder().status(status).body(body).unwrap())
            });
            let io = TokioIo::new(stream);
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service)
                .await;
        });
        let kind = CheckKind::Grpc { service: "db.Query".to_owned() };
        ask(address, &kind, &CLEAR).await.map_or_else(|why| why.to_string(), |()| "passes".to_owned())
    }

    #[tokio::test]
    async fn a_grpc_server_passes_only_if_it_says_that_it_serves() {
        const YES: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
        assert_eq!(grpc_says((200, YES, Some("0"))).await, "passes");
        assert_eq!(grpc_says((200, &[0, 0, 0, 0, 2, 8, 2], Some("0"))).await, "grpc: NOT_SERVING");
        assert_eq!(grpc_says((200, &[0, 0, 0, 0, 0], Some("0"))).await, "grpc: UNKNOWN");
        assert_eq!(grpc_says((200, &[], Some("5"))).await, "grpc: status 5");
        assert_eq!(grpc_says((200, YES, None)).await, "grpc: an answer without a status");
        assert_eq!(
            grpc_says((200, b"what", Some("0"))).await,
            "grpc: an answer that is no HealthCheckResponse"
        );
        assert_eq!(grpc_says((503, &[], None)).await, "status 503");
        assert!(
            grpc_says((200, &[7; 5000], Some("0"))).await.starts_with("no answer: "),
            "no endless answer"
        );
    }

    #[tokio::test]
    async fn a_server_that_speaks_no_http_fails_and_is_not_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            use tokio::io::AsyncWriteExt;
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"SSH-2.0-x\r\n").await;
            }
        });
        let http = CheckKind::Http { path: "/".into(), host: None, expected_statuses: vec![200] };
        for kind in [http, CheckKind::Grpc { service: String::new() }] {
            assert!(ask(address, &kind, &CLEAR).await.is_err(), "{kind:?}");
        }
        assert!(ask(address, &CheckKind::Tcp, &CLEAR).await.is_ok());
        server.abort_all();
        while server.join_next().await.is_some() {}
        let refused = ask(address, &CheckKind::Tcp, &CLEAR).await.unwrap_err().to_string();
        assert!(refused.starts_with("connect: "), "{refused}");
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = serving_status(&bytes);
            let framed = [&[0, 0, 0, 0, u8::try_from(bytes.len()).unwrap()][..], &bytes].concat();
            let _ = serving_status(&framed);
        }
    }
}
