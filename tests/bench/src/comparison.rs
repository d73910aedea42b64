//! One run: every row, every contestant, round after round, and then the report.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use whichpod_testkit::backend::free_port;

use crate::backends::{Backends, NAME, addresses};
use crate::cores::{self, Cores};
use crate::load::answer::Expected;
use crate::load::{Outcome, Pace, Until, driver, h2load};
use crate::meter::{Cpu, Family};
use crate::options::Compare;
use crate::peer::{Peer, Protocol, Setup};
use crate::process::{Process, last_lines, pause};
use crate::programs::{self, Programs};
use crate::report::{self, Entry, Metric, Run};
use crate::row::{Call, Contestant, Row, Traffic, rows};

/// A program is given this long to answer its first requests.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same requests a second for all, when time on the core is measured: this share of the slowest one's capacity.
const BUSY: f64 = 0.7;
/// The same, when latency is measured.
const CALM: f64 = 0.3;
/// So few connections show that a proxy serves, before many of them are counted.
const WARMING: usize = 8;
/// TCP: there and back at a time.
const CHUNK: usize = 16 * 1024;
/// Connections are idle when nothing was heard of them for this long.
const SILENCE: Duration = Duration::from_secs(8);

/// Runs the comparison; false if a request failed, or a contestant could not take part.
///
/// # Errors
/// When a program is missing, or the run cannot go on.
pub fn run(options: &Compare) -> Result<bool> {
    let chosen = choose(&options.rows)?;
    let programs = Programs::find(options.sidecar.as_deref())?;
    let folder = tempfile::Builder::new().prefix("whichpod-bench-").tempdir()?;
    let all_cores = cores::available()?;
    let mut run = Run::new(options, &programs, all_cores.len())?;
    let workers =
        if options.quick { &options.workers[..1.min(options.workers.len())] } else { &options.workers };
    for workers in workers {
        let cores = cores::divide(&all_cores, *workers)?;
        cores::bind_to(&cores.load)?;
        let backends = Backends::start(&programs, &cores.load, folder.path())?;
        for row in &chosen {
            let bench =
                Bench { programs: &programs, backends: &backends, cores: &cores, workers: *workers, options };
            let started = Instant::now();
            let results = bench.row(row, folder.path())?;
            say!("{workers} worker(s), {}: {:.0} s", row.title, started.elapsed().as_secs_f64());
            for (contestant, result) in std::iter::zip(row.contestants, &results) {
                say!("    {:<22} {}", contestant.label, report::in_short(result));
            }
            run.add(row, *workers, results);
        }
        drop(backends);
        cores::bind_to(&all_cores)?;
    }
    let output = options.output.clone().unwrap_or_else(|| programs::target_folder().join("bench"));
    report::write(&run, &output)?;
    say!("written: {}", output.join("bench.md").display());
    Ok(run.is_good())
}

fn choose(ids: &[String]) -> Result<Vec<Row>> {
    let all = rows();
    for id in ids {
        let known: Vec<_> = all.iter().map(|row| row.id).collect();
        ensure!(known.contains(&id.as_str()), "--rows {id}: no such row; there are {}", known.join(", "));
    }
    Ok(all.into_iter().filter(|row| ids.is_empty() || ids.iter().any(|id| id == row.id)).collect())
}

/// What all rows of one number of workers share.
struct Bench<'a> {
    programs: &'a Programs,
    backends: &'a Backends,
    cores: &'a Cores,
    workers: usize,
    options: &'a Compare,
}

/// A proxy that takes part.
struct Running {
    _process: Process,
    family: Family,
    client: Client,
    folder: PathBuf,
    metrics: BTreeMap<Metric, Vec<f64>>,
}

/// The load on one target.
enum Client {
    Own(driver::Load),
    H2(h2load::Load),
}

