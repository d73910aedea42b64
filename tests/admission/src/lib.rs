//! The webhook as it is installed (the objects and the rights of `charts/whichpod.yaml`), except that its replicas run in
//! this process and the API server calls them by URL.

mod installation;
mod replica;

pub use installation::{Installation, audit_annotations};
pub use replica::Replica;
