//! The proxy beside the app: it finds the pods behind an upstream, chooses one for every request, and writes
//! down which one it was.
//!
//! The modules are in the order of the way of a request.

pub mod admin;
pub mod app;
pub mod log_format;

pub mod listener;
pub mod worker;

pub mod connection;
pub mod detect;
pub mod downstream;
pub mod io;

pub mod http1;
pub mod proxy;

pub mod http2;
pub mod incoming;

pub mod grpc;
pub mod sni;
pub mod tcp;
pub mod tunnel;
pub mod upgrade;

pub mod hash;
pub mod headers;
pub mod site;

pub mod connect;
pub mod limits;
pub mod peer;
pub mod pending;
pub mod proxy_protocol;
pub mod transport;

pub mod pool;
pub mod retry;
pub mod upstream_connection;

pub mod body;
pub mod exchange;

pub mod health_check;
pub mod memory;
pub mod translate;

pub mod error;
pub mod metrics;
pub mod stats;
