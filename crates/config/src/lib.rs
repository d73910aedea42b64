//! The sidecar's configuration: flags, environment, file and inline document, checked all at once.
//!
//! [`load`] is the way in. Every source becomes the same document form ([`raw::Document`]): the file or
//! inline document by reading it, flags and variables through the table [`SETTINGS`]. The forms are laid
//! over each other (flags over environment over document), defaults are filled in, and what concerns
//! several values is checked. Every value is read by one rule, wherever it was written, and every error of
//! a start is reported at once.

mod error;
mod nearest;
#[macro_use]
mod form;
mod balance;
mod kinds;
mod target;

pub mod names;
pub mod raw;
pub mod types;

mod defaults;
mod env;
mod settings;
mod source;

mod health;
mod resolve;
mod upstreams;

mod describe;
mod effective;
mod load;

pub use env::{Env, ProcessEnv};
pub use error::{EXIT_USAGE, Failure, Fault, Problem};
pub use load::{Checks, Outcome, check, load};
pub use raw::Document;
pub use settings::{SETTINGS, Setting, Takes};
pub use types::*;
