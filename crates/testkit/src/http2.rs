//! A pod and a client that speak HTTP/2 in clear text, frame by frame where it matters.
//!
//! | path | the pod's answer |
//! |---|---|
//! | `/echo` | the request's body and trailers, while they come |
//! | `/headers` | the request's pseudo-headers and headers as JSON: each name with the list of its values |
//! | `/bytes/N` | so many bytes |
//! | `/reset/CODE` | none: the stream is reset with this code (of HTTP/2) |
//! | `/half/CODE` | a head, 3 bytes, and a reset with this code |
//! | `/hang` | none, ever |
//! | `/early` | who it is, before the request's body is read |
//! | `/grpc/N` | of a call: its message back, and trailers with the gRPC status N |
//! | `/grpc-only/N` | trailers only, with the gRPC status N |
//! | any other | who it is: `i am backend in NAME\n` |
//!
//! Every answer has the header `x-pod: NAME`.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::sync::lock;
use crate::tasks::{Tasks, accepted, ended};

/// A pod; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Http2Pod {
    address: SocketAddr,
    state: Arc<State>,
    _tasks: Tasks,
}

#[derive(Debug)]
struct State {
    name: String,
    streams: u32,
    requests: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    most_streams: AtomicUsize,
    running: AtomicUsize,
    refuse: AtomicBool,
    go_away: watch::Sender<usize>,
    request_ids: Mutex<Vec<String>>,
}

impl Http2Pod {
    /// Serves on this address; port 0 takes a free one. Takes 100 streams on a connection.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(name: &str, address: SocketAddr) -> io::Result<Self> {
        Self::start_with_streams(name, address, 100).await
    }

    /// Like [`start`](Self::start), with this limit of streams on a connection.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_with_streams(name: &str, address: SocketAddr, streams: u32) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            name: name.to_owned(),
            streams,
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_streams: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            refuse: AtomicBool::new(false),
            go_away: watch::Sender::new(0),
            request_ids: Mutex::default(),
        });
        let tasks = Tasks::start(accept(listener, Arc::clone(&state)));
        Ok(Self { address, state, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it calls itself.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// How many requests have come, refused ones among them.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Relaxed)
    }

    /// How many connections have come.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Relaxed)
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Relaxed)
    }

    /// How many requests run now.
    pub fn running(&self) -> usize {
        self.state.running.load(Relaxed)
    }

    /// The most requests that ever ran at a time.
    pub fn most_running(&self) -> usize {
        self.state.most_streams.load(Relaxed)
    }

    /// The `x-request-id` of every request that was taken.
    pub fn request_ids(&self) -> Vec<String> {
        lock(&self.state.request_ids).clone()
    }

    /// Whether every stream is refused (REFUSED_STREAM) from now on.
    pub fn refuse(&self, refuse: bool) {
        self.state.refuse.store(refuse, Relaxed);
    }

    /// Ends every connection as soon as its requests have ended, and says so (GOAWAY).
    pub fn go_away(&self) {
        self.state.go_away.send_modify(|times| *times += 1);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = accepted(&listener, &mut connections).await {
            let _ = stream.set_nodelay(true);
            let state = Arc::clone(&state);
            connections.spawn(async move {
                state.connections.fetch_add(1, Relaxed);
                state.open.fetch_add(1, Relaxed);
                // How a connection ends concerns only its client.
                let _ = serve(stream, &state).await;
                state.open.fetch_sub(1, Relaxed);
            });
        }
    }
}

async fn serve(stream: TcpStream, state: &Arc<State>) -> Result<(), h2::Error> {
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(state.streams).initial_window_size(1 << 20);
    let mut connection = settings.initial_connection_window_size(1 << 20).handshake(stream).await?;
    let mut leaving = state.go_away.subscribe();
    leaving.mark_unchanged();
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond) = accepted?;
                streams.spawn(answer(Arc::clone(state), request, respond));
            }
            Ok(()) = leaving.changed() => connection.graceful_shutdown(),
            Some(over) = streams.join_next() => ended(over),
        }
    }
}

