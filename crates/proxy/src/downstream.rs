//! A client's connection, as its requests, its socket and the worker's sweep see it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, SystemTime};

use slab::Slab;
use tokio::time::Instant;
use whichpod_access_log::Record;
use whichpod_protocols::error::{Broken, Failure, HEAD_TIMEOUT, Verdict, verdict};

use crate::body::BodyProgress;
use crate::memory::Pressure;
use crate::pool::REST;
use crate::site::Site;
use crate::tunnel::Switched;

/// What a client's connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Between requests.
    Idle,
    /// The first byte of a head has come, the rest has not.
    Head,
    /// A request is running.
    Busy,
}

/// Why a client's connection is ended here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Its time is over.
    Time,
    /// Memory is short.
    Memory,
}

/// A client's connection, as its requests and the worker's sweep see it.
pub struct Downstream {
    /// Number of the connection in this process.
    pub id: u64,
    /// The client.
    pub remote: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// When it was accepted.
    pub accepted: Instant,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    over: Cell<Option<Over>>,
    reset: Cell<bool>,
    /// The last request's body, which may go on after its response.
    body: RefCell<Option<Rc<BodyProgress>>>,
    reader: RefCell<Option<Waker>>,
    /// Requests that run now; more than one only over HTTP/2.
    running: Cell<usize>,
    multiplexed: Cell<bool>,
    /// Over HTTP/2: since when a head is not complete, beside whatever else goes on.
    head_since: Cell<Option<Instant>>,
    tunnel: Cell<bool>,
    leaving: Cell<bool>,
    /// The client does not take what is there for it.
    blocked: Cell<bool>,
    /// Over HTTP/1: when the running request's time is over.
    due: Cell<Option<Instant>>,
    /// The response was broken off, because the client has taken nothing of it for too long.
    stalled: Cell<Option<Broken>>,
    may_rest: Cell<bool>,
    /// Something is [`LONG`] open.
    long: Cell<bool>,
    /// Over HTTP/2: who waits, and since when its request runs. Over HTTP/1 it is who reads from the socket.
    waiting: RefCell<Slab<(Instant, Option<Waker>)>>,
    requests: Cell<usize>,
    resets: Cell<usize>,
    /// What the connection becomes when the response is out.
    switched: RefCell<Option<Switched>>,
}

/// What is open for this long gets a line, so that the pod of a database or of a stream is known while it is used.
pub const LONG: Duration = Duration::from_secs(10);

/// Of this many requests, and of more, at most half may have been reset by the client before it had an answer and within
/// [`HASTE`]: what Envoy allows. Every one costs a pod work, and the client next to nothing.
const RESETS: usize = 500;
/// A client that waits for longer than this means its request.
const HASTE: Duration = Duration::from_secs(1);

impl Downstream {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(id: u64, remote: SocketAddr, local: SocketAddr) -> Self {
        let now = Instant::now();
        Self {
            id,
            remote,
            local,
            accepted: now,
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            over: Cell::new(None),
            reset: Cell::new(false),
            body: RefCell::new(None),
            reader: RefCell::new(None),
            running: Cell::new(0),
            multiplexed: Cell::new(false),
            head_since: Cell::new(None),
            tunnel: Cell::new(false),
            leaving: Cell::new(false),
            blocked: Cell::new(false),
            due: Cell::new(None),
            stalled: Cell::new(None),
            may_rest: Cell::new(false),
            long: Cell::new(false),
            waiting: RefCell::default(),
            requests: Cell::new(0),
            resets: Cell::new(0),
            switched: RefCell::new(None),
        }
    }

    /// What the connection is doing, and since when.
    #[must_use]
    pub fn phase(&self) -> (Phase, Instant) {
        if let Some(since) = self.head_since.get() {
            return (Phase::Head, since);
        }
        let arriving = self.body.borrow().as_ref().is_some_and(|body| !body.is_over());
        (if arriving { Phase::Busy } else { self.phase.get() }, self.since.get())
    }

