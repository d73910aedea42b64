//! `h2load` (nghttp2) for HTTP/2 and gRPC.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Outcome, Pace};
use crate::process::last_lines;

/// What to send, over how many connections and streams.
#[derive(Debug, Clone)]
pub struct Load {
    /// The program.
    pub h2load: PathBuf,
    /// Where to.
    pub target: SocketAddr,
    /// The path that is asked for.
    pub path: String,
    /// Connections.
    pub connections: usize,
    /// Streams at a time on each.
    pub streams: usize,
    /// A file that is sent as the body (POST).
    pub body: Option<PathBuf>,
    /// Additional fields.
    pub fields: Vec<&'static str>,
}

impl Load {
    /// Runs it for this time; `folder` takes its log.
    ///
    /// # Errors
    /// When `h2load` cannot be run or understood. A request that fails is no error, but counted.
    pub fn run(&self, pace: Pace, length: Duration, folder: &Path) -> Result<Outcome> {
        let log = folder.join("h2load.log");
        let _ = fs::remove_file(&log);
        let mut command = Command::new(&self.h2load);
        let clients = match pace {
            Pace::Closed => self.connections,
            Pace::Open(rate) => clients(rate * length.as_secs_f64(), self.connections),
        };
        command
            .args(["--threads=1", "--warm-up-time=0"])
            .arg(format!("--clients={clients}"))
            .arg(format!("--max-concurrent-streams={}", self.streams))
            .arg(format!("--duration={}ms", length.as_millis()))
            .arg(format!("--log-file={}", log.display()));
        if let Pace::Open(rate) = pace {
            command.arg(format!("--rps={:.3}", rate / clients as f64));
        }
        if let Some(body) = &self.body {
            command.arg(format!("--data={}", body.display()));
        }
        command.args(self.fields.iter().map(|field| format!("--header={field}")));
        command.arg(format!("http://{}{}", self.target, self.path));
        let output = command.output().context("cannot start h2load")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "h2load failed ({}): {}",
            output.status,
            last_lines(&[&said, &*String::from_utf8_lossy(&output.stderr)].concat())
        );
        let mut outcome = summary(&said).with_context(|| format!("h2load said {}", last_lines(&said)))?;
        outcome.latencies = latencies(&fs::read_to_string(&log).unwrap_or_default());
        Ok(outcome)
    }
}

/// A client that is to send less than a few requests may send none: fewer of them, then.
fn clients(requests: f64, most: usize) -> usize {
    (1..=most).rev().find(|clients| requests >= 8.0 * *clients as f64).unwrap_or(1)
}

/// `finished in 1.01s, 123.45 req/s, …` and
/// `requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout`.
fn summary(text: &str) -> Option<Outcome> {
    let finished = text.lines().find_map(|line| line.strip_prefix("finished in "))?;
    let rate: f64 = finished.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok()?;
    let requests = text.lines().find_map(|line| line.strip_prefix("requests: "))?;
    let count = |what: &str| -> Option<usize> {
        requests.split(", ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    let ok = count("succeeded")?;
    // `failed` includes what errored and timed out.
    let failed = count("failed")?;
    Some(Outcome {
        ok,
        failed,
        reason: (failed > 0).then(|| format!("h2load: {requests}")),
        elapsed: Duration::from_secs_f64(if rate > 0.0 { ok as f64 / rate } else { 0.0 }),
        latencies: Vec::new(),
    })
}

/// Of each line `START STATUS MICROSECONDS`, the last where the status is 200; sorted.
fn latencies(log: &str) -> Vec<f64> {
    let mut latencies: Vec<f64> = log
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t').skip(1);
            (fields.next() == Some("200")).then(|| fields.next()?.trim().parse().ok())?
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "starting benchmark...\n\nfinished in 2.00s, 500.00 req/s, 40.00KB/s\n\
        requests: 1010 total, 1000 started, 1000 done, 1000 succeeded, 10 failed, 4 errored, 6 timeout\n";

    #[test]
    fn what_h2load_says_is_understood() {
        let outcome = summary(SAID).unwrap();
        assert_eq!((outcome.ok, outcome.failed), (1_000, 10));
        assert_eq!(outcome.elapsed, Duration::from_secs(2));
        assert!(outcome.reason.unwrap().contains("4 errored"));
        assert!(summary("finished in").is_none());
    }

    #[test]
    fn a_calm_load_comes_from_fewer_clients() {
        assert_eq!([1_000.0, 64.0, 63.0, 10.0, 0.5].map(|requests| clients(requests, 8)), [8, 8, 7, 1, 1]);
    }

    #[test]
    fn only_right_answers_have_a_latency() {
        assert_eq!(latencies("1\t200\t300\n2\t503\t1\n3\t200\t100\n"), [100.0, 300.0]);
    }
}
