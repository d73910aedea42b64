//! Admission: from the bytes of a request to those of an answer.

mod body;
mod handler;
mod record;
mod review;

pub use handler::{BODY_LIMIT, Handler, router};
pub use record::{Result, Reviews};
