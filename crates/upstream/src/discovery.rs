//! The task that keeps one upstream's set up to date, and the settings of all of them.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::lookup::Asker;
use crate::name::{Candidate, Overrides, candidates};
use crate::outlier;
use crate::refresh::{DORMANT_AFTER, Outcome, Pods, Refresh, Rules, View};
use crate::report::Report;
use crate::resolv_conf::{Family, ResolvConf};
use crate::resolver::Resolver;
use crate::set::{EndpointSet, Found, Merge, Source, merge};
use crate::upstream::{Host, Settings, Shared, Target, TargetPort, Upstream};

/// One refresh with all its questions: so short that a name fails twice within 10 s.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(4);
/// The TTL of a literal address.
const LITERAL_TTL: Duration = Duration::from_secs(86_400);

/// How names are resolved and refreshed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Least time between two refreshes, before jitter; a shorter TTL counts as this (at least 100 ms).
    pub refresh_floor: Duration,
    /// Most time between two refreshes, before jitter.
    pub refresh_cap: Duration,
    /// How long NXDOMAIN or an empty answer must last before the set is empty.
    pub hold_empty: Duration,
    /// Accept loopback answers; for tests and demos.
    pub allow_loopback: bool,
    /// Instead of the one told by the search list.
    pub namespace: Option<String>,
    /// Instead of the one told by the search list, e.g. `cluster.local`.
    pub cluster_domain: Option<String>,
    /// Which kind of address is asked for first; by default what this pod can reach.
    pub family: Family,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            refresh_floor: Duration::from_secs(1),
            refresh_cap: Duration::from_secs(30),
            hold_empty: Duration::from_secs(5),
            allow_loopback: false,
            namespace: None,
            cluster_domain: None,
            family: Family::of_this_machine(),
        }
    }
}

impl Options {
    fn overrides(&self) -> Overrides<'_> {
        Overrides { namespace: self.namespace.as_deref(), cluster_domain: self.cluster_domain.as_deref() }
    }
}

/// Runs discovery for all upstreams over one resolver.
pub struct Discovery {
    resolver: Arc<dyn Resolver>,
    options: Arc<Options>,
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Discovery {
    /// Asks nothing yet.
    #[must_use]
    pub fn new(resolver: Arc<dyn Resolver>, options: Options) -> Self {
        Self { resolver, options: Arc::new(options) }
    }

    /// Starts to discover an upstream, in a task on the current tokio runtime. A literal address is there at once, and
    /// needs neither task nor runtime unless its pods can be ejected.
    #[must_use]
    pub fn add(&self, settings: Settings) -> Arc<Upstream> {
        let shared = Arc::new(Shared::new(&settings));
        let rules = Rules::new(self.options.refresh_floor, self.options.refresh_cap, self.options.hold_empty);
        let mut driver = Driver {
            refresh: Refresh::new(rules, settings.fallback.is_some(), Instant::now()),
            rules,
            shared: Arc::clone(&shared),
            resolver: Arc::clone(&self.resolver),
            options: Arc::clone(&self.options),
            report: Report::new(&settings),
            target: Name::new(settings.target),
            fallback: settings.fallback.map(Name::new),
            published: None,
            virtual_ip: VirtualIp::default(),
        };
        let task = match driver.target.literal() {
            Some(pods @ Outcome::Pods(_)) => {
                driver.learn(Source::Target, pods);
                None
            }
            _ => Some(tokio::spawn(driver.run(settings.lazy)).abort_handle()),
        };
        let keep_time = settings.health.outlier.map(|rules| outlier::keep_time(Arc::clone(&shared), rules));
        let keep_time = keep_time.map(|task| tokio::spawn(task).abort_handle());
        Upstream::new(shared, task.into_iter().chain(keep_time).collect())
    }
}

fn asker<'a>(resolver: &'a dyn Resolver, shared: &'a Shared, options: &Options) -> Asker<'a> {
    Asker { resolver, stats: &shared.stats, family: options.family, allow_loopback: options.allow_loopback }
}

/// One of the two names of an upstream.
struct Name {
    target: Target,
    /// The candidate that answered, and the search list it was made from.
    pinned: Option<(Candidate, Arc<ResolvConf>)>,
}

impl Name {
    fn new(target: Target) -> Self {
        Self { target, pinned: None }
    }

    /// The outcome for a literal address; `None` for a name.
    fn literal(&self) -> Option<Outcome> {
        let Host::Ip(ip) = self.target.host else { return None };
        Some(match &self.target.port {
            TargetPort::Number(port) => Outcome::Pods(Pods {
                found: vec![Found { address: (ip, *port).into(), identity: None }],
                ttl: LITERAL_TTL,
                asked: None,
                refused: Vec::new(),
            }),
            TargetPort::Name(port) => Outcome::Failed(
                format!("{ip} is an address, and only a DNS name can tell the number of port {port}; write a number")
                    .into(),
            ),
        })
    }

