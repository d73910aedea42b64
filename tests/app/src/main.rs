//! The apps of the reference scenario. They behave as apps in a cluster should: on SIGTERM they take no new connection,
//! finish what they are at, and end.
//!
//! `app serve PORT` answers every request with the name of its pod. `app relay PORT HOST:PORT` is a service that calls
//! another: it passes every request on, over connections that it keeps, and answers as it was answered.
//!
//! Both write a line for each request: pod, method, path, version, request id, and the address that was called.

mod relay;
mod serve;
mod server;

use anyhow::{Context, Result, bail};
use tokio::task::LocalSet;

use server::App;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (port, app) = match *words {
        ["serve", port] => (port, App::Serve),
        ["relay", port, upstream] => (port, App::Relay(relay::Relay::to(upstream))),
        _ => bail!("usage: app serve PORT | app relay PORT HOST:PORT"),
    };
    let port: u16 = port.parse().with_context(|| format!("{port} is no port"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, server::run(port, app))
}
