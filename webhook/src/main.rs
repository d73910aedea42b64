//! `whichpod-webhook`: run, tell, exit.

use std::process::ExitCode;

use whichpod_runtime::exit::Exit;
use whichpod_webhook::command::{Verdict, run};

/// A review is mostly the making and dropping of JSON values, which the system's allocator takes a third longer for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what was asked for, or why it cannot be had")]
fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let Verdict { text, exit } = run(&arguments, &host);
    match exit {
        _ if text.is_empty() => {}
        Exit::Ok => println!("{text}"),
        _ => eprintln!("whichpod-webhook: {text}"),
    }
    exit.into()
}
