//! Who the pods behind an upstream are, and which one is next.
//!
//! [`Discovery`] runs a task for each upstream on the control thread, asks DNS through a [`Resolver`] and publishes
//! immutable [`EndpointSet`]s; the request path calls [`Upstream::choose`], which reads the current set and never waits
//! for DNS except before the first answer.
//!
//! The modules in reading order: what a pod is (`endpoint`, `set`), what speaks against it (`aside`, `outlier`) or for it
//! (`slow_start`, `latency`), what is asked (`resolv_conf`, `name`,
//! `resolver`, `dns_client`), what answers mean (`answer`, `lookup`), when it is asked (`refresh`), the task that does
//! it (`discovery`, `report`), and what the request path sees (`maglev`, `balance`, `upstream`).

mod answer;
mod aside;
mod balance;
mod discovery;
mod dns_client;
mod endpoint;
mod latency;
mod lookup;
mod maglev;
mod name;
mod outlier;
mod refresh;
mod report;
mod resolv_conf;
mod resolver;
mod set;
mod slow_start;
mod upstream;

pub use balance::Balance;
pub use discovery::{Discovery, Options};
pub use dns_client::{ResolverError, hickory, read_message};
pub use endpoint::{Counts, Endpoint, EndpointId};
pub use maglev::hash;
pub use outlier::{Outcome, OutlierRules};
pub use resolv_conf::{Family, ResolvConf};
pub use resolver::{Data, Kind, Lookup, LookupError, Question, Record, Resolver, Response};
pub use set::{EndpointSet, SetState, Source};
pub use slow_start::SlowStart;
pub use upstream::{
    Choice, DnsStats, Health, HealthStats, Host, NoEndpoint, Settings, Target, TargetPort, Upstream,
};
