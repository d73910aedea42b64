//! The process beside the app: it starts and ends the proxy, and tells what it does.

pub mod app;
pub mod log_format;

pub mod admin;
pub mod metrics;
