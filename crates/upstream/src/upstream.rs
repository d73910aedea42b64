//! What the request path gets: a choice among the pods, at once.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::balance::{self, Balance};
use crate::endpoint::{Endpoint, EndpointId};
use crate::set::EndpointSet;

/// How long a request waits for the first answer with a pod in it, and for how long after the first question.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// How long a request waits for a new answer when the upstream was dormant.
const FRESH_ANSWER: Duration = Duration::from_secs(1);

/// What is discovered, and how a pod is chosen.
#[derive(Debug, Clone)]
pub struct Settings {
    /// In the log and the metrics.
    pub name: Arc<str>,
    /// What is discovered.
    pub target: Target,
    /// Used while the target does not exist.
    pub fallback: Option<Target>,
    /// How a pod is chosen.
    pub balance: Balance,
    /// Nothing is asked before the first request.
    pub lazy: bool,
}

/// A name (or address) and port to discover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A DNS name as the user wrote it, or a literal address.
    pub host: Host,
    /// A number is asked as A/AAAA, a name as SRV (RFC 2782).
    pub port: TargetPort,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:")?,
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
        }
        match &self.port {
            TargetPort::Number(port) => write!(f, "{port}"),
            TargetPort::Name(name) => f.write_str(name),
        }
    }
}

/// A DNS name or a literal address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A trailing dot makes it absolute.
    Name(String),
    /// Needs no discovery.
    Ip(IpAddr),
}

/// The port of a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// Asked as A/AAAA.
    Number(u16),
    /// Asked as SRV `_name._tcp.host`.
    Name(String),
}

/// What the request path gets.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The pod.
    pub endpoint: Arc<Endpoint>,
    /// The pod's name if the answer is within its TTL; else `None`, because the address may be another pod's by now.
    pub pod: Option<Arc<str>>,
    /// How many there were to choose from.
    pub endpoints: u32,
    /// Since the answer the choice came from; zero for a literal address.
    pub dns_age: Duration,
    /// The address is a Service's virtual IP: which pod it is cannot be known.
    pub virtual_ip: bool,
}

/// Why there is no choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEndpoint {
    /// The name does not exist or has no pods; response flag UH.
    Empty,
    /// There never was an answer; response flag DF.
    DnsFailed,
    /// Every endpoint is among those that were tried.
    AllTried,
}

/// What discovery did for one upstream; relaxed counters.
#[derive(Debug, Default)]
pub struct DnsStats {
    /// Questions sent to the resolver.
    pub queries: AtomicU64,
    /// Refreshes that brought pods.
    pub answers: AtomicU64,
    /// Refreshes that failed: SERVFAIL, REFUSED, silence, garbage, truncation, refused addresses.
    pub failures: AtomicU64,
    /// Refreshes that found no name or no pods.
    pub empty: AtomicU64,
    /// Addresses that were refused because no pod can have them.
    pub refused: AtomicU64,
    /// Sets of endpoints that differed from the one before.
    pub sets_published: AtomicU64,
    /// How often the fallback came into use.
    pub fallbacks: AtomicU64,
}

/// The pods behind one name, kept up to date by a task of [`crate::Discovery`] that ends when this is dropped.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    task: Option<tokio::task::AbortHandle>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What the request path and the discovery task both touch.
#[derive(Debug)]
pub(crate) struct Shared {
    pub name: Arc<str>,
    pub stats: DnsStats,
    pub set: ArcSwap<EndpointSet>,
    balance: Balance,
    cursor: AtomicUsize,
    epoch: Instant,
    /// Milliseconds since the epoch, written once a second at most.
    used: AtomicU64,
    /// Not refreshed now: the next request has it done, and waits for it.
    pub dormant: AtomicBool,
    /// A connect failed since the last refresh began.
    pub connect_failed: AtomicBool,
    /// Wakes the discovery task.
    pub wake: Notify,
    pub first_asked: OnceLock<Instant>,
    pub had_pods: AtomicBool,
    pub settled: watch::Sender<bool>,
    /// Counts every result of a refresh.
    pub results: watch::Sender<u64>,
    /// Counts the sets whose endpoints differ from the one before.
    pub generation: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            name: Arc::clone(&settings.name),
            stats: DnsStats::default(),
            set: ArcSwap::from_pointee(EndpointSet::pending()),
            balance: settings.balance,
            // A thousand sidecars that start together do not all begin with the same pod.
            cursor: AtomicUsize::new(usize::from(fastrand::u16(..))),
            epoch: Instant::now(),
            used: AtomicU64::new(0),
            dormant: AtomicBool::new(settings.lazy),
            connect_failed: AtomicBool::new(false),
            wake: Notify::new(),
            first_asked: OnceLock::new(),
            had_pods: AtomicBool::new(false),
            settled: watch::Sender::new(false),
            results: watch::Sender::new(0),
            generation: watch::Sender::new(0),
        }
    }

    /// Milliseconds; never zero.
    fn millis(&self, now: Instant) -> u64 {
        let millis = now.saturating_duration_since(self.epoch).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// A request is using the upstream. Writes once a second at most, so that the cache line stays shared.
    fn touch(&self, now: u64) {
        if now.saturating_sub(self.used.load(Ordering::Relaxed)) >= 1_000 {
            self.used.store(now, Ordering::Relaxed);
        }
    }

    /// Since the last request (within a second), or since the start.
    pub(crate) fn unused_for(&self, now: Instant) -> Duration {
        Duration::from_millis(self.millis(now).saturating_sub(self.used.load(Ordering::Relaxed)))
    }
}

