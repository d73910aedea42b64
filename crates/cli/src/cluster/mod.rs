//! The cluster, as far as commands need it: raw JSON in and out, so that no field is lost that this build does not know.

mod connect;
mod facts;
mod installed;
mod request;
pub mod resources;
#[cfg(test)]
pub mod scripted;

pub use connect::{ClusterFlags, Need};
pub use facts::known;
pub use request::{Cluster, WriteError};
