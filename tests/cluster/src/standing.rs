//! A cluster that stands after the command that started it has ended, until it is taken down.
//!
//! It is owned as a test owns one: by a process that holds it and does nothing else.

use crate::client::{Client, KUBECONFIG_VARIABLE};
use crate::exit::{self, Failure};
use crate::{ControlPlane, Node, folder, node, programs, wait_for};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, setsid};
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// In the folder of a standing cluster: the process that holds it.
const HOLDER_FILE: &str = "holder";
/// What tells a holder that its cluster is to stay.
const STAY: u8 = b'+';
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

/// Whether this process holds a cluster for [`up`].
static HOLDS: AtomicBool = AtomicBool::new(false);
/// Whether who started it has gone before saying that the cluster is to stay.
static ABANDONED: AtomicBool = AtomicBool::new(false);

/// A cluster that stands, and goes with this unless it is told to stay.
#[derive(Debug)]
pub struct Started {
    client: Client,
    leash: ChildStdin,
}

impl Started {
    /// Somebody with all rights.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Leaves it standing.
    pub fn stay(mut self) -> Result<()> {
        self.leash.write_all(&[STAY]).context("the process that holds the cluster has ended")
    }
}

/// An error if the machine lacks something that such a cluster needs.
pub fn can_run(extent: Extent) -> Result<()> {
    match extent {
        Extent::ControlPlane => folder::check_room(),
        Extent::Node => node::check_machine().map(drop),
    }
}

/// Starts a cluster that can stay. `hold` are the words that make this executable call [`hold`] with the same extent,
/// given its flag.
pub fn up(extent: Extent, hold: &[&str]) -> Result<Started> {
    // Here, where their messages are seen.
    programs::kubenode()?;
    let mut complaints = tempfile::tempfile()?;
    let mut holder = Command::new(std::env::current_exe()?)
        .args(hold)
        .args(extent.flags())
        // What the environment names is what this is about to become.
        .env_remove(KUBECONFIG_VARIABLE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(complaints.try_clone()?))
        .spawn()
        .context("cannot start the process that holds the cluster")?;
    let leash = holder.stdin.take().context("no pipe to the holder")?;
    let mut kubeconfig = String::new();
    BufReader::new(holder.stdout.take().context("no pipe from the holder")?).read_line(&mut kubeconfig)?;
    if kubeconfig.is_empty() {
        let code = holder.wait()?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILED);
        let mut why = String::new();
        complaints.rewind()?;
        complaints.read_to_string(&mut why)?;
        return Err(Failure::new(code, format!("the cluster did not start:\n{}", why.trim())).into());
    }
    Ok(Started { client: Client::new(PathBuf::from(kubeconfig.trim_end()))?, leash })
}

/// Holds a cluster until this process is killed; prints the path of its kubeconfig when it is ready. Standard input must
/// say then that it is to stay: its end before that is the cluster's.
pub fn hold(extent: Extent) -> Result<()> {
    // The end of a terminal or of a shell is not the end of the cluster.
    setsid().context("cannot begin a session")?;
    HOLDS.store(true, Ordering::Relaxed);
    let main = std::thread::current();
    std::thread::spawn(move || {
        let mut word = [0];
        if !matches!(std::io::stdin().read(&mut word), Ok(1) if word == [STAY]) {
            ABANDONED.store(true, Ordering::Relaxed);
            main.unpark();
        }
    });
    match extent {
        Extent::ControlPlane => stand(&ControlPlane::start_own()?),
        Extent::Node => stand(Node::launch()?.control_plane()),
    }
}

/// Whether the cluster that this process holds or starts is nobody's any more.
pub(crate) fn is_abandoned() -> bool {
    ABANDONED.load(Ordering::Relaxed)
}

/// Leaves a word about who holds the cluster in its folder, if that is all that this process does.
pub(crate) fn sign(folder: &Path) -> Result<()> {
    if HOLDS.load(Ordering::Relaxed) {
        fs::write(folder.join(HOLDER_FILE), std::process::id().to_string())?;
    }
    Ok(())
}

fn stand(control_plane: &ControlPlane) -> Result<()> {
    writeln!(std::io::stdout(), "{}", control_plane.kubeconfig_path().display())?;
    while !is_abandoned() {
        std::thread::park();
    }
    Ok(())
}

