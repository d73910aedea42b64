//! From a checked configuration to a running sidecar, and from a signal to its end.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use tokio::runtime::{Builder, LocalOptions, Runtime};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};
use whichpod_access_log::{Destination, Format, Log, WorkerLog, Writer};
use whichpod_config::Config;
use whichpod_proxy::listener::{Crew, Handed, accept, receive};
use whichpod_proxy::site::Site;
use whichpod_proxy::transport::Tls;
use whichpod_proxy::worker::{Shared, Worker};
use whichpod_proxy::{health_check, memory, translate};
use whichpod_runtime::bind::{BindError, bind};
use whichpod_runtime::diagnostics::Diagnostics;
use whichpod_runtime::exit::Exit;
use whichpod_runtime::limits;
use whichpod_runtime::readiness::{Pending, Readiness};
use whichpod_runtime::shutdown::{Shutdown, Signal, Signals, Trigger};
use whichpod_runtime::tls::{Client, ClientSettings};
use whichpod_upstream::{Discovery, Options, Upstream, hickory};

use crate::admin::{self, Admin};
use crate::log_format;

/// A name that does not resolve keeps the app from starting for at most this long.
const READY_AT_LATEST: Duration = Duration::from_secs(10);
/// Buffered lines must be written within this time at the end.
const LOG_FLUSH: Duration = Duration::from_secs(1);
/// Left of the pod's grace period when an ordinary container leaves.
const GRACE_MARGIN: Duration = Duration::from_secs(2);
/// An ordinary container leaves when it has had no connection for this long.
const QUIET: Duration = Duration::from_secs(5);
/// How often the end of the last request or connection is looked for, during a shutdown only.
const LOOK: Duration = Duration::from_millis(20);

