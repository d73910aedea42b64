//! How many instructions a request costs, and how often it waits for memory, counted by callgrind: the same on a busy machine
//! as on an idle one.

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
/// The same for misses, of which some are a matter of chance: where in memory what lies.
const MISSES_ALLOWED: f64 = 1.1;
/// The caches that are simulated: those of a core of a server.
const CACHES: [&str; 4] = ["--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=524288,8,64"];
/// Two numbers of requests: what their difference costs has no part of the start, nor of the end.
const REQUESTS: [usize; 2] = [500, 4_500];
/// Callgrind is some fifty times slower than the program.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is kept, and with which compiler it was counted: another one makes other code.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    compiler: String,
    instructions: BTreeMap<String, u64>,
    /// Lines of 64 bytes that were not in the second cache; only with many connections is there more than fits.
    misses: BTreeMap<String, u64>,
}

/// One kind of request.
struct Case {
    name: &'static str,
    connections: usize,
    body: Body,
    fresh: bool,
}

const CASES: [Case; 4] = [
    Case { name: "http1-keep-alive", connections: 1, body: Body::Small, fresh: false },
    Case { name: "http1-64", connections: 64, body: Body::Small, fresh: false },
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
        let each = many?.less(few?, (REQUESTS[1] - REQUESTS[0]) as u64);
        counted.instructions.insert(case.name.to_owned(), each.instructions);
        if case.connections > 1 {
            counted.misses.insert(case.name.to_owned(), each.misses);
        }
    }
    ensure!(!counted.instructions.is_empty(), "no such case; there are {}", CASES.map(|c| c.name).join(", "));
    if options.keep {
        let mut kept = kept().unwrap_or_default();
        kept.instructions.append(&mut counted.instructions);
        kept.misses.append(&mut counted.misses);
        let kept = Kept { compiler: counted.compiler, ..kept };
        let text = serde_json::to_string_pretty(&kept)?;
        fs::write(KEPT, text + "\n").with_context(|| format!("cannot write {KEPT}"))?;
        say!("kept: {:?}, misses: {:?}", kept.instructions, kept.misses);
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
    for (what, allowed, kept, counted) in [
        ("instructions", ALLOWED, &kept.instructions, &counted.instructions),
        ("cache misses", MISSES_ALLOWED, &kept.misses, &counted.misses),
    ] {
        for (name, count) in counted {
            let Some(before) = kept.get(name) else {
                lines.push(format!("{name}: {count} {what} a request; no figure is kept to compare with"));
                good = false;
                continue;
            };
            let ratio = *count as f64 / *before as f64;
            let change = (ratio - 1.0) * 100.0;
            lines.push(format!("{name}: {count} {what} a request, kept {before} ({change:+.1} %)"));
            good &= ratio <= allowed;
        }
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
    /// Of a whole process that serves so many requests.
    fn count(&self, case: &Case, requests: usize) -> Result<Counts> {
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
        command.extend(CACHES.map(OsString::from));
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
        totals(&text).with_context(|| format!("{} has another form", profile.display()))
    }
}

/// What callgrind has counted.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Counts {
    instructions: u64,
    /// Reads and writes of lines that were not in the second cache.
    misses: u64,
}

impl Counts {
    /// Of each of so many requests that this has more than `few`.
    fn less(self, few: Self, requests: u64) -> Self {
        let each = |many: u64, few: u64| many.saturating_sub(few) / requests;
        Self {
            instructions: each(self.instructions, few.instructions),
            misses: each(self.misses, few.misses),
        }
    }
}

/// `events: NAME …` and `totals: N …` of callgrind's file.
fn totals(text: &str) -> Option<Counts> {
    let words = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::split_whitespace);
    let all: BTreeMap<_, _> = std::iter::zip(words("events: ")?, words("totals: ")?).collect();
    let total = |event: &str| all.get(event)?.parse::<u64>().ok();
    Some(Counts { instructions: total("Ir")?, misses: total("DLmr")? + total("DLmw")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(compiler: &str, instructions: u64) -> Kept {
        let instructions = BTreeMap::from([("a".to_owned(), instructions)]);
        Kept { compiler: compiler.to_owned(), instructions, ..Kept::default() }
    }

    #[test]
    fn a_request_that_waits_for_memory_more_often_fails_too() {
        let misses = |misses| Kept { misses: BTreeMap::from([("a".to_owned(), misses)]), ..Kept::default() };
        assert!(compare(&misses(100), &misses(110)).1);
        let (lines, good) = compare(&misses(100), &misses(111));
        assert!(!good && lines[0].contains("111 cache misses a request, kept 100"), "{lines:?}");
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
        let text = "events: Ir Dr DLmr DLmw\nsummary: 5\ntotals: 123 9 2 1\n";
        assert_eq!(totals(text), Some(Counts { instructions: 123, misses: 3 }));
        assert_eq!(totals("events: Ir\ntotals: 123\n"), None);
        let few = Counts { instructions: 23, misses: 1 };
        assert_eq!(totals(text).map(|many| many.less(few, 2)), Some(Counts { instructions: 50, misses: 1 }));
    }
}
