//! `whichpod demo`: the product's main job on real sockets and real DNS, in one process.

mod output;
mod story;
mod tally;
mod warnings;
mod world;

use std::process::ExitCode;

use anyhow::Context;

use output::Output;
use warnings::Warnings;
use world::World;

/// Flags of `whichpod demo`.
#[derive(clap::Args)]
pub struct Options {
    /// Leave everything running at the end, and print commands to try.
    #[arg(long, conflicts_with = "json")]
    keep: bool,
    /// Print one JSON object at the end instead of the story.
    #[arg(long)]
    json: bool,
}

/// Plays the story; exit 0 if the log and the backends agree and nothing failed, 1 if not.
///
/// # Errors
/// When the loopback addresses, DNS or the sidecar cannot be set up.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let warnings = Warnings::collect()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let output = Output::new(options.json);
        let mut world =
            World::start().await.context("the demo cannot be set up on this machine's loopback addresses")?;
        let outcome = story::play(&mut world, &warnings, &output).await?;
        output.outcome(&outcome)?;
        if options.keep {
            story::keep(&world, &output).await?;
        }
        Ok(if outcome.agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
