//! What a run has found: as a table, as JSON, and as a plot.

mod markdown;
mod plot;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::options::Compare;
use crate::programs::{Programs, version};
use crate::row::Row;
use crate::statistics::Spread;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Microseconds on a core for each request, at the same offered load.
    Cpu,
    /// Of these, outside of the kernel.
    CpuUser,
    /// Microseconds on a core for each request, while all contestants serve at the same time on the same core.
    CpuTogether,
    /// Requests a second, as many as go.
    Rate,
    /// Microseconds on a core for each request then.
    CpuSaturated,
    /// Microseconds more than without a proxy, for half of the requests, at a calm load.
    P50,
    /// For 99 % of them.
    P99,
    /// For 99.9 % of them.
    P999,
    /// KiB before the first request.
    PssIdle,
    /// KiB at the end of the full load.
    PssLoaded,
    /// Microseconds on a core for each second without a request.
    CpuIdle,
    /// KiB for each idle connection.
    PerConnection,
}

/// What has become of a contestant.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// One value for each round, or one.
    Measured(BTreeMap<Metric, Vec<f64>>),
    /// By its nature: no failure.
    Cannot(String),
    /// Ours refuses the configuration.
    NotYet(String),
    /// It did not start, or a request failed.
    Failed(String),
}

/// A row with its results.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The row.
    pub row: Row,
    /// Workers of each proxy.
    pub workers: usize,
    /// In the order of the contestants.
    pub results: Vec<Entry>,
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Run {
    /// When, with which command, on what: names and values.
    pub facts: Vec<(&'static str, String)>,
    /// What was measured.
    pub rows: Vec<Measured>,
}

impl Run {
    /// Notes what is known before it.
    ///
    /// # Errors
    /// When a program does not tell its version.
    pub fn new(options: &Compare, programs: &Programs, cores: usize) -> Result<Self> {
        let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output().context("no date")?;
        let command: Vec<String> = std::env::args().skip(1).collect();
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let rounds = if options.quick {
            "1 (quick: the figures mean nothing)".into()
        } else {
            options.rounds.to_string()
        };
        Ok(Self {
            facts: vec![
                ("date", String::from_utf8_lossy(&date.stdout).trim().to_owned()),
                ("command", format!("cargo run --release -p whichpod-bench -- {}", command.join(" "))),
                ("machine", format!("{cores} cores, {}", cpu.trim_start_matches([' ', '\t', ':']))),
                ("kernel", kernel.trim().to_owned()),
                ("rounds", rounds),
                ("whichpod", version(&programs.sidecar, "--version")?),
                ("HAProxy", version(&programs.haproxy, "-v")?),
                ("nginx", version(&programs.nginx, "-v")?),
                ("Envoy", version(&programs.envoy, "--version")?),
            ],
            rows: Vec::new(),
        })
    }

    /// Adds a row.
    pub fn add(&mut self, row: &Row, workers: usize, results: Vec<Entry>) {
        self.rows.push(Measured { row: row.clone(), workers, results });
    }

    /// True if everybody did what can be asked of it.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let results = self.rows.iter().flat_map(|row| &row.results);
        !self.rows.is_empty()
            && !results.into_iter().any(|r| matches!(r, Entry::Failed(_) | Entry::NotYet(_)))
    }
}

impl Entry {
    /// The spread of one metric.
    #[must_use]
    pub fn spread(&self, metric: Metric) -> Option<Spread> {
        Spread::of(self.values(metric)?)
    }

    /// The spread of whichpod's value by this one, round by round.
    #[must_use]
    pub fn ratio(&self, whichpod: &Self, metric: Metric) -> Option<Spread> {
        Spread::of_ratios(whichpod.values(metric)?, self.values(metric)?)
    }

    fn values(&self, metric: Metric) -> Option<&Vec<f64>> {
        match self {
            Self::Measured(metrics) => metrics.get(&metric),
            _ => None,
        }
    }
}