impl Bench<'_> {
    fn length(&self) -> Duration {
        Duration::from_millis(if self.options.quick { 300 } else { self.options.milliseconds })
    }

    fn row(&self, row: &Row, folder: &Path) -> Result<Vec<Entry>> {
        let _published = self.backends.publish(row.pods);
        let mut entered: Vec<Result<Running, Entry>> = Vec::new();
        for (index, contestant) in row.contestants.iter().enumerate() {
            let place = folder.join(format!("{}-{index}", row.id));
            fs::create_dir_all(&place)?;
            entered.push(self.enter(row, contestant, &place));
        }
        self.rounds(row, &mut entered, folder)?;
        let results = entered.into_iter().map(|one| match one {
            Ok(running) => Entry::Measured(running.metrics),
            Err(result) => result,
        });
        let results = results.collect();
        for index in 0..row.contestants.len() {
            // Logs are large.
            fs::remove_dir_all(folder.join(format!("{}-{index}", row.id)))?;
        }
        Ok(results)
    }

    /// Starts a proxy and waits until it answers well.
    fn enter(&self, row: &Row, contestant: &Contestant, folder: &Path) -> Result<Running, Entry> {
        let failed = |error: anyhow::Error| Entry::Failed(format!("{error:#}"));
        let port = free_port(&[Ipv4Addr::LOCALHOST.into()]).map_err(|error| failed(error.into()))?;
        let pods = addresses(row.pods, 0);
        let setup = Setup {
            protocol: row.protocol,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            name: NAME,
            port: self.backends.port(row.protocol),
            pods: &pods,
            changes: row.pods,
            dns: self.backends.dns(),
            workers: self.workers,
            log: contestant.log,
            folder,
        };
        if let Some(reason) = contestant.peer.cannot(&setup) {
            return Err(Entry::Cannot(reason.to_owned()));
        }
        let launch = contestant.peer.launch(self.programs, &setup);
        fs::write(folder.join(launch.file), &launch.text).map_err(|error| failed(error.into()))?;
        if contestant.peer == Peer::Whichpod {
            check(&launch.command, folder).map_err(Entry::NotYet)?;
        }
        self.start(row, contestant, setup.listen, &launch.command, folder).map_err(failed)
    }

    fn start(
        &self,
        row: &Row,
        contestant: &Contestant,
        listen: SocketAddr,
        command: &[std::ffi::OsString],
        folder: &Path,
    ) -> Result<Running> {
        // HAProxy's log is its standard output.
        let stdout = match contestant.peer {
            Peer::Haproxy => Some(File::options().create(true).append(true).open(folder.join("access.log"))?),
            _ => None,
        };
        let Programs { setpriv, .. } = self.programs;
        let mut process =
            Process::start(setpriv, contestant.label, command, &self.cores.proxy, folder, stdout)?;
        process.wait_until(PATIENCE, || TcpStream::connect(listen).is_ok())?;
        pause(self.length());
        let family = Family::of(process.id())?;
        let mut metrics = BTreeMap::from([(Metric::PssIdle, vec![family.pss()?])]);
        let before = family.cpu()?;
        pause(self.length());
        let spent = (family.cpu()? - before).total / self.length().as_secs_f64();
        metrics.insert(Metric::CpuIdle, vec![spent]);
        let warming = match row.traffic {
            Traffic::Idle(_) => Row { traffic: Traffic::Idle(WARMING), ..row.clone() },
            _ => row.clone(),
        };
        let warm_up = client(&warming, self.programs, listen, folder)?;
        let mut reason = None;
        let ready = process.wait_until(PATIENCE, || {
            match warm_up.run(Pace::Closed, Duration::from_millis(100), folder, || Ok(())) {
                Ok(outcome) => {
                    reason = outcome.reason;
                    outcome.failed == 0 && outcome.ok > 0
                }
                Err(error) => {
                    reason = Some(format!("{error:#}"));
                    false
                }
            }
        });
        ready.with_context(|| reason.unwrap_or_default())?;
        let client = client(row, self.programs, listen, folder)?;
        Ok(Running { _process: process, family, client, folder: folder.to_owned(), metrics })
    }

    fn rounds(&self, row: &Row, entered: &mut [Result<Running, Entry>], folder: &Path) -> Result<()> {
        let rounds = if self.options.quick { 1 } else { self.options.rounds };
        if let Traffic::Idle(connections) = row.traffic {
            return self.idle(connections, entered, folder);
        }
        // What the slowest can do decides what all are asked for.
        let mut capacity = f64::INFINITY;
        for one in entered.iter_mut() {
            let Ok(running) = one else { continue };
            let outcome = running.client.run(Pace::Closed, self.length(), folder, || Ok(()));
            match outcome.and_then(good) {
                Ok(outcome) => capacity = capacity.min(outcome.rate()),
                Err(error) => *one = Err(Entry::Failed(format!("{error:#}"))),
            }
        }
        if capacity.is_infinite() {
            return Ok(());
        }
        let pod = SocketAddr::from((addresses(row.pods, 0)[0], self.backends.port(row.protocol)));
        let direct = client(row, self.programs, pod, folder)?;
        for round in 0..rounds {
            let calm = direct.run(Pace::Open(capacity * CALM), self.length(), folder, || Ok(()))?;
            // A B, B A, A B: whatever drifts hits all alike.
            let mut order: Vec<usize> = (0..entered.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let Ok(running) = &mut entered[index] else { continue };
                if let Err(error) = self.round(running, capacity, &calm) {
                    entered[index] = Err(Entry::Failed(format!("round {}: {error:#}", round + 1)));
                }
            }
            self.together(entered, capacity, round);
        }
        Ok(())
    }

    /// All at the same time on the same core: what drifts hits all alike, and nobody has the caches for itself, as a sidecar
    /// beside its app has not.
    fn together(&self, entered: &mut [Result<Running, Entry>], capacity: f64, round: usize) {
        let running = entered.iter().filter(|one| one.is_ok()).count();
        let pace = Pace::Open(capacity * BUSY / running as f64);
        let measure = |running: &Running| {
            let (outcome, spent) = running.serve(pace, self.length(), || Ok(()))?;
            Ok(spent.total / outcome.ok as f64)
        };
        let measured: Vec<_> = std::thread::scope(|scope| {
            let started: Vec<_> =
                entered.iter().map(|one| one.as_ref().ok().map(|one| scope.spawn(|| measure(one)))).collect();
            let ended = |thread: ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("the load panicked")))
            };
            started.into_iter().map(|thread| thread.map(ended)).collect()
        });
        for (one, measured) in std::iter::zip(entered, measured) {
            match (&mut *one, measured) {
                (Ok(Running { metrics, .. }), Some(Ok(spent))) => {
                    metrics.entry(Metric::CpuTogether).or_default().push(spent);
                }
                (_, Some(Err(error))) => {
                    *one = Err(Entry::Failed(format!("round {}, together: {error:#}", round + 1)));
                }
                _ => {}
            }
        }
    }

    /// The three measurements of one contestant.
    fn round(&self, running: &mut Running, capacity: f64, direct: &Outcome) -> Result<()> {
        let (busy, spent_busy) = running.serve(Pace::Open(capacity * BUSY), self.length(), || Ok(()))?;
        let mut pss = Ok(f64::NAN);
        let (full, spent_full) = running.serve(Pace::Closed, self.length(), || {
            pss = running.family.pss();
            Ok(())
        })?;
        let (calm, _) = running.serve(Pace::Open(capacity * CALM), self.length(), || Ok(()))?;

        let mut note = |metric, value| running.metrics.entry(metric).or_default().push(value);
        note(Metric::Cpu, spent_busy.total / busy.ok as f64);
        note(Metric::CpuUser, spent_busy.user() / busy.ok as f64);
        note(Metric::Rate, full.rate());
        note(Metric::CpuSaturated, spent_full.total / full.ok as f64);
        note(Metric::PssLoaded, pss?);
        let added =
            std::iter::zip(calm.percentiles(), direct.percentiles()).map(|(all, direct)| all - direct);
        for (metric, added) in std::iter::zip([Metric::P50, Metric::P99, Metric::P999], added) {
            note(metric, added);
        }
        Ok(())
    }

    /// What connections cost that do nothing.
    fn idle(&self, connections: usize, entered: &mut [Result<Running, Entry>], folder: &Path) -> Result<()> {
        for one in entered.iter_mut() {
            let Ok(Running { family, client, metrics, .. }) = one else { continue };
            let before = family.pss()?;
            let mut after = before;
            let mut spent = f64::NAN;
            let outcome = client.requests(connections, folder, || {
                pause(SILENCE);
                let cpu = family.cpu()?;
                pause(self.length());
                spent = (family.cpu()? - cpu).total / self.length().as_secs_f64();
                after = family.pss()?;
                Ok(())
            });
            match outcome.and_then(good) {
                Ok(_) => {
                    metrics.insert(Metric::PssLoaded, vec![after]);
                    metrics.insert(Metric::PerConnection, vec![(after - before) / connections as f64]);
                    metrics.insert(Metric::CpuIdle, vec![spent]);
                }
                Err(error) => *one = Err(Entry::Failed(format!("{error:#}"))),
            }
        }
        Ok(())
    }
}

