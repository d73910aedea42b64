//! One replica of the webhook, on a thread and a runtime of its own, so that it can end like a process.

use std::net::SocketAddr;
use std::sync::Once;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::oneshot;
use whichpod_cluster::{http_get, wait_for};
use whichpod_webhook::app;
use whichpod_webhook::config::{Config, Outcome, load};

use crate::Installation;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running webhook; it ends like a killed process when this is dropped.
pub struct Replica {
    address: SocketAddr,
    health: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Replica {
    /// Starts one; the installation does not register it.
    pub fn start(installation: &Installation, identity: &str, flags: &[&str]) -> Result<Self> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Fails only if there is one already.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let config = config(installation, identity, flags)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (kill, killed) = oneshot::channel::<()>();
        let (bound, listens) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async move {
                match app::build(config).await {
                    Ok(webhook) => {
                        let _ = bound.send(Ok((webhook.address, webhook.health_address)));
                        tokio::select! {
                            _ = webhook.run(async { drop(stopped.await) }) => {}
                            _ = killed => {}
                        }
                    }
                    Err(error) => drop(bound.send(Err(error))),
                }
            });
            // Whatever still runs ends at once, as in a killed process.
            runtime.shutdown_background();
        });
        let (address, health) = listens.recv().context("the webhook did not start")??;
        Ok(Self { address, health, stop: Some(stop), kill: Some(kill), thread: Some(thread) })
    }

    /// Where the API server reaches it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where kubelet and Prometheus reach it.
    pub fn health(&self) -> SocketAddr {
        self.health
    }

    /// What `/ready` says.
    pub fn readiness(&self) -> Result<String> {
        Ok(http_get(self.health, "/ready")?.body.trim_end().to_owned())
    }

    /// Waits until it is ready.
    pub fn ready(&self) -> Result<()> {
        let mut last = String::new();
        let ready = wait_for("the webhook to be ready", PATIENCE, || {
            last = self.readiness()?;
            Ok((last == "ready").then_some(()))
        });
        ready.context(last)
    }

    /// The value of a metric; `series` is its name with its labels, without `whichpod_webhook_`.
    pub fn metric(&self, series: &str) -> Result<f64> {
        let metrics = http_get(self.health, "/metrics")?.body;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("whichpod_webhook_")?.strip_prefix(series)?.strip_prefix(' '));
        Ok(line.map(str::parse).transpose()?.unwrap_or(0.0))
    }

    /// Waits until it leads, or doesn't.
    pub fn leads(&self, leads: bool) -> Result<()> {
        wait_for("the election", PATIENCE, || {
            Ok((self.metric("leading")? == f64::from(u8::from(leads))).then_some(()))
        })
    }

    /// Ends it like SIGTERM, and waits for the end.
    pub fn stop(mut self) {
        self.stop.take();
        self.join();
    }

    /// Ends it like SIGKILL: nothing is finished, nothing is given back.
    pub fn kill(mut self) {
        self.kill.take();
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill.take();
        self.join();
    }
}

fn config(installation: &Installation, identity: &str, flags: &[&str]) -> Result<Config> {
    let kubeconfig = installation.kubeconfig().to_string_lossy().into_owned();
    let own = [
        "whichpod-webhook".to_owned(),
        format!("--kubeconfig={kubeconfig}"),
        format!("--namespace={}", installation.name()),
        format!("--webhook-configuration={}", installation.name()),
        format!("--identity={identity}"),
        // What the manifest calls them.
        "--service-name=whichpod".to_owned(),
        "--lease-name=whichpod-webhook".to_owned(),
        "--secret-name=whichpod-webhook-tls".to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
        "--health=127.0.0.1:0".to_owned(),
        "--tls-san=127.0.0.1".to_owned(),
        "--shutdown-delay=0s".to_owned(),
        "--image=whichpod-sidecar:test".to_owned(),
    ];
    let said = |flag: &String| {
        let name = flag.split('=').next().unwrap_or_default();
        flags.iter().any(|said| said.split('=').next() == Some(name) && name.starts_with("--"))
    };
    let own = own.into_iter().filter(|flag| !said(flag));
    let arguments = own.chain(flags.iter().map(ToString::to_string)).map(Into::into);
    match load(arguments, "test") {
        Ok(Outcome::Run(config)) => Ok(*config),
        Ok(Outcome::Print(text)) => bail!("{text}"),
        Err(wrong) => bail!("{wrong}"),
    }
}
