//! What the protocols that pass through ask of a proxy: rules without I/O, each in one place.
//!
//! What a client speaks, what reaches a pod and what its answer means, what is tried again, and how a failure is told.

pub mod detect;
pub mod sni;

pub mod hash;
pub mod headers;
pub mod upgrade;

pub mod grpc;
pub mod proxy_protocol;

pub mod error;
pub mod kept_head;
pub mod retry;
