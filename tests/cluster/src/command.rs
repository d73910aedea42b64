//! The command: what is asked on the command line, done and printed.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::exit::{self, Failure};
use crate::{Extent, can_run, down, hold, images, programs, shell_commands, up};

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
    match arguments()?.command {
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
            // First what may fail at once, then what takes minutes the first time.
            let extent = extent(control_plane);
            can_run(extent)?;
            let images = if control_plane { Vec::new() } else { images::all()?.to_vec() };
            let started = up(extent, &["hold"])?;
            images.into_iter().try_for_each(|image| started.client().import(|| Ok(image)))?;
            out.write_all(shell_commands(started.client())?.as_bytes())?;
            out.flush()?;
            // Whoever reads the commands can take it down.
            started.stay()?;
        }
        Action::Down { all } => {
            let removed = down(all)?;
            if removed.is_empty() {
                say!("there is nothing to take down");
            }
            for folder in removed {
                writeln!(out, "removed {}", folder.display())?;
            }
        }
        Action::Hold { control_plane } => hold(extent(control_plane))?,
    }
    Ok(())
}

/// A wrong command line has its own exit code; help is none.
fn arguments() -> Result<Arguments> {
    Arguments::try_parse().or_else(|error| {
        if error.use_stderr() {
            let text = error.to_string();
            return Err(Failure::new(exit::USAGE, text.trim_start_matches("error: ").trim_end()).into());
        }
        error.exit()
    })
}

fn extent(control_plane: bool) -> Extent {
    if control_plane { Extent::ControlPlane } else { Extent::Node }
}