/// Counts a request for as long as it runs.
struct Running(Arc<State>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

async fn answer(state: Arc<State>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    state.requests.fetch_add(1, Relaxed);
    if state.refuse.load(Relaxed) {
        return respond.send_reset(Reason::REFUSED_STREAM);
    }
    let running = state.running.fetch_add(1, Relaxed) + 1;
    state.most_streams.fetch_max(running, Relaxed);
    let _running = Running(Arc::clone(&state));
    if let Some(id) = request.headers().get("x-request-id") {
        lock(&state.request_ids).push(String::from_utf8_lossy(id.as_bytes()).into_owned());
    }
    // A client that leaves ends the answer; the client's side has the assertions.
    let _ = play(&state, request, &mut respond).await;
}

async fn play(
    state: &State,
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let (route, number) = match path[1..].split_once('/') {
        Some((route, number)) => (route, number.parse::<u32>().unwrap_or_default()),
        None => (&path[1..], 0),
    };
    let mut response = Response::new(());
    if let Ok(name) = HeaderValue::from_str(&state.name) {
        response.headers_mut().insert("x-pod", name);
    }
    let identity = Bytes::from(format!("i am backend in {}\n", state.name));
    match route {
        "reset" => respond.send_reset(number.into()),
        "hang" => std::future::poll_fn(|cx| respond.poll_reset(cx)).await.map(drop)?,
        "half" => {
            let mut stream = respond.send_response(response, false)?;
            stream.send_data(Bytes::from_static(b"abc"), false)?;
            while body.data().await.transpose()?.is_some() {}
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            stream.send_reset(number.into());
        }
        "echo" => {
            let mut stream = respond.send_response(response, false)?;
            while let Some(data) = body.data().await.transpose()? {
                body.flow_control().release_capacity(data.len())?;
                send(&mut stream, data).await?;
            }
            end(&mut stream, body.trailers().await?)?;
        }
        "bytes" => {
            let mut stream = respond.send_response(response, false)?;
            let piece = Bytes::from(vec![b'x'; 1 << 14]);
            let mut left = number as usize;
            while left > 0 {
                let size = left.min(piece.len());
                send(&mut stream, piece.slice(..size)).await?;
                left -= size;
            }
            end(&mut stream, None)?;
        }
        "grpc" | "grpc-only" => {
            let message = whole(&mut body).await?;
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            if route == "grpc-only" {
                response.headers_mut().insert("grpc-status", HeaderValue::from(number));
                respond.send_response(response, true)?;
            } else {
                let mut stream = respond.send_response(response, false)?;
                send(&mut stream, message).await?;
                let trailers = HeaderMap::from_iter([(
                    http::HeaderName::from_static("grpc-status"),
                    HeaderValue::from(number),
                )]);
                end(&mut stream, Some(trailers))?;
            }
        }
        "early" => {
            let mut stream = respond.send_response(response, false)?;
            send(&mut stream, identity).await?;
            end(&mut stream, None)?;
        }
        "headers" => {
            whole(&mut body).await?;
            let mut stream = respond.send_response(response, false)?;
            send(&mut stream, Bytes::from(seen(&head).to_string())).await?;
            end(&mut stream, None)?;
        }
        _ => {
            whole(&mut body).await?;
            let mut stream = respond.send_response(response, false)?;
            send(&mut stream, identity).await?;
            end(&mut stream, None)?;
        }
    }
    Ok(())
}

fn seen(head: &http::request::Parts) -> Value {
    let mut all = Map::new();
    all.insert(":method".into(), json!([head.method.as_str()]));
    all.insert(":path".into(), json!([head.uri.path_and_query().map(PathAndQuery::as_str)]));
    if let Some(authority) = head.uri.authority() {
        all.insert(":authority".into(), json!([authority.as_str()]));
    }
    for name in head.headers.keys() {
        let values = head.headers.get_all(name).iter();
        let values = values.map(|value| Value::from(String::from_utf8_lossy(value.as_bytes())));
        all.insert(name.to_string(), values.collect());
    }
    Value::Object(all)
}

async fn whole(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await.transpose()? {
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all.into())
}

/// Sends as the other side's window allows.
///
/// # Errors
/// When the stream or its connection is over.
pub async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.transpose()?;
        let Some(room) = room else { return Err(Reason::STREAM_CLOSED.into()) };
        stream.send_data(data.split_to(room.min(data.len())), false)?;
    }
    Ok(())
}

fn end(stream: &mut SendStream<Bytes>, trailers: Option<HeaderMap>) -> Result<(), h2::Error> {
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None => stream.send_data(Bytes::new(), true),
    }
}

/// A client's connection; streams can run beside each other.
#[derive(Debug, Clone)]
pub struct Http2Client {
    sender: h2::client::SendRequest<Bytes>,
}

/// One response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2Response {
    /// The status code.
    pub status: u16,
    /// Without pseudo-headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// What came after the body.
    pub trailers: Option<HeaderMap>,
}

impl Http2Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody accepts.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
        // How it ends shows in the streams.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender })
    }

    /// Sends a request and its whole body, and reads the whole response.
    ///
    /// # Errors
    /// How the stream or its connection ended.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Http2Response, h2::Error> {
        let (head, body) = request.into_parts();
        let (response, mut stream) = self.begin(Request::from_parts(head, ()), body.is_empty()).await?;
        if !body.is_empty() {
            send(&mut stream, body).await?;
            end(&mut stream, None)?;
        }
        let (head, mut body) = response.await?.into_parts();
        let bytes = whole(&mut body).await?;
        let trailers = body.trailers().await?;
        Ok(Http2Response { status: head.status.as_u16(), headers: head.headers, body: bytes, trailers })
    }

    /// Sends a head, as soon as the other side takes another stream.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn begin(
        &self,
        head: Request<()>,
        ends: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.sender.clone().ready().await?.send_request(head, ends)
    }

    /// False once the other side has said that it takes no more streams, or has ended the connection.
    pub fn is_open(&self) -> bool {
        let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
        !matches!(self.sender.clone().poll_ready(cx), std::task::Poll::Ready(Err(_)))
    }

    /// `GET path`.
    ///
    /// # Errors
    /// How the stream or its connection ended.
    pub async fn get(&self, path: &str) -> Result<Http2Response, h2::Error> {
        self.send(request("GET", path, &[], "")).await
    }

    /// A gRPC call of one message.
    ///
    /// # Errors
    /// How the stream or its connection ended.
    pub async fn call(&self, path: &str, fields: &[(&str, &str)]) -> Result<Http2Response, h2::Error> {
        let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
        all.extend_from_slice(fields);
        self.send(request("POST", path, &all, "\0\0\0\0\u{2}hi")).await
    }
}

impl Http2Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, or a trailer, as text.
    pub fn field(&self, name: &str) -> Option<&str> {
        let trailer = || self.trailers.as_ref()?.get(name);
        self.headers.get(name).or_else(trailer)?.to_str().ok()
    }
}

/// A request to `backend-service`; what cannot be one is none.
#[must_use]
pub fn request(method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Request<Bytes> {
    let mut builder = Request::builder().method(method).uri(format!("http://backend-service{path}"));
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(Bytes::from(body.to_owned())).unwrap_or_default()
}
