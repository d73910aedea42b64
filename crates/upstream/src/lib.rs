//! Who the pods behind an upstream are, and which one is next.
//!
//! [`Discovery`] runs a task for each upstream on the control thread, asks DNS through a [`Resolver`] and publishes
//! immutable [`EndpointSet`]s; the request path calls [`Upstream::choose`], which reads the current set and never waits
//! for DNS except before the first answer.
//!
//! The modules in reading order: what a pod is (`endpoint`, `aside`, `set`), what is asked (`resolv_conf`, `name`,
//! `resolver`, `dns_client`), what answers mean (`answer`, `lookup`), when it is asked (`refresh`), the task that does
//! it (`discovery`, `report`), and what the request path sees (`balance`, `upstream`).

mod answer;
mod aside;
mod balance;
mod discovery;
mod dns_client;
mod endpoint;
mod lookup;
mod name;
mod refresh;
mod report;
mod resolv_conf;
mod resolver;
mod set;
mod upstream;

pub use balance::Balance;
pub use discovery::{Discovery, Options};
pub use dns_client::{ResolverError, hickory};
pub use endpoint::{Counts, Endpoint, EndpointId};
pub use resolv_conf::{Family, ResolvConf};
pub use resolver::{Data, Kind, Lookup, LookupError, Question, Record, Resolver, Response};
pub use set::{EndpointSet, SetState, Source};
pub use upstream::{Choice, DnsStats, Host, NoEndpoint, Settings, Target, TargetPort, Upstream};
