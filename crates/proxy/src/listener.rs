//! Accepting connections and giving each to the worker with the fewest.

use std::net::{SocketAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::connection;
use crate::downstream::Downstream;
use crate::limits::{self, Full, Permit};
use crate::memory::{self, Pressure};
use crate::worker::{Worker, spawn};

/// Pause after the system refused another connection (no descriptors, no memory).
const BACK_OFF: Duration = Duration::from_millis(100);

/// The least time between two warnings about too many connections.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// A connection on its way to another worker.
pub struct Handed {
    site: usize,
    stream: StdStream,
    remote: SocketAddr,
    counted: Counted,
    permit: Option<Permit>,
}

/// How many connections each worker has, and the way to it.
#[derive(Clone)]
pub struct Crew {
    workers: Arc<[Member]>,
}

struct Member {
    connections: AtomicUsize,
    inbox: mpsc::UnboundedSender<Handed>,
}

impl Crew {
    /// A crew of so many workers, and what each of them receives.
    #[must_use]
    pub fn new(size: usize) -> (Self, Vec<mpsc::UnboundedReceiver<Handed>>) {
        let (members, inboxes) = (0..size)
            .map(|_| {
                let (inbox, receiver) = mpsc::unbounded_channel();
                (Member { connections: AtomicUsize::new(0), inbox }, receiver)
            })
            .unzip::<_, _, Vec<_>, Vec<_>>();
        (Self { workers: members.into() }, inboxes)
    }

    /// The worker with the fewest connections; the first of several.
    fn least_busy(&self) -> usize {
        let loads = self.workers.iter().map(|member| member.connections.load(Relaxed));
        loads.enumerate().min_by_key(|(_, load)| *load).map_or(0, |(index, _)| index)
    }

    fn count(&self, index: usize) -> Counted {
        self.workers[index].connections.fetch_add(1, Relaxed);
        Counted { crew: self.clone(), index }
    }
}

/// Counts a connection for its worker until it is dropped.
struct Counted {
    crew: Crew,
    index: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.crew.workers[self.index].connections.fetch_sub(1, Relaxed);
    }
}

/// Accepts connections for one upstream, for as long as the first worker runs.
pub async fn accept(listener: TcpListener, site: usize, worker: Rc<Worker>, crew: Crew) {
    let mut warned = false;
    let mut full = TooMany::default();
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                warned = false;
                worker.shared.memory.grow(memory::CONNECTION);
                if worker.shared.memory.pressure() == Pressure::RefuseConnections {
                    continue;
                }
                match limits::enter(worker.shared.sites[site].limits.clients.as_ref()) {
                    Ok(permit) => hand_over(stream, remote, site, &worker, &crew, permit),
                    // One too many, which is closed at once. Metrics say how many were.
                    Err(Full) => full.say(&worker.shared.sites[site].config.name),
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(
                        upstream = %worker.shared.sites[site].config.name,
                        "cannot accept connections: {error}; trying again every {} ms (raise the limit on open files if this goes on)",
                        BACK_OFF.as_millis()
                    );
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// Says now and then that clients are turned away.
#[derive(Default)]
struct TooMany {
    said: Option<Instant>,
}

impl TooMany {
    fn say(&mut self, upstream: &str) {
        if self.said.is_some_and(|said| said.elapsed() < SAY_AGAIN) {
            return;
        }
        self.said = Some(Instant::now());
        tracing::warn!(
            upstream,
            "clients' connections are closed at once: limits.connections is reached; raise it if they are wanted"
        );
    }
}

/// Takes over the connections that the first worker accepted for this one.
pub async fn receive(mut inbox: mpsc::UnboundedReceiver<Handed>, worker: Rc<Worker>) {
    while let Some(Handed { site, stream, remote, counted, permit }) = inbox.recv().await {
        match TcpStream::from_std(stream) {
            Ok(stream) => start(stream, remote, site, &worker, (counted, permit)),
            Err(error) => tracing::warn!("a connection was lost between workers: {error}"),
        }
    }
}

fn hand_over(
    stream: TcpStream,
    remote: SocketAddr,
    site: usize,
    worker: &Rc<Worker>,
    crew: &Crew,
    permit: Option<Permit>,
) {
    let index = crew.least_busy();
    let counted = crew.count(index);
    if index == 0 {
        start(stream, remote, site, worker, (counted, permit));
        return;
    }
    match stream.into_std() {
        Ok(stream) => {
            let _ = crew.workers[index].inbox.send(Handed { site, stream, remote, counted, permit });
        }
        Err(error) => tracing::warn!("a connection was lost between workers: {error}"),
    }
}

/// `held` is dropped when the connection has ended.
fn start(
    stream: TcpStream,
    remote: SocketAddr,
    site: usize,
    worker: &Rc<Worker>,
    held: (Counted, Option<Permit>),
) {
    let site = Arc::clone(&worker.shared.sites[site]);
    let id = worker.shared.next_connection.fetch_add(1, Relaxed);
    let local = local_address(&stream, site.config.listen);
    let downstream = Rc::new(Downstream::new(id, remote, local));
    let watched = worker.watch(Rc::clone(&downstream), Arc::clone(&site));
    let worker = Rc::clone(worker);
    spawn(async move {
        connection::serve(worker, site, stream, downstream).await;
        drop((watched, held));
    });
}

/// Our end of a connection: asked for only where the listener's address does not say it.
fn local_address(stream: &TcpStream, listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() || listen.port() == 0 {
        stream.local_addr().unwrap_or(listen)
    } else {
        listen
    }
}

/// Errors of a connection that was gone before it was accepted, not of the listener.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted)
}
