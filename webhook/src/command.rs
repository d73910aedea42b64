//! A whole run of the program: the command line in, what to tell and how to end out.

use std::ffi::OsString;
use std::fmt::Display;
use std::future::Future;

use whichpod_runtime::exit::Exit;
use whichpod_runtime::shutdown::{Signal, Signals};
use whichpod_runtime::{diagnostics, limits};

use crate::app;
use crate::config::{Config, Outcome, load};
use crate::hooks::Hook;

/// How a run ended.
#[derive(Debug)]
pub struct Verdict {
    /// For whoever started it; may be empty.
    pub text: String,
    /// The exit code.
    pub exit: Exit,
}

impl Verdict {
    pub(crate) fn new(exit: Exit, text: &dyn Display) -> Self {
        Self { text: text.to_string(), exit }
    }
}

/// Does what the command line says; `host` is this machine's name.
pub fn run(arguments: &[OsString], host: &str) -> Verdict {
    if Hook::is_named(arguments) {
        return match Hook::parse(arguments) {
            Ok(hook) => block_on(hook.run()),
            Err(verdict) => verdict,
        };
    }
    let config = match load(arguments.iter().cloned(), host) {
        Ok(Outcome::Run(config)) => *config,
        Ok(Outcome::Print(text)) => return Verdict::new(Exit::Ok, &text.trim_end()),
        Err(wrong) => return Verdict::new(Exit::Usage, &wrong),
    };
    if let Err(error) = diagnostics::init(&config.log_level) {
        return Verdict::new(Exit::Usage, &format_args!("--log-level: {error}"));
    }
    if let Err(error) = limits::raise_open_files() {
        tracing::warn!("the limit on open files stays as it is: {error}");
    }
    block_on(webhook(config))
}

fn block_on(work: impl Future<Output = Verdict>) -> Verdict {
    // The client takes the process's provider; without this it would depend on which others are compiled in.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(limits::worker_count(limits::cpu_limit()))
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Verdict::new(Exit::OsErr, &error),
    }
}

async fn webhook(config: Config) -> Verdict {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return Verdict::new(Exit::OsErr, &error),
    };
    let bound = match app::build(config).await {
        Ok(bound) => bound,
        Err(error) => return Verdict::new(error.exit(), &error),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut stop = Some(stop);
    let mut work = std::pin::pin!(bound.run(async { drop(stopped.await) }));
    loop {
        tokio::select! {
            ended = &mut work => return match ended {
                Ok(()) => Verdict::new(Exit::Ok, &""),
                Err(error) => Verdict::new(Exit::OsErr, &error),
            },
            signal = signals.next() => match signal {
                Signal::Stop => drop(stop.take()),
                Signal::StopNow => return Verdict::new(Exit::Ok, &""),
                Signal::Reopen => {}
            },
        }
    }
}
