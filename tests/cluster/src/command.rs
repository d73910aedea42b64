//! The command: what is asked on the command line, done and printed.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{Extent, down, hold, images, programs, shell_commands, up};

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

/// Does what the command line says.
///
/// # Errors
/// What went wrong, in words for whoever typed it.
pub fn run() -> Result<()> {
    let mut out = std::io::stdout();
    match Arguments::parse().command {
        Action::Build => {
            for path in programs::all()? {
                writeln!(out, "{}", path.display())?;
            }
        }
        Action::Images { folder } => {
            for file in images::write_archives(&folder)? {
                writeln!(out, "{}", file.display())?;
            }
        }
        Action::Up { control_plane } => {
            // First what may fail, and what takes minutes the first time.
            let images = if control_plane { Vec::new() } else { images::all()?.to_vec() };
            let client = up(extent(control_plane), &["hold"])?;
            images.iter().try_for_each(|image| client.import(image))?;
            write!(out, "{}", shell_commands(&client)?)?;
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