    /// A line of this connection, in which nothing else is known yet.
    #[must_use]
    pub fn record(&self, site: &Site, start: SystemTime) -> Record {
        let mut record = Record::new(start);
        record.downstream_remote = Some(self.remote);
        record.downstream_local = Some(self.local);
        record.connection_id = Some(self.id);
        record.upstream = Some(Arc::clone(&site.config.name));
        record
    }

    /// The first byte of a head has come.
    pub fn begin_head(&self) {
        self.phase.set(Phase::Head);
        self.since.set(Instant::now());
    }

    /// A head is complete; returns when its first byte came.
    pub fn begin_request(&self) -> Instant {
        // A pipelined head came with the bytes before it: its time starts now.
        let started = match self.phase.replace(Phase::Busy) {
            Phase::Head => self.since.get(),
            Phase::Idle | Phase::Busy => Instant::now(),
        };
        self.running.set(self.running.get() + 1);
        self.since.set(started);
        self.long.set(self.long.get() && self.multiplexed.get());
        self.due.set(None);
        self.body.take();
        started
    }

    /// The response is complete: the connection is idle from now on, or once the request's body is.
    pub fn end_request(&self, now: Instant, body: Option<Rc<BodyProgress>>) {
        let others = self.running.get().saturating_sub(1);
        self.running.set(others);
        if others > 0 {
            return;
        }
        self.phase.set(Phase::Idle);
        self.since.set(now);
        if !self.multiplexed.get() {
            self.body.replace(body);
        }
    }

    /// From now on requests run beside each other (HTTP/2), and what is read may be no head at all.
    pub fn multiplex(&self) {
        self.multiplexed.set(true);
        if self.running.get() == 0 {
            self.phase.set(Phase::Idle);
        }
    }

    /// Whether a head is not complete now, over HTTP/2.
    pub fn set_in_head(&self, in_head: bool) {
        let since = self.head_since.get();
        if in_head != since.is_some() {
            self.head_since.set(in_head.then(Instant::now));
        }
    }

    /// True if it may be ended, or should not grow, while memory is that short: where a request runs beside a head that is
    /// not complete, only at the last.
    #[must_use]
    pub fn gives_way(&self, pressure: Pressure) -> bool {
        match pressure {
            Pressure::None => false,
            Pressure::ShedRequests => self.running.get() == 0,
            Pressure::RefuseConnections => true,
        }
    }

    /// From now on bytes pass through, whatever they mean.
    pub fn becomes_tunnel(&self) {
        self.tunnel.set(true);
    }