/// A line about a contestant while the run goes on.
#[must_use]
pub fn in_short(result: &Entry) -> String {
    match result {
        Entry::Measured(metrics) => metrics
            .iter()
            .filter_map(|(metric, values)| Some(format!("{metric:?} {:.1}", Spread::of(values)?.median)))
            .collect::<Vec<_>>()
            .join(", "),
        Entry::Cannot(reason) => format!("cannot: {reason}"),
        Entry::NotYet(reason) => format!("NOT YET: {reason}"),
        Entry::Failed(reason) => format!("FAILED: {reason}"),
    }
}

/// Writes `bench.md`, `bench.json` and `bench.svg` into this folder.
///
/// # Errors
/// When they cannot be written.
pub fn write(run: &Run, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in [
        ("bench.md", markdown::table(run)),
        ("bench.json", format!("{:#}\n", as_json(run))),
        ("bench.svg", plot::svg(run)),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn as_json(run: &Run) -> Value {
    let facts: serde_json::Map<_, _> =
        run.facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let rows: Vec<_> = run.rows.iter().map(row_as_json).collect();
    json!({"run": facts, "rows": rows})
}

fn row_as_json(measured: &Measured) -> Value {
    let contestants =
        std::iter::zip(measured.row.contestants, &measured.results).map(|(contestant, result)| {
            let (outcome, reason) = match result {
                Entry::Measured(_) => ("measured", None),
                Entry::Cannot(reason) => ("cannot", Some(reason)),
                Entry::NotYet(reason) => ("not yet", Some(reason)),
                Entry::Failed(reason) => ("failed", Some(reason)),
            };
            let metrics = match result {
                Entry::Measured(metrics) => metrics.clone(),
                _ => BTreeMap::new(),
            };
            let figures: BTreeMap<_, _> = metrics
                .into_iter()
                .map(|(metric, values)| {
                    let ratio = result.ratio(&measured.results[0], metric);
                    let spread = Spread::of(&values);
                    (metric, json!({"spread": spread, "whichpod_ratio": ratio, "rounds": values}))
                })
                .collect();
            json!({"name": contestant.label, "outcome": outcome, "reason": reason, "metrics": figures})
        });
    json!({
        "id": measured.row.id,
        "title": measured.row.title,
        "workers": measured.workers,
        "contestants": contestants.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::row::rows;

    pub(crate) fn run() -> Run {
        let measured = |scale: f64| {
            Entry::Measured(BTreeMap::from([
                (Metric::Cpu, [10.0, 11.0, 12.0].map(|value| value * scale).to_vec()),
                (Metric::PssIdle, vec![4_096.0 * scale]),
            ]))
        };
        let row = rows().into_iter().find(|row| row.id == "http1").unwrap();
        let results = vec![
            measured(1.0),
            measured(2.0),
            Entry::Cannot("it asks <once>".into()),
            Entry::Failed("3 of 9 requests failed".into()),
        ];
        Run { facts: vec![("date", "today".into())], rows: vec![Measured { row, workers: 1, results }] }
    }

    #[test]
    fn json_has_the_ratio_of_whichpod_to_each() {
        let json = as_json(&run());
        let contestants = &json["rows"][0]["contestants"];
        assert_eq!(contestants[1]["metrics"]["cpu"]["whichpod_ratio"]["median"], 0.5);
        assert_eq!(contestants[2]["outcome"], "cannot");
        assert_eq!(contestants[3]["reason"], "3 of 9 requests failed");
    }

    #[test]
    fn a_failed_contestant_fails_the_run_and_one_that_cannot_does_not() {
        let mut run = run();
        assert!(!run.is_good());
        run.rows[0].results.pop();
        assert!(run.is_good());
        run.rows[0].results.push(Entry::NotYet("protocol".into()));
        assert!(!run.is_good());
        run.rows.clear();
        assert!(!run.is_good(), "nothing measured is not good");
    }
}
