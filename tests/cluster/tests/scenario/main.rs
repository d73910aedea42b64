//! whichpod as its users meet it: installed by its chart, asked for by an annotation, read by `kubectl logs`.
//!
//! These tests need nothing but a cluster with pods: a node of ours, or the one that `WHICHPOD_TEST_KUBECONFIG` names.
#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers are part of a test too")]

#[path = "../common/mod.rs"]
mod common;

mod by_command;
mod by_hand;
mod installation;
mod order;
mod stage;
mod trap;
mod workloads;
