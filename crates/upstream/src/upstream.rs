//! What the request path gets: a choice among the pods, at once.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::balance::{Balance, Chooser};
use crate::endpoint::{Endpoint, EndpointId};
use crate::maglev::Maglev;
use crate::outlier::{Outcome, OutlierRules};
use crate::set::EndpointSet;
use crate::slow_start::SlowStart;

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
    /// How new pods are warmed up; `None`: they get their whole share at once.
    pub slow_start: Option<SlowStart>,
    /// Which pods are left alone, beside those that take no connections.
    pub health: Health,
    /// Nothing is asked before the first request.
    pub lazy: bool,
}

/// Which pods are left alone, beside those that take no connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// When a pod's failed requests eject it; `None`: never.
    pub outlier: Option<OutlierRules>,
    /// Somebody checks the pods and calls [`Upstream::checked`].
    pub checked: bool,
    /// With a smaller part of the set than this (0 to 100) left, all pods are used whatever their health: too few would
    /// break down under the load (Envoy's panic threshold).
    pub panic_threshold: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self { outlier: None, checked: false, panic_threshold: 50 }
    }
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
    /// When it was chosen.
    pub at: Instant,
    /// It refused connections lately: there is no better one.
    pub aside: bool,
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

/// What came of the pods' health; relaxed counters.
#[derive(Debug, Default)]
pub struct HealthStats {
    /// Pods that were ejected because their requests fail.
    pub ejections: AtomicU64,
    /// Pods that would have been, had enough others been left.
    pub ejections_denied: AtomicU64,
    /// How often too few pods were well, so that all are used.
    pub panics_total: AtomicU64,
    /// It is so now.
    pub panics: AtomicBool,
}

