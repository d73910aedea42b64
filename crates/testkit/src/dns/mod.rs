//! A real DNS server over UDP and TCP whose zone can be edited while it runs, and made to fail.

mod answer;
mod server;
mod service;
mod zone;

pub use hickory_proto::rr::RecordType;
pub use server::DnsServer;
pub use service::{Pod, Service};
pub use zone::{Failure, Zone};