impl Running {
    /// Serves a load of which no request may fail; what came of it, and the time that took.
    fn serve(
        &self,
        pace: Pace,
        length: Duration,
        at_end: impl FnOnce() -> Result<()>,
    ) -> Result<(Outcome, Cpu)> {
        let before = self.family.cpu()?;
        let outcome = good(self.client.run(pace, length, &self.folder, at_end)?)?;
        Ok((outcome, self.family.cpu()? - before))
    }
}

fn good(outcome: Outcome) -> Result<Outcome> {
    if outcome.failed > 0 || outcome.ok == 0 {
        let reason = outcome.reason.unwrap_or_default();
        bail!(
            "{} of {} requests failed, {} were answered: {reason}",
            outcome.failed,
            outcome.ok + outcome.failed,
            outcome.ok
        );
    }
    Ok(outcome)
}

/// Asks our own program whether it can do that at all; what it says, if not.
fn check(command: &[std::ffi::OsString], folder: &Path) -> Result<(), String> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let asked = Command::new(program).args(arguments).arg("--check").current_dir(folder).output();
    let asked = asked.map_err(|error| format!("cannot start: {error}"))?;
    if asked.status.success() { Ok(()) } else { Err(last_lines(&String::from_utf8_lossy(&asked.stderr))) }
}

