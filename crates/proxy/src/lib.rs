//! The way of a request: from a client's connection to a pod and back, and what is remembered of it.
//!
//! The modules are in the order of that way.

pub mod listener;
pub mod worker;

pub mod connection;
pub mod downstream;
pub mod io;

pub mod http1;
pub mod proxy;

pub mod http2;
pub mod incoming;

pub mod tcp;
pub mod tunnel;

pub mod site;
pub mod translate;

pub mod connect;
pub mod limits;
pub mod peer;
pub mod pending;
pub mod transport;

pub mod driver_waker;
pub mod pool;
pub mod upstream_connection;

pub mod body;
pub mod exchange;

pub mod health_check;
pub mod memory;
pub mod stats;
