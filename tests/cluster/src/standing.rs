//! A cluster that stands after the command that started it has ended, until it is taken down.
//!
//! It is owned as a test owns one: by a process that holds it and does nothing else.

use crate::client::Client;
use crate::{ControlPlane, Node, folder, programs, wait_for};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, setsid};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// In the folder of a standing cluster: the process that holds it.
const HOLDER_FILE: &str = "holder";
const PATIENCE: Duration = Duration::from_secs(20);

/// How much of a cluster there is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// No pods run.
    ControlPlane,
    /// Pods run.
    Node,
}

impl Extent {
    /// The command-line argument that says so.
    pub const CONTROL_PLANE_FLAG: &str = "--control-plane";

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::ControlPlane => &[Self::CONTROL_PLANE_FLAG],
            Self::Node => &[],
        }
    }
}

/// Starts a cluster that stays, and gives a client for it. `hold` are the words that make this executable call
/// [`hold`] with the same extent, given its flag.
pub fn up(extent: Extent, hold: &[&str]) -> Result<Client> {
    // Here, where their messages are seen.
    programs::kubenode()?;
    let mut complaints = tempfile::NamedTempFile::new()?;
    let mut holder = Command::new(std::env::current_exe()?)
        .args(hold)
        .args(extent.flags())
        // What the environment names is what this is about to become.
        .env_remove(crate::KUBECONFIG_VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(complaints.as_file_mut().try_clone()?))
        .spawn()
        .context("cannot start the process that holds the cluster")?;
    let mut kubeconfig = String::new();
    BufReader::new(holder.stdout.take().context("no pipe from the holder")?).read_line(&mut kubeconfig)?;
    if kubeconfig.is_empty() {
        holder.wait()?;
        bail!("the cluster did not start:\n{}", fs::read_to_string(complaints.path())?.trim());
    }
    Client::new(PathBuf::from(kubeconfig.trim_end()))
}

/// Holds a cluster until this process is killed; prints the path of its kubeconfig when it is ready.
pub fn hold(extent: Extent) -> Result<()> {
    // The end of a terminal or of a shell is not the end of the cluster.
    setsid().context("cannot begin a session")?;
    match extent {
        Extent::ControlPlane => stand(&ControlPlane::start_own()?),
        Extent::Node => stand(Node::start_own()?.control_plane()),
    }
}

fn stand(control_plane: &ControlPlane) -> Result<()> {
    let folder = control_plane.dir().context("the cluster has no folder")?;
    fs::write(folder.join(HOLDER_FILE), std::process::id().to_string())?;
    writeln!(std::io::stdout(), "{}", control_plane.kubeconfig_path().display())?;
    loop {
        std::thread::park();
    }
}

/// Takes down every cluster that [`up`] left standing, and what is left of others whose owner has ended; gives their
/// folders, which are gone.
pub fn down() -> Result<Vec<PathBuf>> {
    let mut gone = Vec::new();
    for (path, held) in folder::all() {
        if held {
            // Without a holder's name it is a running test's.
            let Some(holder) = holder(&path) else { continue };
            kill_process(holder, Signal::KILL).with_context(|| format!("cannot end {}", path.display()))?;
            wait_for("its holder's end", PATIENCE, || {
                Ok((!folder::all().contains(&(path.clone(), true))).then_some(()))
            })?;
        }
        folder::remove(&path);
        gone.push(path);
    }
    Ok(gone)
}

fn holder(folder: &Path) -> Option<Pid> {
    fs::read_to_string(folder.join(HOLDER_FILE)).ok()?.trim().parse().ok().and_then(Pid::from_raw)
}
