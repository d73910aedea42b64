//! The programs of a cluster as child processes that cannot outlive this one.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{standing, wait_for};

/// How many lines of a program's log an error quotes.
const QUOTED_LINES: usize = 12;
/// A killed process is gone after this long at the latest.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// Running programs, each with a log file; ended, all of them and for certain, when this is dropped.
///
/// Every program reads from one pipe whose other end only this process holds, and `kubenode` ends with its standard
/// input: so they end with this process too, however it ends.
#[derive(Debug)]
pub(crate) struct Programs {
    logs: PathBuf,
    leash: PipeReader,
    _held: PipeWriter,
    /// What goes before every command line: how to enter the cluster's namespaces, if it has any.
    prefix: Vec<OsString>,
    running: Vec<Program>,
}

#[derive(Debug)]
struct Program {
    name: &'static str,
    arguments: Vec<OsString>,
    child: Child,
}

/// A program that was stopped and can be started as it was.
#[derive(Debug)]
pub(crate) struct Stopped {
    name: &'static str,
    arguments: Vec<OsString>,
}

impl Programs {
    /// `logs` must exist.
    pub(crate) fn new(logs: PathBuf) -> Result<Self> {
        let (leash, held) = std::io::pipe().context("cannot make a pipe")?;
        Ok(Self { logs, leash, _held: held, prefix: Vec::new(), running: Vec::new() })
    }

    /// Whatever is started from now on is started by way of this command line.
    pub(crate) fn enter(&mut self, prefix: Vec<OsString>) {
        self.prefix = prefix;
    }

    /// Starts `arguments` (its first is the program); output goes to `<name>.log`. Gives the process id as seen from here.
    pub(crate) fn start(
        &mut self,
        name: &'static str,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<u32> {
        let own = arguments.into_iter().map(Into::into);
        let arguments = self.prefix.iter().cloned().chain(own).collect();
        self.spawn(name, arguments)
    }

    /// Runs `arguments` to its end; output goes to `<name>.log`, and its end into the error.
    pub(crate) fn run(
        &mut self,
        name: &'static str,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<()> {
        self.start(name, arguments)?;
        let status = self.take(name)?.child.wait()?;
        ensure!(status.success(), "{name} failed ({status}). {}", quote(&self.log_path(name)));
        Ok(())
    }

    fn spawn(&mut self, name: &'static str, arguments: Vec<OsString>) -> Result<u32> {
        let (program, rest) = arguments.split_first().context("an empty command line")?;
        let log = self.log_path(name);
        let open = || File::options().create(true).append(true).open(&log);
        let out = open().with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(program)
            .args(rest)
            .env("KUBENODE_LEASH", "stdin")
            .stdin(Stdio::from(self.leash.try_clone()?))
            .stderr(Stdio::from(out.try_clone()?))
            .stdout(Stdio::from(out))
            // A group of its own: what enters namespaces forks, and both halves must be reached by one signal.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", program.display()))?;
        let id = child.id();
        self.running.push(Program { name, arguments, child });
        Ok(id)
    }

    /// Ends one program at once, as a crash would.
    pub(crate) fn kill(&mut self, name: &str) -> Result<()> {
        self.stop(name).map(drop)
    }

    /// Ends one program at once and starts it again as it was.
    pub(crate) fn restart(&mut self, name: &str) -> Result<()> {
        let stopped = self.stop(name)?;
        self.start_again(stopped)
    }

    /// Ends one program at once; gives what starts it again.
    pub(crate) fn stop(&mut self, name: &str) -> Result<Stopped> {
        let mut program = self.take(name)?;
        program.kill();
        Ok(Stopped { name: program.name, arguments: program.arguments })
    }

    /// Starts what was stopped as it was.
    pub(crate) fn start_again(&mut self, stopped: Stopped) -> Result<()> {
        self.spawn(stopped.name, stopped.arguments).map(drop)
    }

