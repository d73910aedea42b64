//! A well-behaved HTTP/1.1 backend that says who it is.
//!
//! | path | answer |
//! |---|---|
//! | `/echo` | the request's body |
//! | `/headers` | the request's headers as JSON: each name with the list of its values |
//! | `/delay/MS` | who it is, after so many milliseconds |
//! | `/held` | who it is, once [`Backend::release`] is called |
//! | `/status/N` | who it is, with this status |
//! | `/bytes/N` | so many bytes with a `content-length`; byte `i` is [`byte_at`]`(i)` |
//! | `/chunks/N` | so many chunks `chunk I\n`, I from 0 |
//! | `/trailers` | who it is, chunked, with a trailer `x-trailer: NAME` (written only for `TE: trailers`) |
//! | any other | who it is: `i am backend in NAME\n` |
//!
//! Every answer has the header `x-pod: NAME`.

mod routes;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::sync::lock;
use crate::tasks::{Tasks, accepted, ended};

pub use routes::byte_at;

/// A backend; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    state: Arc<State>,
    /// Every task holds a receiver, so the backend has ended when there is none left.
    phase: watch::Sender<Phase>,
    _tasks: Tasks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Stopping,
    Killed,
}

/// What the backend is called and what it has counted.
#[derive(Debug)]
struct State {
    name: HeaderValue,
    requests: AtomicUsize,
    connections: AtomicUsize,
    remember: AtomicBool,
    released: watch::Sender<bool>,
    request_ids: Mutex<HashMap<String, usize>>,
}

/// After a failed accept, so that a lasting one does not spin.
const PAUSE: Duration = Duration::from_millis(10);

impl Backend {
    /// Serves on this address; port 0 takes a free one. Several backends can have one port on different loopback
    /// addresses, as pods do: see [`free_port`].
    ///
    /// # Errors
    /// When the address cannot be bound, or the name cannot be a header's value.
    pub async fn start(name: &str, address: SocketAddr) -> io::Result<Self> {
        let name = HeaderValue::from_str(name).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("backend name {name:?}: {error}"))
        })?;
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            name,
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            remember: AtomicBool::new(true),
            released: watch::Sender::new(false),
            request_ids: Mutex::default(),
        });
        let (phase, receiver) = watch::channel(Phase::Running);
        let tasks = Tasks::start(accept(listener, Arc::clone(&state), receiver));
        Ok(Self { address, state, phase, _tasks: tasks })
    }

    /// Where it listens, or listened.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it calls itself.
    pub fn name(&self) -> &str {
        self.state.name()
    }

    /// How many requests have come, by their heads.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Relaxed)
    }

    /// How many connections have come.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Relaxed)
    }

    /// How often each `x-request-id` has come.
    pub fn request_ids(&self) -> HashMap<String, usize> {
        lock(&self.state.request_ids).clone()
    }

    /// Whether request ids are remembered (the default); switch it off for endless load.
    pub fn remember_request_ids(&self, remember: bool) {
        self.state.remember.store(remember, Relaxed);
    }

    /// Answers the requests for `/held`, and all that are still to come.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// Stops as a pod should: closes the port and idle connections, lets requests finish, and returns when all have.
    pub async fn stop(&self) {
        self.phase.send_if_modified(|phase| {
            let running = *phase == Phase::Running;
            if running {
                *phase = Phase::Stopping;
            }
            running
        });
        self.phase.closed().await;
    }

    /// Stops as a pod does whose node fails: closes the port and resets all connections. Returns when that is done.
    pub async fn kill(&self) {
        self.phase.send_replace(Phase::Killed);
        self.phase.closed().await;
    }
}

impl State {
    /// Made of a `str`, so it is one.
    fn name(&self) -> &str {
        self.name.to_str().unwrap_or_default()
    }

    fn count(&self, request_id: Option<&HeaderValue>) {
        self.requests.fetch_add(1, Relaxed);
        if let Some(id) = request_id.filter(|_| self.remember.load(Relaxed)) {
            let id = String::from_utf8_lossy(id.as_bytes()).into_owned();
            *lock(&self.request_ids).entry(id).or_default() += 1;
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, mut phase: watch::Receiver<Phase>) {
    let mut connections = JoinSet::new();
    let over = phase.clone();
    loop {
        let accepted = tokio::select! {
            _ = phase.wait_for(|phase| *phase != Phase::Running) => break,
            accepted = accepted(&listener, &mut connections) => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                state.connections.fetch_add(1, Relaxed);
                connections.spawn(serve(stream, Arc::clone(&state), over.clone()));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    drop(listener);
    while let Some(over) = connections.join_next().await {
        ended(over);
    }
}

async fn serve(stream: TcpStream, state: Arc<State>, mut phase: watch::Receiver<Phase>) {
    // Only latency suffers if this fails.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| routes::answer(Arc::clone(&state), request));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    loop {
        let now = *phase.borrow_and_update();
        match now {
            Phase::Running => {}
            Phase::Stopping => Pin::new(&mut connection).graceful_shutdown(),
            Phase::Killed => return reset(&connection.into_parts().io.into_inner()),
        }
        tokio::select! {
            // How a connection ends concerns only its client.
            _ = &mut connection => return,
            changed = phase.changed() => if changed.is_err() { return },
        }
    }
}

/// Lets the connection end with a reset (RST) when it is dropped.
pub(crate) fn reset(stream: &TcpStream) {
    // It can fail only if the connection is gone already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// A TCP port that is free on all of these addresses at this moment.
///
/// # Errors
/// When an address is not of this machine, or no common port was found.
pub fn free_port(addresses: &[IpAddr]) -> io::Result<u16> {
    const ATTEMPTS: usize = 64;
    let first = addresses.first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    for _ in 0..ATTEMPTS {
        let listener = StdListener::bind((first, 0))?;
        let port = listener.local_addr()?.port();
        let others: io::Result<Vec<_>> =
            addresses.iter().skip(1).map(|address| StdListener::bind((*address, port))).collect();
        match others {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("no port is free on all of {addresses:?}; close some listeners"),
    ))
}