/// Commands that make a shell, and the tests it runs, use the cluster.
pub fn shell_commands(client: &Client) -> Result<String> {
    let kubeconfig = client.kubeconfig().display();
    let kubenode = programs::kubenode()?;
    let enter = client.entering().join(" ");
    let mut text = format!(
        "export {KUBECONFIG_VARIABLE}='{kubeconfig}' KUBECONFIG='{kubeconfig}' KUBECACHEDIR='{kubeconfig}-cache'\n\
         kubectl() {{ {enter} '{}' kubectl \"$@\"; }}\n\
         helm() {{ {enter} '{}' \"$@\"; }}\n",
        kubenode.display(),
        programs::helm()?.display()
    );
    if !enter.is_empty() {
        text += &format!(
            "# Its network is a namespace of its own, where other programs run so: inside curl …\n\
                          inside() {{ {enter} \"$@\"; }}\n"
        );
    }
    Ok(text)
}

/// Takes down one cluster that [`up`] left standing (the one that the environment names, else the only one) or every
/// one, and what is left of clusters whose owner has ended; gives their folders, which are gone.
pub fn down(every: bool) -> Result<Vec<PathBuf>> {
    let (held, left): (Vec<_>, Vec<_>) = folder::all().into_iter().partition(|(_, held)| *held);
    // Without a holder's name it is a test's that runs.
    let standing: Vec<_> = held.into_iter().filter_map(|(path, _)| Some((holder(&path)?, path))).collect();
    let named = std::env::var_os(KUBECONFIG_VARIABLE).filter(|value| !value.is_empty() && !every);
    let named = named.as_ref().map(Path::new);
    // Of a cluster that is down already there is nothing left but, perhaps, the variable.
    let down_already = named.is_some_and(folder::is_gone);
    let chosen = if down_already { Vec::new() } else { chosen(standing, named, every)? };
    let mut gone = Vec::new();
    for (holder, path) in chosen {
        kill_process(holder, Signal::KILL).with_context(|| format!("cannot end {}", path.display()))?;
        wait_for("its holder's end", PATIENCE, || {
            Ok((!folder::all().contains(&(path.clone(), true))).then_some(()))
        })?;
        gone.push(path);
    }
    gone.extend(left.into_iter().map(|(path, _)| path));
    gone.iter().for_each(|path| folder::remove(path));
    Ok(gone)
}

/// Which of the standing clusters are meant: somebody else's may stand beside one's own.
fn chosen(
    standing: Vec<(Pid, PathBuf)>,
    kubeconfig: Option<&Path>,
    every: bool,
) -> Result<Vec<(Pid, PathBuf)>> {
    if let Some(kubeconfig) = kubeconfig {
        let named = standing.into_iter().find(|(_, path)| kubeconfig.starts_with(path));
        return named.map(|named| vec![named]).ok_or_else(|| {
            let variable = KUBECONFIG_VARIABLE;
            let why =
                format!("{variable} names {}, which is of no cluster that `up` left", kubeconfig.display());
            Failure::new(exit::USAGE, why).into()
        });
    }
    if standing.len() > 1 && !every {
        let paths: Vec<_> = standing.iter().map(|(_, path)| path.display().to_string()).collect();
        let variable = KUBECONFIG_VARIABLE;
        let why = format!(
            "{} clusters stand: {}; set {variable} to the kubeconfig of one of them, or say --all",
            paths.len(),
            paths.join(", ")
        );
        return Err(Failure::new(exit::USAGE, why).into());
    }
    Ok(standing)
}

fn holder(folder: &Path) -> Option<Pid> {
    fs::read_to_string(folder.join(HOLDER_FILE)).ok()?.trim().parse().ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(names: &[&str]) -> Vec<(Pid, PathBuf)> {
        names.iter().map(|name| (Pid::INIT, Path::new("/clusters").join(name))).collect()
    }

    fn down(names: &[&str], kubeconfig: Option<&str>, every: bool) -> Result<Vec<PathBuf>> {
        let chosen = chosen(standing(names), kubeconfig.map(Path::new), every)?;
        Ok(chosen.into_iter().map(|(_, path)| path).collect())
    }

    #[test]
    fn nobody_takes_down_a_cluster_of_somebody_elses() {
        let path = |name: &str| Path::new("/clusters").join(name);
        assert_eq!(down(&["a", "b"], Some("/clusters/b/kubeconfig"), false).unwrap(), [path("b")]);
        assert!(down(&["a"], Some("/home/me/.kube/config"), false).is_err());
        assert_eq!(down(&["a"], None, false).unwrap(), [path("a")]);
        let which = down(&["a", "b"], None, false).unwrap_err().to_string();
        assert!(which.contains("/clusters/a, /clusters/b") && which.contains("--all"), "{which}");
        assert_eq!(down(&["a", "b"], None, true).unwrap().len(), 2);
        assert!(down(&[], None, false).unwrap().is_empty());
    }
}