    /// What is asked: what answered before, else all that the name may mean; and the search list that applies.
    fn candidates(&self, resolver: &dyn Resolver, options: &Options) -> (Vec<Candidate>, Arc<ResolvConf>) {
        let system = resolver.system();
        let candidates = match (&self.pinned, &self.target.host) {
            (Some((candidate, made_from)), _) if *made_from == system => vec![candidate.clone()],
            (_, Host::Name(host)) => candidates(host, &system, options.overrides()),
            (_, Host::Ip(_)) => Vec::new(),
        };
        (candidates, system)
    }

    /// From now on only what answered is asked.
    fn pin(&mut self, asked: &str, candidates: Vec<Candidate>, system: Arc<ResolvConf>, report: &Report) {
        let Some(candidate) = candidates.into_iter().find(|candidate| *candidate.name == *asked) else {
            return;
        };
        if self.pinned.as_ref().is_none_or(|(pinned, _)| pinned.name != candidate.name) {
            report.pinned(&self.target, &candidate.name);
        }
        self.pinned = Some((candidate, system));
    }
}

/// Whether the only address of the set is a Service's virtual IP; asked after the set is published.
#[derive(Default)]
struct VirtualIp {
    /// The address, the name that gave it, and what its PTR says.
    known: Option<(IpAddr, Arc<str>, bool)>,
    asking: Option<Asking>,
}

/// The address, the name that gave it, and whether it is a virtual IP, if that could be learned.
type Asking = Pin<Box<dyn Future<Output = (IpAddr, Arc<str>, Option<bool>)> + Send>>;

impl VirtualIp {
    fn is(&self, pods: &Pods) -> bool {
        match (suspect(pods), &self.known) {
            (Some((ip, name)), Some((known, of, is))) => *is && ip == *known && name == of,
            _ => false,
        }
    }

    /// The next answer about the only address; never, if nothing is asked.
    async fn answer(&mut self) {
        match &mut self.asking {
            Some(asking) => {
                let (ip, name, is) = asking.await;
                self.asking = None;
                self.known = is.map(|is| (ip, name, is)).or(self.known.take());
            }
            None => std::future::pending().await,
        }
    }
}

/// The only address of an answer, and the name that gave it.
fn suspect(pods: &Pods) -> Option<(IpAddr, &Arc<str>)> {
    match (&pods.found[..], &pods.asked) {
        ([only], Some(asked)) => Some((only.address.ip(), asked)),
        _ => None,
    }
}

struct Driver {
    shared: Arc<Shared>,
    resolver: Arc<dyn Resolver>,
    options: Arc<Options>,
    rules: Rules,
    refresh: Refresh,
    report: Report,
    target: Name,
    fallback: Option<Name>,
    /// The answer that the published endpoints are from.
    published: Option<Arc<Pods>>,
    virtual_ip: VirtualIp,
}

impl Driver {
    async fn run(mut self, lazy: bool) {
        if lazy {
            self.shared.wake.notified().await;
            self.refresh.wake(Instant::now());
        }
        loop {
            let due = self.refresh.next().map(|(_, due)| due);
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                () = shared.wake.notified() => {}
                () = self.virtual_ip.answer() => self.publish(&self.refresh.view()),
            }
            let now = Instant::now();
            if self.shared.connect_failed.load(Ordering::Acquire) {
                self.refresh.connect_failed(now);
            }
            match self.refresh.next() {
                Some((_, due)) if due <= now && self.sleeps(now) => self.until_used().await,
                Some((source, due)) if due <= now => self.ask(source).await,
                _ => {}
            }
        }
    }

    /// Goes dormant if nobody used the upstream for long. The flag is set before the time is read again: a request
    /// sees the flag, or is seen here, or (at the same instant) uses the last set as it would have just before.
    fn sleeps(&self, now: Instant) -> bool {
        let unused = || self.shared.unused_for(now) >= DORMANT_AFTER;
        if !unused() {
            return false;
        }
        self.shared.dormant.store(true, Ordering::SeqCst);
        let sleeps = unused();
        self.shared.dormant.store(sleeps, Ordering::SeqCst);
        sleeps
    }

    async fn until_used(&mut self) {
        while self.shared.unused_for(Instant::now()) >= DORMANT_AFTER {
            self.shared.wake.notified().await;
        }
        self.refresh.wake(Instant::now());
    }

    async fn ask(&mut self, source: Source) {
        let begun = Instant::now();
        self.shared.first_asked.get_or_init(|| begun);
        self.shared.connect_failed.store(false, Ordering::Release);
        self.refresh.begin(begun, fastrand::f64());
        let name = match (source, &mut self.fallback) {
            (Source::Fallback, Some(fallback)) => fallback,
            _ => &mut self.target,
        };
        let outcome = match name.literal() {
            Some(outcome) => outcome,
            None => {
                let (candidates, system) = name.candidates(&*self.resolver, &self.options);
                let asker = asker(&*self.resolver, &self.shared, &self.options);
                let answer = timeout(REFRESH_TIMEOUT, asker.pods(&candidates, &name.target.port)).await;
                match answer {
                    _ if candidates.is_empty() => {
                        Outcome::Failed(format!("{} is no DNS name", name.target).into())
                    }
                    Ok(outcome) => {
                        if let Outcome::Pods(Pods { asked: Some(asked), .. }) = &outcome {
                            name.pin(asked, candidates, system, &self.report);
                        }
                        outcome
                    }
                    Err(_) => {
                        let seconds = REFRESH_TIMEOUT.as_secs();
                        Outcome::Failed(format!("no answer about {} within {seconds} s", name.target).into())
                    }
                }
            }
        };
        self.learn(source, outcome);
    }

