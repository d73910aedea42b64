//! The admission webhook: `POST /mutate` answers the API server from what watches have told; one replica, elected by a
//! Lease, keeps the certificates and the headless twins.

// A process that ends at a panic cannot let the review pass.
#[cfg(panic = "abort")]
compile_error!("the webhook answers a review even if it panics: build it with --profile dist-webhook");

pub mod command;

pub mod app;
pub mod config;

pub mod admission;
pub mod server;

pub mod cache;
pub mod cluster;

pub mod certificates;
pub mod leader;

pub mod events;
pub mod hooks;
pub mod metrics;
pub mod report;
pub mod twins;
