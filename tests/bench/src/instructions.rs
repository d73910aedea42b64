//! How many instructions a request costs, counted by callgrind: the same on a busy machine as on an idle one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use whichpod_testkit::backend::free_port;

use crate::backends::{Backends, NAME};
use crate::cores;
use crate::load::answer::Expected;
use crate::load::driver::Load;
use crate::load::{Pace, Until};
use crate::options::Instructions;
use crate::peer::{Protocol, Setup, whichpod};
use crate::process::Process;
use crate::programs::{self, Programs};
use crate::row::{Body, Pods};

/// The figures that a change is compared with.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json");
/// More than this above the kept figure is a change for the worse.
const ALLOWED: f64 = 1.03;
/// Two numbers of requests: what their difference costs has no part of the start, nor of the end.
const REQUESTS: [usize; 2] = [500, 4_500];
/// Callgrind is some fifty times slower than the program.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is kept, and with which compiler it was counted: another one makes other code.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    compiler: String,
    instructions: BTreeMap<String, u64>,
}

/// One kind of request.
struct Case {
    name: &'static str,
    connections: usize,
    body: Body,
    fresh: bool,
}

const CASES: [Case; 3] = [
    Case { name: "http1-keep-alive", connections: 1, body: Body::Small, fresh: false },
    Case { name: "http1-10k", connections: 1, body: Body::Medium, fresh: false },
    Case { name: "http1-fresh", connections: 1, body: Body::Small, fresh: true },
];

/// Counts, and compares or keeps; false if a request costs more than allowed.
///
/// # Errors
/// When a program is missing, or a request fails.
pub fn run(options: &Instructions) -> Result<bool> {
    let valgrind = programs::find("valgrind")?;
    let sidecar = match &options.sidecar {
        Some(path) => path.clone(),
        None => programs::build("release")?,
    };
    let programs = Programs::find(Some(&sidecar))?;
    let folder = tempfile::Builder::new().prefix("whichpod-bench-").tempdir()?;
    let cores = cores::available()?;
    let backends = Backends::start(&programs, &cores, folder.path())?;
    let _published = backends.publish(Pods::Three);
    let counter = Counter { valgrind, programs, backends, cores, folder: folder.path(), options };
    let mut counted =
        Kept { compiler: programs::version(Path::new("rustc"), "--version")?, ..Kept::default() };
    let wanted =
        |case: &&Case| options.cases.is_empty() || options.cases.iter().any(|name| name == case.name);
    for case in CASES.iter().filter(wanted) {
        let [few, many] = REQUESTS.map(|requests| counter.count(case, requests));
        let instructions = many?.saturating_sub(few?) / (REQUESTS[1] - REQUESTS[0]) as u64;
        counted.instructions.insert(case.name.to_owned(), instructions);
    }
    ensure!(!counted.instructions.is_empty(), "no such case; there are {}", CASES.map(|c| c.name).join(", "));
    if options.keep {
        let mut kept = kept().unwrap_or_default();
        kept.instructions.append(&mut counted.instructions);
        let kept = Kept { compiler: counted.compiler, ..kept };
        let text = serde_json::to_string_pretty(&kept)?;
        fs::write(KEPT, text + "\n").with_context(|| format!("cannot write {KEPT}"))?;
        say!("kept: {:?}", kept.instructions);
        return Ok(true);
    }
    let (lines, good) = compare(&kept()?, &counted);
    lines.iter().for_each(|line| say!("{line}"));
    Ok(good)
}

fn kept() -> Result<Kept> {
    let text = fs::read_to_string(KEPT)
        .with_context(|| format!("cannot read {KEPT}; make it with: whichpod-bench instructions --keep"))?;
    serde_json::from_str(&text).with_context(|| format!("{KEPT} has another form"))
}

