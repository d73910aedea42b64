//! One line per request: format compilation, the record, the bounded writer.
//!
//! A [`Format`] is compiled once, tells by its [`Needs`] which headers to keep, and turns a [`Record`]
//! into one line. Each worker owns a [`WorkerLog`] that gathers whole lines and hands them over a bounded
//! queue to the one thread that writes ([`Log`]), so a stopped reader costs lines, never time.

mod compile;
mod error;
mod escape;
mod filter;
mod flags;
mod format;
mod headers;
mod line;
mod log;
mod nearest;
mod needs;
mod operator;
mod output;
mod parse;
mod preset;
mod record;
mod table;
mod time;
mod value;
mod worker;

pub use error::{FilterError, FormatError, OpenError, Problem};
pub use filter::{Filter, Rules};
pub use flags::Flags;
pub use format::{Compiled, Format, LINE_LIMIT};
pub use log::{Destination, Log, Writer};
pub use needs::Needs;
pub use record::{Attempt, Captured, Record, TraceId};
pub use time::Scratch;
pub use worker::WorkerLog;