/// Why a sidecar with a good configuration cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Addresses that cannot be listened on, all of them.
    #[error("{}", lines(.0))]
    Bind(Vec<BindError>),
    /// The access log cannot be opened.
    #[error("{0}")]
    Log(#[from] whichpod_access_log::OpenError),
    /// There is nobody to ask about names.
    #[error("dns: {0}")]
    Dns(#[from] whichpod_upstream::ResolverError),
    /// Files of TLS that cannot be used, all of them.
    #[error("{}", .0.join("\n"))]
    Tls(Vec<String>),
    /// The access log's format; checked with the configuration already.
    #[error("access_log.format: {0}")]
    Format(#[from] whichpod_access_log::FormatError),
    /// The access log's filter; checked with the configuration already.
    #[error("access_log.filter: {0}")]
    Filter(#[from] whichpod_access_log::FilterError),
    /// The operating system refuses threads or signals.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

impl StartError {
    /// The exit code that a script can act on.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Bind(_) => Exit::Unavailable,
            Self::Log(_) => Exit::IoErr,
            Self::Dns(_) => Exit::Config,
            Self::Tls(_) => Exit::NoInput,
            Self::Format(_) | Self::Filter(_) => Exit::Usage,
            Self::System(_) => Exit::OsErr,
        }
    }
}

fn lines(errors: &[BindError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A sidecar whose every address is bound.
pub struct Bound {
    /// The upstreams' names and where they listen.
    pub listeners: Vec<(Arc<str>, SocketAddr)>,
    /// The admin server's address.
    pub admin: SocketAddr,
    /// The address of `/ready` and `/metrics`.
    pub health: SocketAddr,
    control: Runtime,
    servers: (TcpListener, TcpListener),
    state: Arc<Admin>,
    /// Until every upstream has a condition of its own.
    starting: Pending,
    shutdown: Shutdown,
    writer: Writer,
    stop_workers: Trigger,
    workers: Vec<JoinHandle<()>>,
}

/// Runs until a signal, or a request to the admin server, ends it; then drains, flushes and returns.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub fn run(config: Config, diagnostics: Diagnostics) -> Result<(), StartError> {
    let control = control_runtime()?;
    // Before anybody can be served: a signal without a handler kills, and as a container's first process it is lost.
    let signals = {
        let _context = control.enter();
        Signals::new()?
    };
    build_on(control, config, Some(diagnostics))?.run_with(Some(signals));
    Ok(())
}

/// Binds every address and starts the workers; no signal is obeyed: for tests and the demo.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub fn build(config: Config) -> Result<Bound, StartError> {
    build_on(control_runtime()?, config, None)
}

fn control_runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn build_on(control: Runtime, config: Config, diagnostics: Option<Diagnostics>) -> Result<Bound, StartError> {
    let mut format = compile_format(&config)?;
    let filter = log_format::filter(&config.access_log.filter, &mut format)?;
    let bound = bind_all(&config).map_err(StartError::Bind)?;
    let upstreams = discover(&control, &config)?;
    let tls = load_tls(&control, &config).map_err(StartError::Tls)?;
    let (log, writer) = Log::open(Destination::from_path(config.access_log.path.as_deref()))?;

    let sites: Vec<_> = std::iter::zip(&config.upstreams, std::iter::zip(upstreams, tls))
        .map(|(settings, (upstream, tls))| Arc::new(Site::new(settings.clone(), upstream, tls)))
        .collect();
    let shared = Arc::new(Shared::new(sites, format, filter, memory::Gauge::new(config.memory)));
    let (stop_workers, workers_stop) = Shutdown::new();
    let size = config.workers.map_or_else(|| limits::worker_count(limits::cpu_limit()), usize::from);
    let workers = start_workers(size, bound.upstreams, &shared, &log, &workers_stop)?;

    let (trigger, shutdown) = Shutdown::new();
    let listeners = std::iter::zip(&config.upstreams, &bound.addresses)
        .map(|(upstream, address)| (Arc::clone(&upstream.name), *address))
        .collect::<Vec<_>>();
    let state = Admin {
        listeners: listeners.clone(),
        workers: size,
        shared,
        log,
        diagnostics,
        readiness: Readiness::new(),
        quit: trigger,
        started: (Instant::now(), SystemTime::now()),
        config,
    };
    Ok(Bound {
        listeners,
        admin: bound.admin.local_addr()?,
        health: bound.health.local_addr()?,
        control,
        servers: (bound.admin, bound.health),
        starting: state.readiness.pending("the start"),
        state: Arc::new(state),
        shutdown,
        writer,
        stop_workers,
        workers,
    })
}

impl Bound {
    /// Runs on a thread of its own.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn spawn(self) -> std::io::Result<Running> {
        let state = Arc::clone(&self.state);
        let (listeners, admin, health) = (self.listeners.clone(), self.admin, self.health);
        let thread = std::thread::Builder::new().name("control".into()).spawn(|| self.run_with(None))?;
        Ok(Running { listeners, admin, health, state, thread: Some(thread) })
    }

    fn run_with(self, signals: Option<Signals>) {
        let Self { control, servers, state, starting, shutdown, writer, stop_workers, workers, .. } = self;
        control.block_on(async {
            let (admin, health) = servers;
            tokio::spawn(admin::serve(admin, Arc::clone(&state)));
            tokio::spawn(admin::serve_health(health, Arc::clone(&state)));
            tokio::spawn(memory::watch(Arc::clone(&state.shared)));
            for site in &state.shared.sites {
                if let Some(check) = &site.config.health_check {
                    tokio::spawn(health_check::run(Arc::clone(site), check.clone()));
                }
            }
            await_upstreams(&state);
            starting.done();
            let (abort, aborted) = Shutdown::new();
            if let Some(signals) = signals {
                tokio::spawn(obey(signals, Arc::clone(&state), abort));
            }
            shutdown.started().await;
            state.readiness.not_ready();
            tokio::select! {
                () = drain(&state) => {}
                () = aborted.started() => tracing::warn!("told to stop again: leaving at once"),
            }
        });
        stop_workers.start();
        for worker in workers {
            if worker.join().is_err() {
                tracing::error!("a worker ended badly");
            }
        }
        let lost = writer.shutdown(LOG_FLUSH);
        if lost > 0 {
            tracing::warn!(lines = lost, "the access log's reader has stopped: lines were not written");
        }
        tracing::info!("stopped");
    }
}

/// A sidecar that runs on threads of this process.
pub struct Running {
    /// The upstreams' names and where they listen.
    pub listeners: Vec<(Arc<str>, SocketAddr)>,
    /// The admin server's address.
    pub admin: SocketAddr,
    /// The address of `/ready` and `/metrics`.
    pub health: SocketAddr,
    state: Arc<Admin>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// True once `/ready` would answer 200.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.readiness.is_ready()
    }

    /// Stops as a signal would, and waits for the end; returns how long that took.
    pub fn stop(mut self) -> Duration {
        let started = std::time::Instant::now();
        self.state.quit.start();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        started.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.state.quit.start();
    }
}

