//! A worker: one thread with its own connections, pools and log buffer, so that requests share no lock.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep};
use whichpod_access_log::{Filter, Format, Record, WorkerLog};
use whichpod_config::Timeouts;

use crate::downstream::{Downstream, Over, Phase};
use crate::http2;
use crate::limits::{Gate, Permit};
use crate::memory;
use crate::pool::{Pool, REST};
use crate::site::Site;
use crate::upstream_connection::UpstreamConnection;

/// A line waits at most this long in the worker's buffer.
const FLUSH: Duration = Duration::from_millis(100);
/// So many bytes pass through a tunnel at a time.
const PASS: usize = 64 * 1024;
/// So many sweeps after a connection has come to rest, what it held is given back: the allocator waits a while itself.
const TIDYING: u32 = 20;
/// How often deadlines of connections are looked at: one timer a worker instead of one a connection.
const SWEEP: Duration = Duration::from_millis(500);
/// While memory is short, heads and idle connections have only this long: their requests would get no more than 503.
const PATIENCE: [(Phase, Duration); 2] = [(Phase::Head, memory::LOOK), (Phase::Idle, Duration::from_secs(1))];

/// What all workers share.
pub struct Shared {
    /// The upstreams.
    pub sites: Vec<Arc<Site>>,
    /// The access log's format.
    pub format: Format,
    /// Which lines are written.
    pub filter: Filter,
    /// Number of the next connection.
    pub next_connection: AtomicU64,
    /// Number of the next request.
    pub next_request: AtomicU64,
    /// Whether memory runs short.
    pub memory: memory::Gauge,
    draining: AtomicBool,
}

impl Shared {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(sites: Vec<Arc<Site>>, format: Format, filter: Filter, memory: memory::Gauge) -> Self {
        Self {
            sites,
            format,
            filter,
            next_connection: AtomicU64::new(1),
            next_request: AtomicU64::new(1),
            memory,
            draining: AtomicBool::new(false),
        }
    }

    /// From now on every response asks its client to close the connection.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// True once the process is about to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Requests that run now, on all workers.
    #[must_use]
    pub fn requests_active(&self) -> u64 {
        self.sites.iter().map(|site| site.stats.requests_active.load(Relaxed)).sum()
    }

    /// TCP connections and tunnels that somebody waits for, on all workers.
    #[must_use]
    pub fn tunnels_wanted(&self) -> u64 {
        self.sites.iter().map(|site| site.stats.tunnels_wanted.load(Relaxed)).sum()
    }

    /// Clients' connections that have not taken all of their responses, on all workers.
    #[must_use]
    pub fn connections_blocked(&self) -> u64 {
        self.sites.iter().map(|site| site.stats.downstream_blocked.load(Relaxed)).sum()
    }

    /// Clients' connections that are open now, on all workers.
    #[must_use]
    pub fn connections_active(&self) -> u64 {
        self.sites.iter().map(|site| site.stats.downstream_active.load(Relaxed)).sum()
    }
}

/// One worker's own state.
pub struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Idle connections to pods.
    pub pool: RefCell<Pool>,
    /// HTTP/2 connections to pods.
    pub http2: Rc<RefCell<http2::Connections>>,
    /// What passes through a tunnel is in here for a moment.
    pub buffer: RefCell<Box<[u8]>>,
    /// Limits on connections that requests of this worker wait for.
    waited_for: RefCell<Vec<Arc<Gate>>>,
    /// Wakes those requests when a connection becomes idle.
    returned: Notify,
    log: RefCell<WorkerLog>,
    log_has_lines: Notify,
    connections: RefCell<HashMap<u64, (Rc<Downstream>, Timeouts)>>,
    needs_sweeping: Notify,
    sweeping: Cell<bool>,
    /// Reads that wait for memory.
    paused: RefCell<Vec<Waker>>,
}

impl Worker {
    /// A worker without connections.
    #[must_use]
    pub fn new(shared: Arc<Shared>, log: WorkerLog) -> Self {
        Self {
            shared,
            pool: RefCell::default(),
            http2: Rc::default(),
            buffer: RefCell::new(vec![0; PASS].into()),
            waited_for: RefCell::default(),
            returned: Notify::new(),
            log: RefCell::new(log),
            log_has_lines: Notify::new(),
            connections: RefCell::default(),
            needs_sweeping: Notify::new(),
            sweeping: Cell::new(false),
            paused: RefCell::default(),
        }
    }

    /// Watches a client's connection until the guard is dropped.
    pub fn watch(self: &Rc<Self>, downstream: Rc<Downstream>, site: Arc<Site>) -> Watched {
        site.stats.downstream_total.fetch_add(1, Relaxed);
        site.stats.downstream_active.fetch_add(1, Relaxed);
        let id = downstream.id;
        self.connections.borrow_mut().insert(id, (downstream, site.config.timeouts));
        self.start_sweeping();
        Watched { worker: Rc::clone(self), site, id }
    }

    /// Keeps a connection to a pod for another request, or closes it where that cannot be.
    pub fn keep(&self, connection: Box<UpstreamConnection>) {
        if let Some(gate) =
            connection.peer.permit.as_ref().map(Permit::gate).filter(|gate| gate.is_waited_for())
        {
            if !self.waited_for.borrow().iter().any(|waited| Arc::ptr_eq(waited, gate)) {
                // Another worker waits for its place.
                return;
            }
            self.returned.notify_waiters();
        }
        self.pool.borrow_mut().put(connection);
        self.start_sweeping();
    }

