//! A real Kubernetes for tests: no container registry, no Docker, nothing left running.
//!
//! [`ControlPlane`] takes a few seconds and no privilege, and is enough for admission. [`Node`] also runs pods, needs
//! root, and lives in namespaces of its own: reach it by its [`Client`]. [`Cluster`] is a node or somebody's own
//! cluster. [`programs`] builds what they are made of, once. Every process that is started here ends with this one, even if
//! this one is killed.

/// A line for whoever waits at a terminal or reads a test's output.
macro_rules! say {
    ($($argument:tt)*) => { crate::say_line(&format!($($argument)*)) };
}

mod certificates;
mod cgroup;
mod client;
mod cluster;
pub mod command;
mod control_plane;
pub mod exit;
mod folder;
mod http;
mod image;
pub mod images;
mod node;
mod process;
pub mod programs;
mod settings;
mod standing;
mod wait;

pub use certificates::{Authority, KeyedCertificate};
pub use client::{Client, KUBECONFIG_VARIABLE, Namespace, pod_webhook};
pub use cluster::{Cluster, Shared};
pub use control_plane::{Component, ControlPlane, SERVICE_RANGE};
pub use folder::clear;
pub use http::{Answer, http_get, http_send};
pub use image::Image;
pub use node::{Dns, NODE_ADDRESS, NODE_NAME, Node, POD_RANGE};
pub use standing::{Extent, Started, can_run, down, hold, shell_commands, up};
pub use wait::wait_for;

#[expect(clippy::print_stderr, reason = "a test harness has no log; its users read the test's output")]
fn say_line(line: &str) {
    eprintln!("whichpod-cluster: {line}");
}
