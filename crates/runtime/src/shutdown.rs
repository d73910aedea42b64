//! Shutdown: one signal that every thread and runtime can wait for, and a count of what still runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::signal::unix;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Starts the shutdown; dropping it does not.
#[derive(Debug, Clone)]
pub struct Trigger {
    state: Arc<State>,
}

/// Tells that the shutdown has started, and counts what has to end before the process may.
///
/// Clones share one state and work on any thread and any tokio runtime.
#[derive(Debug, Clone)]
pub struct Shutdown {
    state: Arc<State>,
}

/// Something that still runs (a request, a connection); dropping it says that it ended.
#[derive(Debug)]
pub struct Guard {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    started: AtomicBool,
    running: AtomicUsize,
    /// How many wait for `running` to become 0; a guard's end costs one more atomic load while there is none.
    draining: AtomicUsize,
    changed: Notify,
}

impl Trigger {
    /// Starts the shutdown; further calls do nothing.
    pub fn start(&self) {
        self.state.started.store(true, SeqCst);
        self.state.changed.notify_waiters();
    }
}

impl Shutdown {
    /// A shutdown that has not started, and what starts it.
    pub fn new() -> (Trigger, Self) {
        let state = Arc::<State>::default();
        (Trigger { state: Arc::clone(&state) }, Self { state })
    }

    /// Whether the shutdown has started.
    pub fn is_started(&self) -> bool {
        self.state.started.load(SeqCst)
    }

    /// Waits until the shutdown has started; returns at once if it has.
    pub async fn started(&self) {
        self.state.until(|state| state.started.load(SeqCst)).await;
    }

    /// Counts something that runs from now on until the guard is dropped; takes no lock.
    pub fn guard(&self) -> Guard {
        self.state.running.fetch_add(1, SeqCst);
        Guard { state: Arc::clone(&self.state) }
    }

    /// How many guards there are now.
    pub fn running(&self) -> usize {
        self.state.running.load(SeqCst)
    }

    /// Waits until no guard is left, at most until the deadline; false if the deadline came first.
    ///
    /// Guards may still be taken while it waits: those count too.
    pub async fn drained(&self, deadline: Instant) -> bool {
        let _draining = Draining::new(&self.state);
        timeout_at(deadline, self.state.until(|state| state.running.load(SeqCst) == 0)).await.is_ok()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Sequentially consistent on both sides: either `drained` sees the count at 0, or this sees `draining`.
        if self.state.running.fetch_sub(1, SeqCst) == 1 && self.state.draining.load(SeqCst) > 0 {
            self.state.changed.notify_waiters();
        }
    }
}

impl State {
    async fn until(&self, done: impl Fn(&Self) -> bool) {
        loop {
            // Made before the check, so that a change in between is not missed.
            let changed = self.changed.notified();
            if done(self) {
                return;
            }
            changed.await;
        }
    }
}

struct Draining<'a>(&'a State);

impl<'a> Draining<'a> {
    fn new(state: &'a State) -> Self {
        state.draining.fetch_add(1, SeqCst);
        Self(state)
    }
}

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        self.0.draining.fetch_sub(1, SeqCst);
    }
}

/// What the process was told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The first SIGTERM or SIGINT: finish what runs, then leave.
    Stop,
    /// Another SIGTERM or SIGINT: leave now.
    StopNow,
    /// SIGHUP: open the log files again, somebody has moved them away.
    Reopen,
}

/// The signals of the process, in the order in which they came.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    stopping: bool,
}

impl Signals {
    /// Takes over SIGTERM, SIGINT and SIGHUP from their default, which ends the process.
    ///
    /// # Errors
    /// When the operating system refuses a handler. Panics outside a tokio runtime with I/O enabled.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(unix::SignalKind::terminate())?,
            interrupt: unix::signal(unix::SignalKind::interrupt())?,
            hangup: unix::signal(unix::SignalKind::hangup())?,
            stopping: false,
        })
    }

    /// Waits for the next signal; safe to cancel.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => self.stop(),
            _ = self.interrupt.recv() => self.stop(),
            _ = self.hangup.recv() => Signal::Reopen,
        }
    }

    fn stop(&mut self) -> Signal {
        if std::mem::replace(&mut self.stopping, true) { Signal::StopNow } else { Signal::Stop }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn in_seconds(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn everybody_learns_of_the_shutdown_also_those_who_ask_late() {
        let (trigger, shutdown) = Shutdown::new();
        let early = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.started().await }
        });
        tokio::task::yield_now().await;
        assert!(!shutdown.is_started());
        assert!(!early.is_finished());
        trigger.start();
        trigger.start();
        early.await.unwrap();
        shutdown.started().await;
        assert!(shutdown.is_started());
    }

    #[test]
    fn a_worker_on_another_runtime_learns_of_the_shutdown() {
        let (trigger, shutdown) = Shutdown::new();
        let (ready, waiting) = std::sync::mpsc::channel();
        let worker = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let guard = shutdown.guard();
            ready.send(()).unwrap();
            runtime.block_on(shutdown.started());
            drop(guard);
            shutdown.running()
        });
        waiting.recv().unwrap();
        trigger.start();
        assert_eq!(worker.join().unwrap(), 0);
    }

    #[test]
    fn dropping_the_trigger_does_not_stop_the_process() {
        let (trigger, shutdown) = Shutdown::new();
        drop(trigger);
        assert!(!shutdown.is_started());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_with_the_last_request_and_not_before() {
        let (_trigger, shutdown) = Shutdown::new();
        let (first, second) = (shutdown.guard(), shutdown.guard());
        assert_eq!(shutdown.running(), 2);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(first);
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(second);
        });
        let started = Instant::now();
        assert!(shutdown.drained(in_seconds(10)).await);
        assert_eq!(started.elapsed().as_secs(), 2);
        assert_eq!(shutdown.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_gives_up_at_its_deadline() {
        let (_trigger, shutdown) = Shutdown::new();
        let _stuck = shutdown.guard();
        let started = Instant::now();
        assert!(!shutdown.drained(in_seconds(5)).await);
        assert_eq!(started.elapsed().as_secs(), 5);
        assert_eq!(shutdown.running(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_with_nothing_running_ends_at_once_even_past_its_deadline() {
        let (_trigger, shutdown) = Shutdown::new();
        assert!(shutdown.drained(Instant::now()).await);
    }

    #[test]
    fn no_end_of_a_request_is_missed_by_a_drain_on_another_thread() {
        for _ in 0..200 {
            let (_trigger, shutdown) = Shutdown::new();
            let guard = shutdown.guard();
            let worker = std::thread::spawn(move || drop(guard));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            assert!(runtime.block_on(async { shutdown.drained(in_seconds(30)).await }));
            worker.join().unwrap();
        }
    }
}
