//! The apps of the reference scenario. They behave as apps in a cluster should: on SIGTERM they take no new connection,
//! finish what they are at, and end.
//!
//! `app serve PORT` answers every request with the name of its pod. `app relay PORT HOST:PORT` is a service that calls
//! another: it passes every request on, over connections that it keeps, and answers as it was answered. `app grpc PORT`
//! answers gRPC calls with the name of its pod, and `app ask-grpc HOST:PORT TIMES` makes such calls and prints the names.
//!
//! All that listen write a line for each request: pod, method, path, version, request id, and the address that was called.

mod grpc;
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
        ["grpc", port] => (port, App::Grpc),
        ["ask-grpc", upstream, times] => return ask_grpc(upstream, times),
        _ => bail!(
            "usage: app serve PORT | app relay PORT HOST:PORT | app grpc PORT | app ask-grpc HOST:PORT TIMES"
        ),
    };
    let port: u16 = port.parse().with_context(|| format!("{port} is no port"))?;
    run(server::run(port, app))
}

fn ask_grpc(upstream: &str, times: &str) -> Result<()> {
    let times = times.parse().with_context(|| format!("{times} is no number"))?;
    for pod in run(grpc::ask(upstream, times))? {
        server::say(&pod);
    }
    Ok(())
}

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work)
}