struct BoundSockets {
    upstreams: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    admin: TcpListener,
    health: TcpListener,
}

/// Binds everything, and says everything that cannot be bound.
fn bind_all(config: &Config) -> Result<BoundSockets, Vec<BindError>> {
    let mut errors = Vec::new();
    let mut take = |result: Result<TcpListener, BindError>| result.map_err(|error| errors.push(error)).ok();
    let upstreams: Vec<_> = config
        .upstreams
        .iter()
        .filter_map(|upstream| take(bind(upstream.listen, &format!("upstream {}", upstream.name))))
        .collect();
    let admin = take(bind(config.admin, "the admin server"));
    let health = take(bind(config.health, "/ready and /metrics"));
    match (admin, health) {
        (Some(admin), Some(health)) if errors.is_empty() => {
            for listener in &upstreams {
                inherit_options(listener);
            }
            let addresses = std::iter::zip(&config.upstreams, &upstreams)
                .map(|(upstream, listener)| listener.local_addr().unwrap_or(upstream.listen))
                .collect();
            Ok(BoundSockets { upstreams, addresses, admin, health })
        }
        _ => Err(errors),
    }
}

/// Accepted sockets inherit these from the listener: no system call for each connection.
fn inherit_options(listener: &TcpListener) {
    let socket = socket2::SockRef::from(listener);
    let keep_alive = socket2::TcpKeepalive::new()
        .with_time(whichpod_proxy::connect::KEEP_ALIVE)
        .with_interval(whichpod_proxy::connect::KEEP_ALIVE / 3);
    if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keep_alive)) {
        tracing::warn!("cannot set TCP_NODELAY and keep-alive on a listener: {error}");
    }
}

fn discover(control: &Runtime, config: &Config) -> Result<Vec<Arc<Upstream>>, StartError> {
    let _context = control.enter();
    let dns = &config.dns;
    let servers = (!dns.servers.is_empty()).then(|| dns.servers.clone());
    let options = Options {
        refresh_floor: dns.refresh_floor,
        refresh_cap: dns.refresh_cap,
        hold_empty: dns.hold_empty,
        allow_loopback: dns.allow_loopback,
        namespace: dns.namespace.clone(),
        cluster_domain: dns.cluster_domain.clone(),
        ..Options::default()
    };
    let discovery = Discovery::new(hickory(servers, dns.resolv_conf.clone())?, options);
    Ok(config.upstreams.iter().map(|upstream| discovery.add(translate::settings(upstream))).collect())
}

/// For each upstream what its files say; they are followed from now on.
fn load_tls(control: &Runtime, config: &Config) -> Result<Vec<Option<Tls>>, Vec<String>> {
    let mut errors = Vec::new();
    let mut all = Vec::with_capacity(config.upstreams.len());
    for upstream in &config.upstreams {
        let Some(tls) = &upstream.tls else {
            all.push(None);
            continue;
        };
        let settings = ClientSettings {
            authorities: tls.ca_file.clone(),
            identity: tls.client_certificate.as_ref().map(|f| (f.cert_file.clone(), f.key_file.clone())),
            alpn: tls.alpn.clone(),
            insecure: tls.insecure_skip_verify,
        };
        // A checked name is a valid one.
        let name = ServerName::try_from(tls.server_name.clone()).map_err(|error| error.to_string());
        match Client::load(settings).map_err(|error| error.to_string()).and_then(|client| Ok((client, name?)))
        {
            Ok((client, name)) => {
                let client = Arc::new(client);
                control.spawn(Arc::clone(&client).follow());
                all.push(Some(Tls { client, name }));
            }
            Err(error) => errors.push(format!("upstream {}: tls: {error}", upstream.name)),
        }
    }
    if errors.is_empty() { Ok(all) } else { Err(errors) }
}

