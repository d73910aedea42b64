//! Talking to the API server, and what is found out about the cluster.

pub mod connect;
pub mod detect;
pub mod list;
pub mod request;