/// The pods behind one name, kept up to date by a task of [`crate::Discovery`] that ends when this is dropped.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// What the request path and the discovery task both touch.
#[derive(Debug)]
pub(crate) struct Shared {
    pub name: Arc<str>,
    pub stats: DnsStats,
    pub set: ArcSwap<EndpointSet>,
    balance: Balance,
    slow_start: Option<SlowStart>,
    health: Health,
    /// Pods may be unwell, and enough are not: those that are, are avoided.
    avoids_unwell: AtomicBool,
    /// Held for the decision to eject, which looks at the whole set; never by a request that went well.
    ejecting: Mutex<()>,
    /// Wakes the task that says who was ejected, and lets them back.
    pub ejected: Notify,
    pub health_stats: HealthStats,
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
            slow_start: settings.slow_start,
            health: settings.health,
            avoids_unwell: AtomicBool::new(false),
            ejecting: Mutex::new(()),
            ejected: Notify::new(),
            health_stats: HealthStats::default(),
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
    pub(crate) fn millis(&self, now: Instant) -> u64 {
        let millis = now.saturating_duration_since(self.epoch).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// The opposite of [`Self::millis`].
    pub(crate) fn at(&self, millis: u64) -> Instant {
        self.epoch + Duration::from_millis(millis.saturating_sub(1))
    }

    /// The Maglev table of these endpoints, where that is how they are chosen.
    pub(crate) fn maglev(&self, endpoints: &[Arc<Endpoint>], before: Option<&Maglev>) -> Option<Arc<Maglev>> {
        (self.balance == Balance::Maglev).then(|| Arc::new(Maglev::new(endpoints, before)))
    }

    /// Pods that join warm up; those that are there from the start do not, since nobody else could take their share.
    pub(crate) fn joined(&self, added: &[Arc<Endpoint>]) {
        if self.slow_start.is_some() && self.had_pods.load(Ordering::Acquire) {
            let now = self.millis(Instant::now());
            added.iter().for_each(|endpoint| endpoint.youth.begin(now));
        }
    }

    /// True if a pod's requests or health checks can speak against it.
    fn is_watched(&self) -> bool {
        self.health.outlier.is_some() || self.health.checked
    }

    /// Decides anew whether enough pods are well; after every change of the set or of a pod's health.
    pub(crate) fn recount(&self) {
        if !self.is_watched() {
            return;
        }
        let set = self.set.load();
        let all = set.endpoints.len();
        let unwell = set.endpoints.iter().filter(|endpoint| endpoint.is_unwell()).count();
        let threshold = usize::try_from(self.health.panic_threshold).unwrap_or(100);
        let panics = (all - unwell) * 100 < threshold * all;
        let avoided = self.avoids_unwell.swap(unwell > 0 && !panics, Ordering::Relaxed);
        let before = self.health_stats.panics.swap(panics, Ordering::Relaxed);
        if panics && !before {
            self.health_stats.panics_total.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(target: "whichpod::health", upstream = &*self.name, unwell, pods = all, avoided, "too few pods are well: all are used whatever their health");
        } else if before && !panics {
            tracing::info!(target: "whichpod::health", upstream = &*self.name, unwell, pods = all, "enough pods are well again");
        }
    }

    /// Ejects the pod, if that leaves enough of the set.
    fn eject(&self, rules: &OutlierRules, endpoint: &Endpoint, took: Duration, outcome: Outcome) {
        let Some(cause) = endpoint.outlier.count(rules, outcome, took) else { return };
        let _alone = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        if endpoint.is_ejected() {
            return;
        }
        let set = self.set.load();
        let ejected = set.endpoints.iter().filter(|endpoint| endpoint.is_ejected()).count();
        let most = usize::try_from(rules.max_ejection_percent).unwrap_or(100).min(100) * set.endpoints.len();
        if (ejected + 1) * 100 > most {
            // Asked again after as many failures.
            endpoint.outlier.forget_failures();
            self.health_stats.ejections_denied.fetch_add(1, Ordering::Relaxed);
            return;
        }
        endpoint.outlier.eject(rules, cause, self.millis(Instant::now()));
        self.health_stats.ejections.fetch_add(1, Ordering::Relaxed);
        if !self.health_stats.panics.load(Ordering::Relaxed) {
            // At once; whether this leads to a panic is decided by the task that is woken.
            self.avoids_unwell.store(true, Ordering::Relaxed);
        }
        self.ejected.notify_one();
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
    pub(crate) fn new(shared: Arc<Shared>, tasks: Vec<tokio::task::AbortHandle>) -> Arc<Self> {
        Arc::new(Self { shared, tasks })
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
        self.choose_for(tried, None).await
    }

    /// Like [`Self::choose`], for a request with this hash, which [`Balance::Maglev`] goes by.
    ///
    /// # Errors
    /// When there is no pod to choose.
    pub async fn choose_for(&self, tried: &[EndpointId], hash: Option<u64>) -> Result<Choice, NoEndpoint> {
        if let Some(choice) = self.choose_at_once(tried, hash) {
            return choice;
        }
        self.wait(Instant::now()).await;
        self.pick(tried, hash, Instant::now())
    }

    /// Like [`Self::choose_for`]; `None` where that would wait.
    #[must_use]
    pub fn choose_at_once(
        &self,
        tried: &[EndpointId],
        hash: Option<u64>,
    ) -> Option<Result<Choice, NoEndpoint>> {
        let now = Instant::now();
        self.shared.touch(self.shared.millis(now));
        if self.shared.dormant.load(Ordering::Relaxed) {
            return None;
        }
        let choice = self.pick(tried, hash, now);
        let none = matches!(choice, Err(NoEndpoint::Empty | NoEndpoint::DnsFailed));
        (!none || !self.waits_for_first(now)).then_some(choice)
    }

    /// Chooses from the set as it is. Allocates nothing and takes no lock.
    fn pick(&self, tried: &[EndpointId], hash: Option<u64>, now: Instant) -> Result<Choice, NoEndpoint> {
        let shared = &*self.shared;
        let set = shared.set.load();
        if set.endpoints.is_empty() {
            return Err(set.without_pods());
        }
        let chooser = Chooser {
            balance: shared.balance,
            endpoints: &set.endpoints,
            maglev: set.maglev.as_deref(),
            tried,
            cursor: &shared.cursor,
            now: shared.millis(now),
            hash,
            avoids_unwell: shared.is_watched() && shared.avoids_unwell.load(Ordering::Relaxed),
            slow_start: shared.slow_start.as_ref(),
        };
        let endpoint = chooser.choose().ok_or(NoEndpoint::AllTried)?;
        Ok(Choice {
            endpoint: Arc::clone(endpoint),
            at: now,
            aside: endpoint.aside.is_set(),
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

    /// A request to the pod ended so, this long after it was begun (to the response's head, if there was one).
    pub fn observe(&self, endpoint: &Endpoint, outcome: Outcome, took: Duration) {
        let shared = &*self.shared;
        if shared.balance == Balance::Ewma && matches!(outcome, Outcome::Status(..500)) {
            // A pod that fails quickly is not a quick one.
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            endpoint.latency.observe(shared.millis(Instant::now()), micros);
        }
        if let Some(rules) = &shared.health.outlier {
            shared.eject(rules, endpoint, took, outcome);
        }
    }

    /// The pod passes its health checks from now on, or fails them; true if that is news.
    pub fn checked(&self, endpoint: &Endpoint, passes: bool) -> bool {
        let is_news = endpoint.set_fails_checks(!passes);
        if is_news {
            if passes && self.shared.slow_start.is_some() {
                endpoint.youth.begin(self.shared.millis(Instant::now()));
            }
            self.shared.recount();
        }
        is_news
    }

    /// What came of the pods' health so far.
    #[must_use]
    pub fn health_stats(&self) -> &HealthStats {
        &self.shared.health_stats
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
