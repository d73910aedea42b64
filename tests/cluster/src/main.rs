//! Builds, starts and stops a cluster for tests by hand.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use whichpod_cluster::{Client, Extent, KUBECONFIG_VARIABLE, down, hold, images, programs, up};

/// A real Kubernetes for tests, on this machine only
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build what a cluster is made of, so that the first start need not
    Build,
    /// Start a cluster that stays, and print how to reach it: eval "$(whichpod-cluster up)"
    Up {
        /// Without nodes: no pod runs, and root is not needed
        #[arg(long)]
        control_plane: bool,
    },
    /// Write the images that tests use as archives, for clusters of one's own: `kind load image-archive FILE`,
    /// `minikube image load FILE`; prints the files
    Images {
        /// Where to
        folder: PathBuf,
    },
    /// Take down the cluster that `up` left and WHICHPOD_TEST_KUBECONFIG names, or the only one that stands; and clear
    /// away what killed tests left
    Down {
        /// Every one that stands below the temporary folder, whoever started it
        #[arg(long)]
        all: bool,
    },
    /// Own the cluster that `up` starts
    #[command(hide = true)]
    Hold {
        #[arg(long)]
        control_plane: bool,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(std::io::stderr(), "whichpod-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut out = std::io::stdout();
    match Arguments::parse().command {
        Action::Build => {
            for path in programs::all()? {
                writeln!(out, "{}", path.display())?;
            }
        }
        Action::Images { folder } => {
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            for image in images::all()? {
                let name = image.name().rsplit('/').next().unwrap_or_default().replace(':', "-");
                let file = folder.join(format!("{name}.tar"));
                std::fs::write(&file, image.archive()?)
                    .with_context(|| format!("cannot write {}", file.display()))?;
                writeln!(out, "{}", file.display())?;
            }
        }
        Action::Up { control_plane } => {
            // First what may fail, and what takes minutes the first time.
            let images = if control_plane { Vec::new() } else { images::all()?.to_vec() };
            let client = up(extent(control_plane), &["hold"])?;
            images.iter().try_for_each(|image| client.import(image))?;
            write!(out, "{}", for_a_shell(&client)?)?;
        }
        Action::Down { all } => {
            for folder in down(all)? {
                writeln!(out, "removed {}", folder.display())?;
            }
        }
        Action::Hold { control_plane } => hold(extent(control_plane))?,
    }
    Ok(())
}

fn extent(control_plane: bool) -> Extent {
    if control_plane { Extent::ControlPlane } else { Extent::Node }
}

/// Commands that make a shell, and the tests it runs, use the cluster.
fn for_a_shell(client: &Client) -> Result<String> {
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