    fn take(&mut self, name: &str) -> Result<Program> {
        let at = self.running.iter().position(|program| program.name == name);
        Ok(self.running.remove(at.with_context(|| format!("{name} is not running"))?))
    }

    /// An error that quotes its log, if a program has ended by itself; or if nobody waits for the cluster any more.
    pub(crate) fn check(&mut self) -> Result<()> {
        ensure!(!standing::is_abandoned(), "whoever started this has gone");
        for program in &mut self.running {
            if let Some(status) = program.child.try_wait()? {
                let name = program.name;
                bail!("{name} ended by itself ({status}). {}", quote(&self.logs.join(format!("{name}.log"))));
            }
        }
        Ok(())
    }

    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // First the last one started, so that nobody spends its end complaining about who is already gone.
        while let Some(mut program) = self.running.pop() {
            program.kill();
        }
    }
}

impl Program {
    fn kill(&mut self) {
        if let Ok(group) = i32::try_from(self.child.id())
            && let Some(group) = Pid::from_raw(group)
        {
            // Gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.child.wait();
            // The half that runs inside is no child of this process, and holds its ports until it has ended.
            let ended = || Ok(test_kill_process_group(group).is_err().then_some(()));
            let _ = wait_for("the end of a killed program", GONE_AFTER, ended);
        }
    }
}

fn quote(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n  ");
    format!("The end of {}:\n  {last}", log.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    const SOON: Duration = Duration::from_secs(20);

    fn programs() -> (tempfile::TempDir, Programs) {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs::new(folder.path().to_owned()).unwrap();
        (folder, programs)
    }

    fn alive(process: u32) -> bool {
        Path::new(&format!("/proc/{process}")).exists()
    }

    #[test]
    fn what_a_program_started_ends_with_it() {
        let (_folder, mut programs) = programs();
        programs.start("shell", ["sh", "-c", "sleep 1000 & echo $!; wait"]).unwrap();
        let log = programs.log_path("shell");
        let inner: u32 =
            wait_for("the inner process", SOON, || Ok(fs::read_to_string(&log)?.trim().parse().ok()))
                .unwrap();
        assert!(alive(inner));
        drop(programs);
        wait_for("its end", SOON, || Ok((!alive(inner)).then_some(()))).unwrap();
    }

    #[test]
    fn a_program_that_ends_by_itself_is_reported_with_the_end_of_its_log() {
        let (_folder, mut programs) = programs();
        programs.check().unwrap();
        programs.start("shell", ["sh", "-c", "seq 100; echo 'no such flag' >&2; exit 3"]).unwrap();
        let error = wait_for("the report", SOON, || Ok(programs.check().err())).unwrap().to_string();
        assert!(error.contains("shell ended by itself (exit status: 3)"), "{error}");
        assert!(error.ends_with("100\n  no such flag"), "{error}");
        assert!(!error.contains("  88\n"), "{error}");
    }

    #[test]
    fn a_step_that_fails_is_reported_with_the_end_of_its_log() {
        let (_folder, mut programs) = programs();
        programs.run("step", ["true"]).unwrap();
        let error =
            programs.run("step", ["sh", "-c", "echo 'no such device'; exit 2"]).unwrap_err().to_string();
        assert!(error.starts_with("step failed (exit status: 2). The end of "), "{error}");
        assert!(error.ends_with("\n  no such device"), "{error}");
    }

    #[test]
    fn a_restart_runs_the_same_command_line_again() {
        let (_folder, mut programs) = programs();
        let first = programs.start("shell", ["sh", "-c", "echo started; sleep 1000"]).unwrap();
        let log = programs.log_path("shell");
        let lines = |wanted: &'static str| {
            wait_for(wanted, SOON, || Ok((fs::read_to_string(&log)? == wanted).then_some(()))).unwrap();
        };
        lines("started\n");
        programs.restart("shell").unwrap();
        lines("started\nstarted\n");
        assert!(!alive(first));
        assert!(programs.kill("another").unwrap_err().to_string().contains("another is not running"));
    }
}
