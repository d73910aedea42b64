//! One file for each command.

pub mod cleanup;
pub mod inject;
pub mod patch;
pub mod shell;
pub mod uninject;
pub mod upgrade;

mod change;
mod found;
mod rendered;

use std::future::Future;

use crate::exit::{Exit, Failure};

/// Runs what talks to the cluster.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Exit::Failed, format!("no event loop: {error}")))?.block_on(work)
}