/// What to say, and whether nothing got worse.
fn compare(kept: &Kept, counted: &Kept) -> (Vec<String>, bool) {
    let mut good = true;
    let mut lines = Vec::new();
    for (name, instructions) in &counted.instructions {
        let Some(before) = kept.instructions.get(name) else {
            lines.push(format!(
                "{name}: {instructions} instructions a request; no figure is kept to compare with"
            ));
            good = false;
            continue;
        };
        let ratio = *instructions as f64 / *before as f64;
        let change = (ratio - 1.0) * 100.0;
        lines.push(format!("{name}: {instructions} instructions a request, kept {before} ({change:+.1} %)"));
        good &= ratio <= ALLOWED;
    }
    if !good && kept.compiler != counted.compiler {
        lines.push(format!("the kept figures are of {}, these of {}", kept.compiler, counted.compiler));
    }
    if !good {
        lines.push(
            "if that is worth it, keep the new figures: cargo run --release -p whichpod-bench -- instructions --keep"
                .to_owned(),
        );
    }
    (lines, good)
}

struct Counter<'a> {
    valgrind: PathBuf,
    programs: Programs,
    backends: Backends,
    cores: Vec<usize>,
    folder: &'a Path,
    options: &'a Instructions,
}

impl Counter<'_> {
    /// Instructions of a whole process that serves so many requests.
    fn count(&self, case: &Case, requests: usize) -> Result<u64> {
        let folder = self.folder.join(format!("{}-{requests}", case.name));
        fs::create_dir_all(&folder)?;
        let port = free_port(&[Ipv4Addr::LOCALHOST.into()])?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let setup = Setup {
            protocol: Protocol::Http1,
            listen,
            name: NAME,
            port: self.backends.port(Protocol::Http1),
            pods: &[],
            changes: Pods::Three,
            dns: self.backends.dns(),
            workers: 1,
            log: true,
            folder: &folder,
        };
        let launch = whichpod::launch(&self.programs.sidecar, &setup);
        fs::write(folder.join(launch.file), &launch.text)?;
        let profile = match &self.options.profiles {
            Some(place) => {
                fs::create_dir_all(place)?;
                fs::canonicalize(place)?.join(format!("{}-{requests}.callgrind", case.name))
            }
            None => folder.join("callgrind"),
        };
        let mut command: Vec<OsString> = vec![self.valgrind.clone().into(), "--tool=callgrind".into()];
        command.push(format!("--callgrind-out-file={}", profile.display()).into());
        command.extend(launch.command);
        let mut process =
            Process::start(&self.programs.setpriv, "callgrind", &command, &self.cores, &folder, None)?;
        process.wait_until(PATIENCE, || TcpStream::connect(listen).is_ok())?;
        let more = if case.fresh { "connection: close\r\n" } else { "" };
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: pods\r\nuser-agent: whichpod-bench\r\n{more}\r\n",
            case.body.path()
        );
        let load = Load {
            target: listen,
            connections: case.connections,
            request: request.into_bytes(),
            expected: Expected::Http(case.body.size()),
            fresh: case.fresh,
        };
        let outcome = load.run(Pace::Closed, Until::Requests(requests), || Ok(()))?;
        ensure!(
            outcome.failed == 0,
            "{}: a request failed: {}",
            case.name,
            outcome.reason.unwrap_or_default()
        );
        process.end(PATIENCE)?;
        let text = fs::read_to_string(&profile)
            .with_context(|| format!("callgrind left no profile: {}", process.said()))?;
        total(&text).with_context(|| format!("{} has another form", profile.display()))
    }
}

/// `totals: N` of callgrind's file.
fn total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(compiler: &str, instructions: u64) -> Kept {
        Kept { compiler: compiler.to_owned(), instructions: BTreeMap::from([("a".to_owned(), instructions)]) }
    }

    #[test]
    fn a_request_that_got_dearer_fails_and_says_by_how_much() {
        let kept = figures("rustc 1", 1_000);
        assert!(compare(&kept, &figures("rustc 1", 1_030)).1);
        let (lines, good) = compare(&kept, &figures("rustc 2", 1_031));
        assert!(!good && lines[0].contains("(+3.1 %)") && lines[1].contains("rustc 2"), "{lines:?}");
    }

    #[test]
    fn a_case_without_a_kept_figure_does_not_pass() {
        assert!(!compare(&Kept::default(), &figures("rustc 1", 1)).1);
    }

    #[test]
    fn callgrinds_sum_is_found() {
        assert_eq!(total("events: Ir\nsummary: 5\ntotals: 123\n"), Some(123));
        assert_eq!(total("events: Ir\n"), None);
    }
}
