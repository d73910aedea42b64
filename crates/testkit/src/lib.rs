//! For tests and the demo: a DNS zone, well-behaved and misbehaving backends, clients, load.
//!
//! Everything binds loopback addresses, by default on a free port, runs on the tokio runtime that it was started on, and
//! ends when it is dropped.

pub mod dns;

pub mod backend;
pub mod http2;
pub mod scripted;
pub mod tls;

pub mod virtual_ip;

pub mod client;
pub mod load;

pub mod sidecar;

mod sync;
mod tasks;
mod wire;
