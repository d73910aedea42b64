//! Programs under test as child processes on their own cores, which cannot outlive this one.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::cores;

const LOOK: Duration = Duration::from_millis(5);
/// How many lines of what a program said an error quotes.
const QUOTED: usize = 6;

/// A running program; ended when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    said: PathBuf,
}

impl Process {
    /// Starts `command` on these cores by way of `setpriv`, which has the kernel tell it to end with this thread. What it says goes to
    /// `<name>.err` in `folder`, its standard output to `stdout`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        setpriv: &Path,
        name: &str,
        command: &[impl AsRef<std::ffi::OsStr>],
        cores: &[usize],
        folder: &Path,
        stdout: Option<File>,
    ) -> Result<Self> {
        let said = folder.join(format!("{name}.err"));
        let errors = File::create(&said).with_context(|| format!("cannot write {}", said.display()))?;
        let stdout = match stdout {
            Some(file) => file,
            None => errors.try_clone()?,
        };
        let before = cores::available()?;
        cores::bind_to(cores)?;
        let child = Command::new(setpriv)
            .args(["--pdeathsig", "TERM", "--"])
            .args(command)
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(errors)
            .spawn();
        cores::bind_to(&before)?;
        Ok(Self {
            name: name.to_owned(),
            child: child.with_context(|| format!("cannot start {name}"))?,
            said,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says true.
    ///
    /// # Errors
    /// When the program ends before, or it takes longer than `patience`.
    pub fn wait_until(&mut self, patience: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}): {}", self.name, self.said());
            }
            if started.elapsed() > patience {
                bail!("{} was not ready within {patience:?}: {}", self.name, self.said());
            }
            pause(LOOK);
        }
        Ok(())
    }

    /// Tells it to end, and waits for that.
    ///
    /// # Errors
    /// When it does not end within `patience`.
    pub fn end(&mut self, patience: Duration) -> Result<()> {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            if started.elapsed() > patience {
                bail!("{} does not end: {}", self.name, self.said());
            }
            pause(LOOK);
        }
        Ok(())
    }

    /// The end of what it said.
    #[must_use]
    pub fn said(&self) -> String {
        let text = std::fs::read(&self.said).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&text))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // With its children: nginx works in some. Nothing of theirs is worth waiting for.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Lets time pass: programs are looked at from outside, and nothing tells when.
#[expect(clippy::disallowed_methods, reason = "the benchmark's thread has nothing else to do")]
pub fn pause(length: Duration) {
    std::thread::sleep(length);
}

/// The last lines that say something, as one.
#[must_use]
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(QUOTED)..].join(" / ")
}