impl Upstream {
    pub(crate) fn new(shared: Arc<Shared>, task: Option<tokio::task::AbortHandle>) -> Arc<Self> {
        Arc::new(Self { shared, task })
    }

    /// The name in the log and the metrics.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// Who the pods are now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<EndpointSet> {
        self.shared.set.load_full()
    }

    /// Chooses a pod that is not in `tried`. Answers at once, with two exceptions: before there ever was a pod, within
    /// the first 5 s after the first question (or until DNS answered once or failed twice), it waits for one, 5 s at
    /// most; after the upstream was dormant it waits 1 s at most for a new answer.
    ///
    /// # Errors
    /// When there is no pod to choose.
    pub async fn choose(&self, tried: &[EndpointId]) -> Result<Choice, NoEndpoint> {
        let now = Instant::now();
        self.shared.touch(self.shared.millis(now));
        if !self.shared.dormant.load(Ordering::Relaxed) {
            let choice = self.pick(tried, now);
            if !matches!(choice, Err(NoEndpoint::Empty | NoEndpoint::DnsFailed)) || !self.waits_for_first(now)
            {
                return choice;
            }
        }
        self.wait(now).await;
        self.pick(tried, Instant::now())
    }

    /// Chooses from the set as it is. Allocates nothing and takes no lock.
    fn pick(&self, tried: &[EndpointId], now: Instant) -> Result<Choice, NoEndpoint> {
        let shared = &*self.shared;
        let set = shared.set.load();
        if set.endpoints.is_empty() {
            return Err(set.without_pods());
        }
        let millis = shared.millis(now);
        let endpoint = balance::choose(shared.balance, &set.endpoints, tried, &shared.cursor, millis)
            .ok_or(NoEndpoint::AllTried)?;
        Ok(Choice {
            endpoint: Arc::clone(endpoint),
            pod: endpoint.identity().filter(|_| set.names_hold(now)).cloned(),
            endpoints: u32::try_from(set.endpoints.len()).unwrap_or(u32::MAX),
            dns_age: set.answered_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
            virtual_ip: set.virtual_ip,
        })
    }

    /// True while a pod may still turn up for the first time.
    fn waits_for_first(&self, now: Instant) -> bool {
        let shared = &*self.shared;
        let in_time = || shared.first_asked.get().is_none_or(|asked| now < *asked + FIRST_ANSWER);
        !shared.had_pods.load(Ordering::Acquire) && (in_time() || !*shared.settled.borrow())
    }

    async fn wait(&self, now: Instant) {
        let shared = &*self.shared;
        let mut results = shared.results.subscribe();
        if shared.dormant.load(Ordering::Acquire) {
            shared.wake.notify_one();
            let limit = if self.waits_for_first(now) { FIRST_ANSWER } else { FRESH_ANSWER };
            // The task ends the dormancy before it reports; if it takes too long, the others need not wait as well.
            if timeout_at(now + limit, results.changed()).await.is_err() {
                shared.dormant.store(false, Ordering::Release);
            }
        }
        loop {
            let at = Instant::now();
            if !shared.set.load().endpoints.is_empty() || !self.waits_for_first(at) {
                return;
            }
            let in_time = shared.first_asked.get().map(|asked| *asked + FIRST_ANSWER).filter(|end| at < *end);
            let limit = (now + FIRST_ANSWER).min(in_time.unwrap_or(now + FIRST_ANSWER));
            if at >= limit || timeout_at(limit, results.changed()).await.is_ok_and(|alive| alive.is_err()) {
                return;
            }
        }
    }

    /// Puts the pod aside and has DNS asked at once (with back-off).
    pub fn connect_failed(&self, endpoint: &Endpoint) {
        endpoint.aside.fail(self.shared.millis(Instant::now()), fastrand::f64());
        self.doubt();
    }

    /// Has DNS asked at once (with the back-off of failed connects): a pod behaved as one that is gone.
    pub fn doubt(&self) {
        if !self.shared.connect_failed.swap(true, Ordering::AcqRel) {
            self.shared.wake.notify_one();
        }
    }

    /// The pod took a connection: it is no longer aside.
    pub fn connected(&self, endpoint: &Endpoint) {
        endpoint.aside.clear();
    }

    /// True from a failed connect until the next one that works.
    #[must_use]
    pub fn aside(&self, endpoint: &Endpoint) -> bool {
        endpoint.aside.is_set()
    }

    /// Counts the sets whose endpoints differ from the one before: after each, idle connections of endpoints that are
    /// gone are to be closed. Ends when the upstream is dropped.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    /// True once DNS answered (be it that nothing is there) or failed twice; for a fallback too, where it is needed.
    #[must_use]
    pub fn settled(&self) -> bool {
        *self.shared.settled.borrow()
    }

    /// Waits until [`Self::settled`].
    pub async fn until_settled(&self) {
        // The sender lives as long as this upstream.
        let _ = self.shared.settled.subscribe().wait_for(|settled| *settled).await;
    }

    /// What discovery did so far.
    #[must_use]
    pub fn dns_stats(&self) -> &DnsStats {
        &self.shared.stats
    }
}