fn start_workers(
    size: usize,
    listeners: Vec<TcpListener>,
    shared: &Arc<Shared>,
    log: &Log,
    stop: &Shutdown,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let (crew, inboxes) = Crew::new(size);
    let mut listeners = Some(listeners);
    let start = |(index, inbox)| {
        // The first worker accepts for all.
        let listeners = listeners.take().unwrap_or_default();
        let (shared, log, crew, stop) = (Arc::clone(shared), log.worker(), crew.clone(), stop.clone());
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || run_worker(shared, log, listeners, inbox, &crew, &stop))
    };
    inboxes.into_iter().enumerate().map(start).collect()
}

fn run_worker(
    shared: Arc<Shared>,
    log: WorkerLog,
    listeners: Vec<TcpListener>,
    inbox: UnboundedReceiver<Handed>,
    crew: &Crew,
    stop: &Shutdown,
) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("a worker cannot start: {error}");
            return;
        }
    };
    let worker = Rc::new(Worker::new(shared, log));
    runtime.block_on(async {
        for (site, listener) in listeners.into_iter().enumerate() {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    drop(tokio::task::spawn_local(accept(listener, site, Rc::clone(&worker), crew.clone())));
                }
                Err(error) => tracing::error!("a listener cannot be used: {error}"),
            }
        }
        for site in &worker.shared.sites {
            drop(tokio::task::spawn_local(drop_gone(Rc::clone(&worker), site.upstream.subscribe())));
        }
        tokio::select! {
            () = stop.started() => {}
            () = receive(inbox, Rc::clone(&worker)) => {}
            () = worker.flush_in_time() => {}
            () = worker.sweep() => {}
        }
    });
    // Requests that are cut off here still write their lines.
    drop(runtime);
    worker.close();
    if worker.flush_log() {
        tracing::warn!("the access log's reader has stopped: its last lines may be lost");
    }
}

/// Closes idle connections to pods that have left the answer, for as long as the worker runs.
async fn drop_gone(worker: Rc<Worker>, mut published: tokio::sync::watch::Receiver<u64>) {
    while published.changed().await.is_ok() {
        worker.drop_gone();
    }
}

/// Ready once every upstream that was named has settled, or at the latest in [`READY_AT_LATEST`].
fn await_upstreams(state: &Arc<Admin>) {
    for site in state.shared.sites.iter().filter(|site| !site.config.lazy) {
        let pending = state.readiness.pending(&format!("an answer for upstream {}", site.config.name));
        let site = Arc::clone(site);
        tokio::spawn(async move {
            if timeout(READY_AT_LATEST, site.upstream.until_settled()).await.is_err() {
                tracing::warn!(upstream = %site.config.name, "no answer yet; starting all the same");
            }
            pending.done();
        });
    }
}

async fn obey(mut signals: Signals, state: Arc<Admin>, abort: Trigger) {
    loop {
        match signals.next().await {
            Signal::Stop => state.quit.start(),
            Signal::StopNow => abort.start(),
            Signal::Reopen => state.log.reopen(),
        }
    }
}

/// Waits until the process may end without losing a request.
async fn drain(state: &Admin) {
    let settings = &state.config.shutdown;
    let at_latest = Instant::now() + settings.grace_period.saturating_sub(GRACE_MARGIN);
    state.shared.drain();
    tracing::info!(requests = state.shared.requests_active(), "stopping");
    let mut last_busy = Instant::now();
    loop {
        let now = Instant::now();
        let shared = &state.shared;
        let (busy, quiet) = if settings.native_sidecar {
            // The app has ended: whoever could send another request is gone. A response that has ended is written out in
            // the same turn, or waits for its client. A connection that the app has left waits only for its pod's reading.
            let waits = shared.connections_blocked() > 0 || shared.tunnels_wanted() > 0;
            (shared.requests_active() > 0 || waits, LOOK)
        } else {
            // The app is still at work, and may open connections.
            (shared.connections_active() > 0, QUIET)
        };
        if busy {
            last_busy = now;
        } else if now - last_busy >= quiet {
            return;
        }
        if now >= at_latest {
            tracing::warn!(
                requests = state.shared.requests_active(),
                "leaving at the end of the grace period"
            );
            return;
        }
        sleep(LOOK).await;
    }
}

fn compile_format(config: &Config) -> Result<Format, StartError> {
    let compiled = log_format::compile(&config.access_log.format)?;
    for warning in compiled.warnings {
        tracing::warn!("access_log.format: {warning}");
    }
    Ok(compiled.format)
}
