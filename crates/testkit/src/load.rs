//! Closed-loop load: so many connections, each sends a request, checks the answer, sends the next.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::sync::lock;
use crate::tasks::ended;

/// What to send, and how much of it at a time.
#[derive(Clone)]
pub struct Load {
    target: SocketAddr,
    connections: usize,
    requests: Option<u64>,
    first_id: u64,
    method: Method,
    uri: Uri,
    host: HeaderValue,
    body: Bytes,
    pause: Duration,
    timeout: Duration,
    remember: bool,
    check: Check,
}

/// Says which pod an answer is from, or what is wrong with it.
pub type Check = Arc<dyn Fn(&Response<Bytes>) -> Result<String, String> + Send + Sync>;

/// What has come of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Answers that passed the check.
    pub ok: u64,
    /// Requests without an answer, or with a wrong one.
    pub failed: u64,
    /// Why requests failed, and how many for that reason.
    pub reasons: BTreeMap<String, u64>,
    /// How many answers came from each pod.
    pub pods: BTreeMap<String, u64>,
    /// The pod that answered each request, by the number in `x-request-id`.
    pub pod_of: HashMap<u64, String>,
    /// From the start to this report.
    pub elapsed: Duration,
}

/// A load under way; dropping it ends it.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    workers: JoinSet<()>,
}

struct Shared {
    load: Load,
    started: Instant,
    sent: AtomicU64,
    report: Mutex<Report>,
}

/// After a failed request, so that a dead target is not hammered.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);
/// How often one request may meet a connection that closed before it was sent.
const CONNECTS: usize = 3;

impl Load {
    /// `GET /` over one connection, without end, as fast as it is answered; the answer must be a
    /// [`Backend`](crate::backend::Backend)'s own name.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            connections: 1,
            requests: None,
            first_id: 0,
            method: Method::GET,
            uri: Uri::from_static("/"),
            host: HeaderValue::from_static("backend-service"),
            body: Bytes::new(),
            pause: Duration::ZERO,
            timeout: Duration::from_secs(30),
            remember: true,
            check: Arc::new(pod_that_answered),
        }
    }

    /// How many connections, each with one request at a time.
    #[must_use]
    pub fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// Ends after so many requests.
    #[must_use]
    pub fn requests(self, requests: u64) -> Self {
        Self { requests: Some(requests), ..self }
    }

    /// Numbers the requests from here on instead of from 0.
    #[must_use]
    pub fn first_id(self, first_id: u64) -> Self {
        Self { first_id, ..self }
    }

    /// Sends another method, path and body.
    #[must_use]
    pub fn send(self, method: Method, uri: Uri, body: impl Into<Bytes>) -> Self {
        Self { method, uri, body: body.into(), ..self }
    }

    /// Sends another `host` header.
    #[must_use]
    pub fn host(self, host: HeaderValue) -> Self {
        Self { host, ..self }
    }

    /// Waits this long after each answer.
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Gives a request up after this time (30 s unless told otherwise).
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Whether to remember the pod of each request (the default); switch it off for endless load.
    #[must_use]
    pub fn remember(self, remember: bool) -> Self {
        Self { remember, ..self }
    }

    /// Checks answers by another rule.
    #[must_use]
    pub fn check(self, check: Check) -> Self {
        Self { check, ..self }
    }

    /// Starts it on the current runtime.
    pub fn start(self) -> Running {
        let connections = self.connections;
        let shared = Arc::new(Shared {
            load: self,
            started: Instant::now(),
            sent: AtomicU64::new(0),
            report: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            workers.spawn(work(Arc::clone(&shared), stopped.clone()));
        }
        Running { shared, stop, workers }
    }

    /// Runs it to its end; without a number of [`requests`](Self::requests) that never comes.
    pub async fn run(self) -> Report {
        self.start().finish().await
    }
}

impl Running {
    /// What has come of it so far.
    pub fn report(&self) -> Report {
        self.shared.report()
    }

    /// Sends nothing more, waits for the answers that are still to come, and says what has come of it all.
    pub async fn stop(self) -> Report {
        self.stop.send_replace(true);
        self.finish().await
    }

    /// Waits until all requests are answered.
    pub async fn finish(mut self) -> Report {
        while let Some(over) = self.workers.join_next().await {
            ended(over);
        }
        self.shared.report()
    }
}

