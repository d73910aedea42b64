//! The webhook as it is installed (the objects and the rights of `charts/whichpod.yaml`), except that its replicas run in
//! this process and the API server calls them by URL.

mod installation;
mod replica;

mod asking;
mod balancer;
mod impostor;
mod user;

pub use asking::Asking;
pub use balancer::Balancer;
pub use impostor::{Impostor, Manner};
pub use installation::{Installation, audit_annotations};
pub use replica::Replica;
pub use user::{Ran, User, asking, backend, configuration, deployment, routes, service, sidecar};
