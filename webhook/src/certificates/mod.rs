//! The certificate that the webhook serves: made and renewed by itself in a Secret, or read from files.

pub mod keeper;
pub mod material;
pub mod plan;
pub mod served;
pub mod trust;

mod files;
mod store;

pub use keeper::Source;
pub use served::Served;
