//! What the tests of the sidecar share: a sidecar in front of pods, and its access log's lines.
//!
//! Everything runs on loopback addresses and ports that the kernel chooses. Failing steps panic: they are failed tests.

#![allow(clippy::expect_used, reason = "a failed step is a failed test")]

mod cluster;
mod line;
mod memory;
mod pods;
mod rig;
mod unambiguous;
mod wait;

pub use cluster::{ADDRESSES, Cluster};
pub use line::{Line, Try};
pub use memory::resident;
pub use pods::{received, received_head, request_ids, scripted_load};
pub use rig::{ANY, Rig, UPSTREAM};
pub use unambiguous::{after_request, unambiguous};
pub use wait::eventually;