impl Shared {
    fn next_id(&self) -> Option<u64> {
        let index = self.sent.fetch_add(1, Relaxed);
        let more = self.load.requests.is_none_or(|requests| index < requests);
        more.then(|| self.load.first_id.wrapping_add(index))
    }

    fn record(&self, id: u64, result: Result<String, String>) {
        let mut report = lock(&self.report);
        match result {
            Ok(pod) => {
                report.ok += 1;
                if self.load.remember {
                    report.pod_of.insert(id, pod.clone());
                }
                *report.pods.entry(pod).or_default() += 1;
            }
            Err(reason) => {
                report.failed += 1;
                *report.reasons.entry(reason).or_default() += 1;
            }
        }
    }

    fn report(&self) -> Report {
        Report { elapsed: self.started.elapsed(), ..lock(&self.report).clone() }
    }

    fn request(&self, id: u64) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.load.body.clone()));
        *request.method_mut() = self.load.method.clone();
        *request.uri_mut() = self.load.uri.clone();
        request.headers_mut().insert(HOST, self.load.host.clone());
        request.headers_mut().insert("x-request-id", HeaderValue::from(id));
        request
    }
}

async fn work(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut connection = None;
    while !*stopped.borrow() {
        let Some(id) = shared.next_id() else { return };
        let limit = shared.load.timeout;
        let result = match timeout(limit, exchange(&shared, &mut connection, id)).await {
            Ok(answer) => answer.and_then(|answer| (shared.load.check)(&answer)),
            // The connection went with the request.
            Err(_) => Err(format!("no answer within {limit:?}")),
        };
        let pause =
            if result.is_ok() { shared.load.pause } else { shared.load.pause.max(PAUSE_AFTER_FAILURE) };
        shared.record(id, result);
        if !pause.is_zero() {
            // The end of the load ends the pause; so does the end of its owner.
            let _ = timeout(pause, stopped.wait_for(|stop| *stop)).await;
        }
    }
}

type Connection = SendRequest<Full<Bytes>>;

/// Sends one request and reads the answer whole. A connection that closed before anything was sent is replaced, as any
/// client does; whatever happens later is a failure.
async fn exchange(
    shared: &Shared,
    kept: &mut Option<Connection>,
    id: u64,
) -> Result<Response<Bytes>, String> {
    for _ in 0..CONNECTS {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => connect(shared.load.target).await?,
        };
        if connection.ready().await.is_err() {
            continue;
        }
        match connection.try_send_request(shared.request(id)).await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let body =
                    body.collect().await.map_err(|error| format!("within the answer: {}", chain(&error)))?;
                *kept = Some(connection);
                return Ok(Response::from_parts(head, body.to_bytes()));
            }
            Err(mut error) => {
                if error.take_message().is_none() {
                    return Err(format!("no answer: {}", chain(error.error())));
                }
            }
        }
    }
    Err(format!("{CONNECTS} connections closed before the request was sent"))
}

async fn connect(target: SocketAddr) -> Result<Connection, String> {
    let stream = TcpStream::connect(target).await.map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).map_err(|error| format!("connect: {error}"))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("connect: {}", chain(&error)))?;
    // Ends with its sender, or by itself; its errors come out at the request.
    tokio::spawn(connection);
    Ok(sender)
}

/// The default check: status 200, and body and `x-pod` (if there) name the same pod.
fn pod_that_answered(answer: &Response<Bytes>) -> Result<String, String> {
    let text = String::from_utf8_lossy(answer.body());
    if answer.status() != StatusCode::OK {
        return Err(format!("status {}: {}", answer.status().as_u16(), text.trim_end()));
    }
    let named = text.strip_prefix("i am backend in ").and_then(|rest| rest.strip_suffix('\n'));
    let pod = named.ok_or_else(|| format!("not a backend's answer: {text:?}"))?;
    match answer.headers().get("x-pod") {
        Some(header) if header.as_bytes() != pod.as_bytes() => {
            Err(format!("the body is from {pod:?}, the header x-pod from {header:?}"))
        }
        _ => Ok(pod.to_owned()),
    }
}

/// An error and its causes, as one text.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { target, connections, requests, method, uri, .. } = self;
        write!(f, "Load({method} {uri} to {target}, {connections} connections, {requests:?} requests)")
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.load.fmt(f)
    }
}
