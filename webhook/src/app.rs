//! Everything put together: bound first, so that a busy port is an error of the start, then run until it is told to stop.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use arc_swap::ArcSwap;
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use whichpod_runtime::bind::{BindError, bind};
use whichpod_runtime::exit::Exit;
use whichpod_runtime::health_server;
use whichpod_runtime::readiness::{Pending, Readiness};
use whichpod_runtime::shutdown::Shutdown;

use crate::admission::{self, Handler, Reviews};
use crate::cache::Cache;
use crate::certificates::Served;
use crate::certificates::keeper::{Keeper, Setup};
use crate::cluster::connect::{ConnectError, connect};
use crate::cluster::detect;
use crate::config::Config;
use crate::events::Events;
use crate::leader::{Election, while_leading};
use crate::metrics::{Sources, metrics};
use crate::report::Report;
use crate::server;
use crate::twins::Twins;

/// How long the end of the background work may take: giving back the Lease.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(5);

/// Why the webhook does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// There is no way to the API server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The operating system refuses something.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl StartError {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Bind(_) | Self::Io(_) => Exit::OsErr,
            Self::Connect(_) => Exit::Config,
        }
    }
}

/// A webhook that listens, and does nothing yet.
pub struct Bound {
    config: Config,
    client: Client,
    namespace: String,
    webhook: TcpListener,
    health: TcpListener,
    /// Where the API server reaches it.
    pub address: SocketAddr,
    /// Where kubelet and Prometheus reach it.
    pub health_address: SocketAddr,
}

/// Binds the ports and finds the API server's address; the API server is not asked yet.
///
/// # Errors
/// When a port cannot be had or the API server's address is unknown.
pub async fn build(config: Config) -> Result<Bound, StartError> {
    let (client, its_namespace) = connect(config.kubeconfig.as_deref()).await?;
    let namespace = config.namespace.clone().unwrap_or(its_namespace);
    let webhook = bind(config.listen, "the webhook")?;
    let health = bind(config.health, "health and metrics")?;
    let (address, health_address) = (webhook.local_addr()?, health.local_addr()?);
    Ok(Bound { config, client, namespace, webhook, health, address, health_address })
}

/// What the parts of a running webhook share.
struct Parts {
    config: Config,
    client: Client,
    namespace: String,
    cache: Cache,
    options: Arc<ArcSwap<whichpod_injection::Options>>,
    served: Served,
    reviews: Arc<Reviews>,
    readiness: Readiness,
}

impl Bound {
    /// Runs until `stop` is done: then it is not ready any more, goes on for the configured delay, refuses new connections,
    /// finishes what runs, and gives back the Lease.
    ///
    /// # Errors
    /// When a listener cannot be used.
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let Self { config, client, namespace, webhook, health, address, health_address } = self;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, %health_address, namespace, "started");
        let parts = Parts {
            options: Arc::new(ArcSwap::from_pointee(config.options.clone())),
            config,
            client,
            namespace,
            cache: Cache::new(),
            served: Served::default(),
            reviews: Arc::default(),
            readiness: Readiness::new(),
        };
        let (leave, left) = watch::channel(false);
        let mut background = JoinSet::new();
        let sources = parts.background(&mut background, left);
        let metrics = Arc::new(metrics(sources));
        let health = health_server::serve(health, parts.readiness.clone(), move || metrics.encode());
        let (drain, draining) = Shutdown::new();
        let router = admission::router(Handler::new(
            parts.cache.clone(),
            Arc::clone(&parts.options),
            Arc::clone(&parts.reviews),
            parts.config.request_timeout,
        ));
        let server = server::serve(webhook, router, parts.served.clone(), draining.clone());
        let ending = async {
            stop.await;
            tracing::info!("stopping");
            parts.readiness.not_ready();
            sleep(parts.config.shutdown_delay).await;
            drain.start();
        };
        let whole = async {
            let ((), served) = tokio::join!(ending, server);
            served?;
            if !draining.drained(Instant::now() + parts.config.shutdown_timeout).await {
                tracing::warn!(connections = draining.running(), "some connections are cut off");
            }
            io::Result::Ok(())
        };
        tokio::select! {
            ended = whole => ended?,
            Err(error) = health => return Err(error),
        }
        leave.send_replace(true);
        let _ = timeout(LAST_WORDS, async { while background.join_next().await.is_some() {} }).await;
        tracing::info!("stopped");
        Ok(())
    }
}

impl Parts {
    /// Starts everything that is done besides answering. Only the election ends by itself, after `left` says so.
    fn background(&self, tasks: &mut JoinSet<()>, left: watch::Receiver<bool>) -> Sources {
        let Self { config, client, namespace, cache, options, served, readiness, .. } = self;
        let (election, leading) =
            Election::new(client.clone(), namespace, &config.lease_name, &config.identity);
        let gone = {
            let mut left = left.clone();
            async move {
                let _ = left.wait_for(|left| *left).await;
            }
        };
        tasks.spawn(election.run(gone));
        let until_left = Until(left);

        let listed = readiness.pending("the list of Services and Namespaces");
        tasks.spawn(until_left.clone().run(keep_cache(cache.clone(), client.clone(), listed)));
        let known = readiness.pending("the API server's version");
        let detect = detect::run(client.clone(), config.wanted, Arc::clone(options), known);
        tasks.spawn(until_left.clone().run(detect));

        let mut names = vec![format!("{}.{namespace}.svc", config.service_name)];
        names.extend(config.tls_names.iter().cloned());
        let keeper = Keeper::new(Setup {
            client: client.clone(),
            namespace: namespace.clone(),
            source: config.certificates.clone(),
            configurations: config.configurations.clone(),
            names,
            served: served.clone(),
            leading: leading.clone(),
            readiness: readiness.clone(),
        });
        tasks.spawn(until_left.clone().run(keeper.run()));

        let events = Events::new(client.clone(), &config.identity);
        let counts = Arc::default();
        let policy = config.options.headless_services;
        let twins = Twins::new(client.clone(), cache.clone(), policy, events.clone(), Arc::clone(&counts));
        let uninjected = Arc::default();
        let report =
            Report::new(client.clone(), cache.clone(), Arc::clone(options), events, Arc::clone(&uninjected));
        let lead = while_leading(leading.clone(), move || {
            let (twins, report) = (twins.clone(), report.clone());
            async move {
                tokio::join!(twins.run(), report.run());
            }
        });
        tasks.spawn(until_left.run(lead));
        Sources {
            reviews: Arc::clone(&self.reviews),
            cache: cache.clone(),
            served: served.clone(),
            leading,
            twins: counts,
            uninjected,
        }
    }
}

async fn keep_cache(cache: Cache, client: Client, listed: Pending) {
    let ready = async {
        cache.synced().await;
        drop(listed);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = cache.run(client) => {}
        () = ready => {}
    }
}

/// Ends what has no end.
#[derive(Clone)]
struct Until(watch::Receiver<bool>);

impl Until {
    async fn run(mut self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            _ = self.0.wait_for(|left| *left) => {}
        }
    }
}
