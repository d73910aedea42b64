//! Programs of Debian's that serve: each in a folder of its own, on a port of its own, gone with its handle.
//!
//! `install-debian.sh` installs them. Failing steps panic: they are failed tests.

#![allow(clippy::expect_used, reason = "a failed step is a failed test")]

mod program;
mod servers;

pub use program::{Output, Server, run};
pub use servers::{mariadb, nginx_tls, postgres, redis, websocket};
