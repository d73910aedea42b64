//! Signals reach the whole process, so this test has a process of its own.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use rustix::process::{Signal as Number, getpid, kill_process};
use whichpod_runtime::shutdown::{Signal, Signals};

#[tokio::test]
async fn the_first_term_is_graceful_the_second_ends_at_once_and_hup_reopens_logs() {
    let mut signals = Signals::new().unwrap();
    let steps = [
        (Number::HUP, Signal::Reopen),
        (Number::TERM, Signal::Stop),
        (Number::HUP, Signal::Reopen),
        (Number::INT, Signal::StopNow),
        (Number::TERM, Signal::StopNow),
    ];
    for (number, expected) in steps {
        kill_process(getpid(), number).unwrap();
        assert_eq!(signals.next().await, expected, "after {number:?}");
    }
}