    /// Takes an outcome in and publishes what it means.
    fn learn(&mut self, source: Source, outcome: Outcome) {
        let stats = &self.shared.stats;
        match &outcome {
            Outcome::Pods(_) => stats.answers.fetch_add(1, Ordering::Relaxed),
            Outcome::Absent(_) => stats.empty.fetch_add(1, Ordering::Relaxed),
            Outcome::Failed(_) => stats.failures.fetch_add(1, Ordering::Relaxed),
        };
        self.report.outcome(source, &outcome);
        self.refresh.finish(source, outcome, Instant::now(), fastrand::f64());
        let view = self.refresh.view();
        self.publish(&view);
        if !self.refresh.has_pods(source) {
            // Perhaps the name means another of its candidates by now.
            match (source, &mut self.fallback) {
                (Source::Fallback, Some(fallback)) => fallback.pinned = None,
                _ => self.target.pinned = None,
            }
        }
        self.shared.dormant.store(false, Ordering::Release);
        if view.settled {
            self.shared.settled.send_if_modified(|settled| !std::mem::replace(settled, true));
        }
        self.shared.results.send_modify(|results| *results += 1);
        self.suspect_virtual_ip(&view);
    }

    fn publish(&mut self, view: &View) {
        let before = self.shared.set.load_full();
        let merge = self.merge(&before, view);
        let virtual_ip = view.pods.as_ref().is_some_and(|(pods, _)| self.virtual_ip.is(pods));
        let set = EndpointSet {
            maglev: if merge.changed() {
                self.shared.maglev(&merge.endpoints, before.maglev.as_deref())
            } else {
                before.maglev.clone()
            },
            endpoints: Arc::clone(&merge.endpoints),
            state: view.state,
            source: view.source,
            virtual_ip,
            answered_at: view.pods.as_ref().filter(|(pods, _)| pods.asked.is_some()).map(|(_, at)| *at),
            names_until: view.pods.as_ref().map(|(pods, at)| *at + self.rules.names_hold(pods.ttl)),
            last_error: view.last_error.clone(),
            absent: view.absent,
        };
        if view.source == Source::Fallback && before.source() == Source::Target {
            self.shared.stats.fallbacks.fetch_add(1, Ordering::Relaxed);
        }
        self.report.published(&before, &set, &merge);
        self.shared.joined(&merge.added);
        self.shared.set.store(Arc::new(set));
        for endpoint in &merge.removed {
            endpoint.leave();
        }
        if !merge.endpoints.is_empty() {
            self.shared.had_pods.store(true, Ordering::Release);
        }
        if merge.changed() {
            self.shared.recount();
            self.shared.stats.sets_published.fetch_add(1, Ordering::Relaxed);
            self.shared.generation.send_modify(|generation| *generation += 1);
        }
    }

    /// The endpoints of the view; those there are if the answer is the one they are from.
    fn merge(&mut self, before: &EndpointSet, view: &View) -> Merge {
        let pods = view.pods.as_ref().map(|(pods, _)| pods);
        let same = match (&self.published, pods) {
            (Some(published), Some(pods)) => Arc::ptr_eq(published, pods),
            (None, None) => true,
            _ => false,
        };
        if same {
            return Merge {
                endpoints: Arc::clone(&before.endpoints),
                added: Vec::new(),
                removed: Vec::new(),
            };
        }
        self.published = pods.cloned();
        merge(&before.endpoints, pods.map_or(&[], |pods| &pods.found))
    }

    /// Has the PTR of a lonely address asked, once for each address and name. The answer is published when it comes.
    fn suspect_virtual_ip(&mut self, view: &View) {
        let Some((ip, name)) = view.pods.as_ref().and_then(|(pods, _)| suspect(pods)) else { return };
        let known = self.virtual_ip.known.as_ref().is_some_and(|(known, of, _)| *known == ip && of == name);
        if known || self.virtual_ip.asking.is_some() {
            return;
        }
        let (shared, resolver, options) =
            (Arc::clone(&self.shared), Arc::clone(&self.resolver), Arc::clone(&self.options));
        let name = Arc::clone(name);
        self.virtual_ip.asking = Some(Box::pin(async move {
            let asker = asker(&*resolver, &shared, &options);
            let answer = timeout(REFRESH_TIMEOUT, asker.is_virtual_ip(ip, &name)).await;
            (ip, name, answer.ok().flatten())
        }));
    }
}
