//! The real sidecar in this process, configured by a document and read by its access log.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use whichpod_config::{Outcome, load};
use whichpod_sidecar::app::{Running, build};
use whichpod_sidecar::log_format::checks;

/// A sidecar; dropping it ends it.
pub struct Sidecar {
    running: Option<Running>,
    log: PathBuf,
    _folder: TempDir,
}

/// How long a test waits for something that should be there in milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

impl Sidecar {
    /// Starts with this document, on ports that the kernel chooses: what the document lacks (`admin`, `health`, where the
    /// access log goes) is filled in. The log's format is `json` unless the document says another.
    ///
    /// # Errors
    /// Everything that the sidecar itself would refuse to start with.
    pub fn start(mut document: Value) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("access.log");
        let defaults = json!({
            "admin": {"address": "127.0.0.1:0"},
            "health": {"address": "127.0.0.1:0"},
            "access_log": {"format": "json", "path": log},
        });
        fill_in(&mut document, &defaults);
        let environment = BTreeMap::from([("WHICHPOD_CONFIG".to_owned(), document.to_string())]);
        let loaded = load(std::iter::empty::<OsString>(), &environment, &checks());
        let config = match loaded {
            Ok(Outcome::Run { config, .. }) => config,
            Ok(_) => return Err(io::Error::other("the configuration asks for something else than to run")),
            Err(failure) => return Err(io::Error::other(failure.to_string())),
        };
        let bound = build(config).map_err(io::Error::other)?;
        Ok(Self { running: Some(bound.spawn()?), log, _folder: folder })
    }

    /// Where the upstream with this name listens.
    pub fn address(&self, upstream: &str) -> Option<SocketAddr> {
        let listeners = &self.running.as_ref()?.listeners;
        listeners.iter().find(|(name, _)| &**name == upstream).map(|(_, address)| *address)
    }

    /// The admin server's address.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.running.as_ref().map(|running| running.admin)
    }

    /// The address of `/ready` and `/metrics`.
    pub fn health(&self) -> Option<SocketAddr> {
        self.running.as_ref().map(|running| running.health)
    }

    /// The access log's file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until `/ready` would answer 200; false if it never does.
    pub async fn ready(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !self.running.as_ref().is_some_and(Running::is_ready) {
            if Instant::now() > deadline {
                return false;
            }
            sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// The access log's lines once there are at least so many; what there is after ten seconds otherwise.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn lines(&self, at_least: usize) -> io::Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&self.log)?;
            let lines: Vec<_> = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
            if lines.len() >= at_least || Instant::now() > deadline {
                return Ok(lines.into_iter().map(|line| line.trim_end().to_owned()).collect());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The lines of a JSON log, parsed; see [`Self::lines`].
    ///
    /// # Errors
    /// When the file cannot be read, or a line is not JSON.
    pub async fn records(&self, at_least: usize) -> io::Result<Vec<Value>> {
        let lines = self.lines(at_least).await?;
        lines.iter().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
    }

    /// Stops as a signal would and waits for the end; returns how long that took.
    pub async fn stop(&mut self) -> Duration {
        let Some(running) = self.running.take() else { return Duration::ZERO };
        tokio::task::spawn_blocking(|| running.stop()).await.unwrap_or_default()
    }
}

/// Adds what is in `defaults` and not in `value`, at every level.
fn fill_in(value: &mut Value, defaults: &Value) {
    let (Value::Object(value), Value::Object(defaults)) = (value, defaults) else { return };
    for (key, default) in defaults {
        match value.get_mut(key) {
            Some(present) => fill_in(present, default),
            None => {
                value.insert(key.clone(), default.clone());
            }
        }
    }
}
