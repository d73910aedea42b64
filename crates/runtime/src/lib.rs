//! What both binaries share: shutdown, readiness, metrics, process limits, diagnostics.
//!
//! The order of the modules is the order in which a `main` meets them.

pub mod exit;

pub mod diagnostics;
pub mod limits;
pub mod memory;

pub mod bind;
pub mod health_server;
pub mod http_server;
pub mod metrics;
pub mod readiness;

pub mod shutdown;
pub mod tls;
