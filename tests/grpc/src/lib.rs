//! Running other people's programs: those that `install` puts in the cache or that Debian has.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

/// No program takes longer than this.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a program said, and whether it was content.
#[derive(Debug)]
pub struct Said {
    /// Its exit status was 0.
    pub content: bool,
    /// Standard output, then standard error.
    pub text: String,
}

/// The path of a program that `install` builds, or the name itself of one that Debian has.
///
/// # Errors
/// When it is not there, with the remedy.
pub fn program(name: &str) -> io::Result<PathBuf> {
    let cache = std::env::var_os("WHICHPOD_CACHE").map_or_else(home, PathBuf::from);
    let built = cache.join("grpc/bin").join(name);
    let found = built.is_file().then_some(built).or_else(|| in_path(name));
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no {name}; run tests/grpc/install")))
}

fn home() -> PathBuf {
    std::env::home_dir().unwrap_or_default().join(".cache/whichpod")
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Runs a program to its end.
///
/// # Errors
/// When it is not there, cannot be started, or takes longer than two minutes.
pub async fn run(name: &str, arguments: &[impl AsRef<OsStr>]) -> io::Result<Said> {
    let mut command = Command::new(program(name)?);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("{name} took longer than {PATIENCE:?}"))
    })??;
    let text = [output.stdout, output.stderr].concat();
    Ok(Said { content: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() })
}

/// Starts a program that serves, until this is dropped.
///
/// # Errors
/// When it is not there or cannot be started.
pub fn start(name: &str, arguments: &[impl AsRef<OsStr>]) -> io::Result<Child> {
    let mut command = Command::new(program(name)?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true).spawn()
}
