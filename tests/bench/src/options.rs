//! What can be asked for on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// What a request costs in whichpod, in Envoy, in HAProxy and in nginx
#[derive(Debug, Parser)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Compare whichpod with Envoy, HAProxy and nginx; writes bench.md, bench.json and bench.svg
    Compare(Compare),
    /// Count the sidecar's instructions per request; fails if they grew by more than 3 %
    Instructions(Instructions),
    /// Send back what comes (the backend of the TCP row)
    #[command(hide = true)]
    Echo {
        /// Where to listen.
        address: SocketAddr,
    },
}

/// The comparison.
#[derive(Debug, Args)]
pub struct Compare {
    /// One short round with one worker: says that everything runs, nothing about speed
    #[arg(long)]
    pub quick: bool,
    /// Only these rows, comma separated (all unless told otherwise)
    #[arg(long, value_delimiter = ',')]
    pub rows: Vec<String>,
    /// Rounds of each row
    #[arg(long, default_value_t = 10)]
    pub rounds: usize,
    /// Milliseconds of each measurement; a round has three for each contestant
    #[arg(long, default_value_t = 1000)]
    pub milliseconds: u64,
    /// Worker threads of each proxy, comma separated
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    pub workers: Vec<usize>,
    /// The sidecar to measure; built as it is shipped unless given
    #[arg(long)]
    pub sidecar: Option<PathBuf>,
    /// Where the results go: bench/ in cargo's target folder unless given
    #[arg(long)]
    pub output: Option<PathBuf>,
}

/// The count of instructions.
#[derive(Debug, Args)]
pub struct Instructions {
    /// Keep the figures as the new measure instead of comparing with it
    #[arg(long)]
    pub keep: bool,
    /// Only these cases, comma separated (all unless told otherwise)
    #[arg(long, value_delimiter = ',')]
    pub cases: Vec<String>,
    /// The sidecar to count in; built in release mode unless given
    #[arg(long)]
    pub sidecar: Option<PathBuf>,
    /// Leave callgrind's profile of each case in this folder
    #[arg(long)]
    pub profiles: Option<PathBuf>,
}
