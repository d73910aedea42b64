//! A cluster that stands after the command that started it has ended, until it is taken down.
//!
//! It is owned as a test owns one: by a process that holds it and does nothing else.

use crate::client::{Client, KUBECONFIG_VARIABLE};
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
        .env_remove(KUBECONFIG_VARIABLE)
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
    // Without a holder's name it is a running test's.
    let standing: Vec<_> = held.into_iter().filter_map(|(path, _)| Some((holder(&path)?, path))).collect();
    let named = std::env::var_os(KUBECONFIG_VARIABLE).filter(|value| !value.is_empty() && !every);
    let chosen = chosen(standing, named.as_ref().map(Path::new), every)?;
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
        return named.map(|named| vec![named]).with_context(|| {
            let variable = KUBECONFIG_VARIABLE;
            format!("{variable} names {}, which is of no cluster that `up` left", kubeconfig.display())
        });
    }
    if standing.len() > 1 && !every {
        let paths: Vec<_> = standing.iter().map(|(_, path)| path.display().to_string()).collect();
        let variable = KUBECONFIG_VARIABLE;
        bail!(
            "{} clusters stand: {}; set {variable} to the kubeconfig of one of them, or say --all",
            paths.len(),
            paths.join(", ")
        );
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