    /// Keeps an HTTP/2 connection to a pod for all streams to it.
    pub fn share(&self, connection: Rc<http2::Connection>) {
        self.http2.borrow_mut().put(connection);
        self.start_sweeping();
    }

    /// Closes all connections to pods: each holds its worker, too.
    pub fn close(&self) {
        drop(self.pool.take());
        drop(self.http2.take());
    }

    /// Closes idle connections to pods that are gone; HTTP/2 connections end with their last stream.
    pub fn drop_gone(&self) {
        self.pool.borrow_mut().drop_gone();
        self.http2.borrow_mut().sweep();
    }

    /// A request of this worker waits for this limit on connections, until the guard is dropped.
    pub fn wait_for(&self, gate: &Arc<Gate>) -> WaitsHere<'_> {
        self.waited_for.borrow_mut().push(Arc::clone(gate));
        WaitsHere { worker: self, gate: Arc::clone(gate) }
    }

    /// Writes a line, to be handed on within [`FLUSH`].
    pub fn write_line(&self, record: &Record) {
        let first = self.log.borrow_mut().write(&self.shared.format, &self.shared.filter, record);
        if first {
            self.log_has_lines.notify_one();
        }
    }

    /// Hands all lines on now; true if the writer has no room for them at the moment.
    pub fn flush_log(&self) -> bool {
        self.log.borrow_mut().flush()
    }

    /// Hands lines on in time; runs for as long as the worker.
    pub async fn flush_in_time(&self) {
        loop {
            self.log_has_lines.notified().await;
            loop {
                sleep(FLUSH).await;
                if !self.flush_log() {
                    break;
                }
            }
        }
    }

    /// Ends connections whose time is over; runs for as long as the worker, and sleeps while there are none.
    pub async fn sweep(&self) {
        let mut tidying = 0_u32;
        loop {
            let pods = self.pool.borrow().is_empty() && self.http2.borrow().is_empty();
            if self.connections.borrow().is_empty() && pods {
                self.sweeping.set(false);
                self.needs_sweeping.notified().await;
            }
            sleep(if self.shared.memory.is_short() { memory::LOOK } else { SWEEP }).await;
            let mut rested = self.expire_clients(Instant::now());
            self.paused.take().into_iter().for_each(Waker::wake);
            self.http2.borrow_mut().sweep();
            rested |= poll_fn(|cx| Poll::Ready(self.pool.borrow_mut().sweep(cx))).await;
            tidying = if rested { TIDYING } else { tidying.saturating_sub(1) };
            if tidying > 0 {
                memory::give_back();
            }
        }
    }

    /// Wakes at the next sweep who waits for memory.
    pub fn wake_at_sweep(&self, waker: &Waker) {
        self.paused.borrow_mut().push(waker.clone());
    }

    fn start_sweeping(&self) {
        if !self.sweeping.replace(true) {
            self.needs_sweeping.notify_one();
        }
    }

    /// True if one of them is to rest from now on.
    fn expire_clients(&self, now: Instant) -> bool {
        let mut rested = false;
        let pressure = self.shared.memory.pressure();
        let draining = self.shared.is_draining();
        for (downstream, timeouts) in self.connections.borrow().values() {
            if draining {
                downstream.leave();
            }
            let (phase, since) = downstream.phase();
            let limit = match phase {
                Phase::Idle => timeouts.downstream_idle,
                Phase::Head => timeouts.head,
                Phase::Busy => None,
            };
            let age = now.duration_since(since);
            if limit.is_some_and(|limit| age >= limit) {
                downstream.end(Over::Time);
            } else if downstream.gives_way(pressure)
                && PATIENCE.iter().any(|(waits, patience)| *waits == phase && age >= *patience)
            {
                downstream.end(Over::Memory);
            } else if phase == Phase::Idle && age >= REST {
                rested |= downstream.rest();
            } else {
                downstream.wake_long(now);
            }
        }
        rested
    }
}

/// A request that waits for a connection.
pub struct WaitsHere<'a> {
    worker: &'a Worker,
    gate: Arc<Gate>,
}

impl WaitsHere<'_> {
    /// Until a connection becomes idle on this worker; those count that do from now on.
    pub fn returned(&self) -> Notified<'_> {
        self.worker.returned.notified()
    }
}

impl Drop for WaitsHere<'_> {
    fn drop(&mut self) {
        let mut waited_for = self.worker.waited_for.borrow_mut();
        if let Some(at) = waited_for.iter().position(|gate| Arc::ptr_eq(gate, &self.gate)) {
            waited_for.swap_remove(at);
        }
    }
}

/// A client's connection that is being watched.
pub struct Watched {
    worker: Rc<Worker>,
    site: Arc<Site>,
    id: u64,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.id);
        self.site.stats.downstream_active.fetch_sub(1, Relaxed);
    }
}

/// Runs a task beside the requests of this worker, for as long as the worker runs.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    // Outside of a worker's runtime, as at its very end, there is nobody left to run it for.
    if tokio::runtime::Handle::try_current().is_ok() {
        drop(tokio::task::spawn_local(task));
    }
}

/// Like [`spawn`], for a task that may have to end before its end.
pub fn spawn_abortable(task: impl Future<Output = ()> + 'static) -> Option<tokio::task::AbortHandle> {
    tokio::runtime::Handle::try_current().ok().map(|_| tokio::task::spawn_local(task).abort_handle())
}