impl Client {
    fn run(
        &self,
        pace: Pace,
        length: Duration,
        folder: &Path,
        at_end: impl FnOnce() -> Result<()>,
    ) -> Result<Outcome> {
        match self {
            Self::Own(load) => load.run(pace, Until::Time(length), at_end),
            Self::H2(load) => {
                let outcome = load.run(pace, length, folder)?;
                at_end()?;
                Ok(outcome)
            }
        }
    }

    fn requests(&self, count: usize, folder: &Path, at_end: impl FnOnce() -> Result<()>) -> Result<Outcome> {
        match self {
            Self::Own(load) => load.run(Pace::Closed, Until::Requests(count), at_end),
            Self::H2(load) => load.run(Pace::Closed, PATIENCE, folder),
        }
    }
}

/// What a row's clients send to `target`.
fn client(row: &Row, programs: &Programs, target: SocketAddr, folder: &Path) -> Result<Client> {
    let own = |connections, request: String, expected, fresh| {
        Client::Own(driver::Load { target, connections, request: request.into_bytes(), expected, fresh })
    };
    let get = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: pods.bench.test\r\nuser-agent: whichpod-bench\r\n{more}\r\n")
    };
    Ok(match row.traffic {
        Traffic::Requests { connections, body, fresh } => {
            let more = if fresh { "connection: close\r\n" } else { "" };
            own(connections, get(body.path(), more), Expected::Http(body.size()), fresh)
        }
        Traffic::Idle(connections) => {
            own(connections, get("/", ""), Expected::Http(crate::backends::SMALL.len()), false)
        }
        Traffic::Bytes => own(8, "x".repeat(CHUNK), Expected::Bytes(CHUNK), false),
        Traffic::Streams(call) => {
            let grpc = vec!["content-type: application/grpc", "te: trailers"];
            let (path, body, fields) = match call {
                Call::Get => ("/small", None, vec![]),
                Call::Unary => ("/bench.Echo/Unary", Some(messages(1, 32)), grpc),
                Call::Streaming => ("/bench.Echo/Stream", Some(messages(64, 1_024)), grpc),
            };
            let body = match body {
                Some(bytes) => {
                    let file = folder.join("request.grpc");
                    fs::write(&file, bytes)?;
                    Some(file)
                }
                None => None,
            };
            let h2load = programs.h2load.clone();
            Client::H2(h2load::Load {
                h2load,
                target,
                path: path.to_owned(),
                connections: 8,
                streams: if call == Call::Streaming { 2 } else { 16 },
                body,
                fields,
            })
        }
    })
}

/// gRPC messages: a byte that says they are not compressed, the length, the bytes.
fn messages(count: usize, length: u16) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    let message = [&[0, 0, 0, high, low][..], &vec![b'x'; length.into()]].concat();
    message.repeat(count)
}

impl Protocol {
    /// What one measured thing is.
    #[must_use]
    pub fn unit(self) -> &'static str {
        if self == Self::Tcp { "16 KiB there and back" } else { "request" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_does_not_exist_is_no_silent_success() {
        assert!(choose(&["http3".to_owned()]).unwrap_err().to_string().contains("http1-one"));
        assert_eq!(choose(&["tcp".to_owned()]).unwrap().len(), 1);
        assert_eq!(choose(&[]).unwrap().len(), rows().len());
    }

    #[test]
    fn grpc_messages_have_their_length_in_front() {
        assert_eq!(messages(2, 3), b"\0\0\0\0\x03xxx\0\0\0\0\x03xxx");
    }

    #[test]
    fn a_load_with_failures_is_no_measurement() {
        let outcome = Outcome { ok: 9, failed: 1, reason: Some("status 503".into()), ..Outcome::default() };
        assert!(
            good(outcome)
                .unwrap_err()
                .to_string()
                .contains("1 of 10 requests failed, 9 were answered: status 503")
        );
        assert!(good(Outcome::default()).is_err());
    }
}