    /// True if what is read now is a body, over HTTP/1.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        !self.multiplexed.get() && !self.tunnel.get() && self.phase().0 == Phase::Busy
    }

    /// True over HTTP/2.
    #[must_use]
    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed.get()
    }

    /// Lets an HTTP/2 connection end as soon as its requests have (GOAWAY).
    pub fn leave(&self) {
        if self.multiplexed.get() && !self.leaving.replace(true) {
            self.wake();
        }
    }

    /// True once [`Self::leave`] was called.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// A request over HTTP/2 ended; `abandoned`: the client reset it before it had an answer.
    pub fn count(&self, abandoned: bool, after: Duration) {
        self.requests.set(self.requests.get() + 1);
        if abandoned && after < HASTE {
            self.resets.set(self.resets.get() + 1);
            if self.is_abusive() {
                self.wake();
            }
        }
    }

    /// True if the client resets its requests too often.
    #[must_use]
    pub fn is_abusive(&self) -> bool {
        self.resets.get() * 2 > self.requests.get().max(RESETS)
    }

    /// Who reads from the socket: woken when the connection is to end, or to rest.
    pub fn read_by(&self, waker: &Waker) {
        let mut reader = self.reader.borrow_mut();
        if !reader.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *reader = Some(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    /// The connection becomes a tunnel when the response is out.
    pub fn switch(&self, switched: Switched) {
        self.switched.replace(Some(switched));
    }

    /// The pod's end of the tunnel that the connection has become.
    #[must_use]
    pub fn take_switched(&self) -> Option<Switched> {
        self.switched.take()
    }

    /// Nothing was heard of the client for long: its connection is to give back the memory that it has no use for. True if
    /// it was not told before.
    pub fn rest(&self) -> bool {
        let new = !self.multiplexed.get() && !self.may_rest.replace(true);
        if new {
            self.wake();
        }
        new
    }

    /// True once after [`Self::rest`], if nothing goes on now.
    #[must_use]
    pub fn rests(&self) -> bool {
        if !self.may_rest.get() || self.phase().0 != Phase::Idle || self.blocked.get() {
            return false;
        }
        self.may_rest.set(false);
        self.since.get().elapsed() >= REST
    }

    /// Ends the connection at its next read, which is made to happen now.
    pub fn end(&self, why: Over) {
        self.over.set(Some(why));
        self.wake();
    }

    /// Ends the connection for want of memory, at the read that is made now.
    pub fn cut(&self) {
        self.over.set(Some(Over::Memory));
    }

    /// Why it was ended by [`Self::end`].
    #[must_use]
    pub fn over(&self) -> Option<Over> {
        self.over.get()
    }

    /// What is told of a head that is not complete, once the connection is ended here.
    #[must_use]
    pub fn unfinished(&self) -> Option<Verdict> {
        self.over().filter(|_| self.phase().0 == Phase::Head).map(|over| match over {
            Over::Time => HEAD_TIMEOUT,
            Over::Memory => verdict(Failure::Overloaded),
        })
    }

    /// Lets the connection end with a reset (RST) instead of an orderly end (FIN).
    pub fn reset(&self) {
        self.reset.set(true);
    }

    /// True once [`Self::reset`] was called.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.reset.get()
    }

    /// Lets requests that are [`LONG`] open say so: each is woken once.
    pub fn wake_long(&self, now: Instant) {
        let is_long = |since: Instant| now.duration_since(since) >= LONG;
        if self.multiplexed.get() {
            let mut waiting = self.waiting.borrow_mut();
            let woken = waiting.iter_mut().filter(|(_, (since, _))| is_long(*since));
            for waker in woken.filter_map(|(_, (_, waker))| waker.take()) {
                self.long.set(true);
                waker.wake();
            }
        } else if self.phase.get() == Phase::Busy && is_long(self.since.get()) && !self.long.replace(true) {
            self.wake();
        }
    }

    /// True if [`Self::wake_long`] has found one.
    #[must_use]
    pub fn has_long(&self) -> bool {
        self.long.get()
    }

    /// Over HTTP/2, a request that runs since then waits for its pod; to be told of by [`Self::stop_waiting`].
    pub fn wait(&self, since: Instant, waker: &Waker) -> usize {
        self.waiting.borrow_mut().insert((since, Some(waker.clone())))
    }

    /// The request has ended.
    pub fn stop_waiting(&self, number: usize) {
        self.waiting.borrow_mut().try_remove(number);
    }

    /// Whether the client does not take what is there for it; true if that is new.
    pub fn block(&self, blocked: bool) -> bool {
        self.blocked.replace(blocked) != blocked
    }

    /// The running request has time until then.
    pub fn set_due(&self, due: Option<Instant>) {
        self.due.set(due);
    }

    /// When a response over HTTP/1 is to be broken off of which the client has taken nothing since `blocked`, and as what. Of
    /// streams and tunnels those look after it that move their bytes.
    #[must_use]
    pub fn stalls(&self, blocked: Instant, idle: Option<Duration>) -> Option<(Instant, Broken)> {
        if self.multiplexed.get() || self.tunnel.get() {
            return None;
        }
        let idle = idle.map(|idle| (blocked + idle, Broken::Idle));
        let due = self.due.get().map(|due| (due, Broken::Timeout));
        idle.into_iter().chain(due).min_by_key(|(at, _)| *at)
    }

    /// Breaks the response off; the client must not take it for whole.
    pub fn stall(&self, how: Broken) {
        self.stalled.set(Some(how));
        self.reset();
    }

    /// How the client's absence ends the request that runs: it was broken off here, or the client has left.
    #[must_use]
    pub fn gone(&self) -> Broken {
        self.stalled.get().unwrap_or(Broken::ClientGone)
    }
}
