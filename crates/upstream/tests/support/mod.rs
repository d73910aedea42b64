//! A resolver that answers from a map of names, and remembers what it was asked.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use whichpod_upstream::{
    Balance, Choice, Data, Discovery, Family, Health, Host, Kind, Lookup, LookupError, NoEndpoint, Options,
    Question, Record, ResolvConf, Resolver, Response, Settings, Target, TargetPort, Upstream,
};

pub const HEADLESS: &str = "web.shop.svc.cluster.local";
pub const POD_CONF: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
                            nameserver 10.96.0.10\noptions ndots:5\n";

/// What the fake says about one name and kind.
#[derive(Debug, Clone)]
pub enum Says {
    Records(Vec<Record>, Vec<Record>),
    NxDomain,
    Fails,
    Hangs,
    /// After so long.
    Late(Duration, Box<Says>),
}

/// `ips` of `name`, each with this TTL in seconds.
pub fn addresses(name: &str, ttl: u32, ips: &[&str]) -> Says {
    let record =
        |ip: &&str| Record { name: name.into(), ttl, data: Data::Address(ip.parse().expect("an address")) };
    Says::Records(ips.iter().map(record).collect(), Vec::new())
}

/// SRV records with the addresses of their targets: (target, port, address).
pub fn services(name: &str, ttl: u32, targets: &[(&str, u16, Option<&str>)]) -> Says {
    let mut answers = Vec::new();
    let mut additionals = Vec::new();
    for (target, port, ip) in targets {
        let data = Data::Srv { priority: 0, port: *port, target: (*target).into() };
        answers.push(Record { name: name.into(), ttl, data });
        if let Some(ip) = ip {
            let ip: IpAddr = ip.parse().expect("an address");
            additionals.push(Record { name: (*target).into(), ttl, data: Data::Address(ip) });
        }
    }
    Says::Records(answers, additionals)
}

/// The PTR record of an IPv4 address.
pub fn pointer(ip: [u8; 4], name: &str) -> (String, Says) {
    let reverse = format!("{}.{}.{}.{}.in-addr.arpa", ip[3], ip[2], ip[1], ip[0]);
    let record = Record { name: reverse.as_str().into(), ttl: 30, data: Data::Ptr(name.into()) };
    (reverse, Says::Records(vec![record], Vec::new()))
}

#[derive(Default)]
struct Zone {
    says: HashMap<(String, Kind), Says>,
    whole: HashMap<(String, Kind), Says>,
    asked: Vec<(Question, Instant)>,
    conf: Arc<ResolvConf>,
    down: bool,
}

/// A DNS that is a map. Names that are not in it do not exist; a name that is there has no data of other kinds.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<Zone>>);

impl Fake {
    pub fn new() -> Self {
        let fake = Self::default();
        fake.conf(POD_CONF);
        fake
    }

    pub fn conf(&self, text: &str) {
        self.0.lock().unwrap().conf = Arc::new(ResolvConf::parse(text.as_bytes()));
    }

    pub fn set(&self, name: &str, kind: Kind, says: Says) {
        self.0.lock().unwrap().says.insert((name.into(), kind), says);
    }

    /// What is said over TCP only.
    pub fn set_whole(&self, name: &str, kind: Kind, says: Says) {
        self.0.lock().unwrap().whole.insert((name.into(), kind), says);
    }

    pub fn pods(&self, name: &str, ttl: u32, ips: &[&str]) {
        self.set(name, Kind::A, addresses(name, ttl, ips));
    }

    pub fn pointer(&self, ip: [u8; 4], name: &str) {
        let (reverse, says) = pointer(ip, name);
        self.set(&reverse, Kind::Ptr, says);
    }

    pub fn remove(&self, name: &str) {
        self.0.lock().unwrap().says.retain(|(key, _), _| key != name);
    }

    /// Every question fails.
    pub fn down(&self, down: bool) {
        self.0.lock().unwrap().down = down;
    }

    /// The names asked so far, in order, and forgets them.
    pub fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut self.0.lock().unwrap().asked);
        asked.into_iter().map(|(question, _)| format!("{} {}", question.kind, question.name)).collect()
    }

    pub fn asked_at(&self) -> Vec<Instant> {
        std::mem::take(&mut self.0.lock().unwrap().asked).into_iter().map(|(_, at)| at).collect()
    }
}

impl Resolver for Fake {
    fn lookup(&self, question: Question) -> Lookup<'_> {
        let says = {
            let mut zone = self.0.lock().unwrap();
            zone.asked.push((question.clone(), Instant::now()));
            let key = (question.name.to_string(), question.kind);
            let whole = zone.whole.get(&key).filter(|_| question.whole);
            match whole.or_else(|| zone.says.get(&key)).cloned() {
                _ if zone.down => Says::Fails,
                Some(says) => says,
                None if zone.says.keys().any(|(name, _)| **name == *question.name) => {
                    Says::Records(vec![], vec![])
                }
                None => Says::NxDomain,
            }
        };
        Box::pin(say(says))
    }

    fn system(&self) -> Arc<ResolvConf> {
        Arc::clone(&self.0.lock().unwrap().conf)
    }
}

async fn say(says: Says) -> Result<Response, LookupError> {
    match says {
        Says::Records(answers, additionals) => Ok(Response { nxdomain: false, answers, additionals }),
        Says::NxDomain => Ok(Response { nxdomain: true, ..Response::default() }),
        Says::Fails => Err(LookupError("DNS server 10.96.0.10:53 answered with SERVFAIL".into())),
        Says::Hangs => std::future::pending().await,
        Says::Late(after, says) => {
            tokio::time::sleep(after).await;
            Box::pin(say(*says)).await
        }
    }
}

pub fn target(text: &str) -> Target {
    let (host, port) = text.rsplit_once(':').expect("host:port");
    Target {
        host: host.parse().map_or_else(|_| Host::Name(host.into()), Host::Ip),
        port: port.parse().map_or_else(|_| TargetPort::Name(port.into()), TargetPort::Number),
    }
}

pub fn settings(name: &str) -> Settings {
    Settings {
        name: "web".into(),
        target: target(name),
        fallback: None,
        balance: Balance::RoundRobin,
        slow_start: None,
        health: Health::default(),
        lazy: false,
    }
}

pub fn options() -> Options {
    Options { family: Family::V4, ..Options::default() }
}

pub fn discovery(fake: &Fake) -> Discovery {
    Discovery::new(Arc::new(fake.clone()), options())
}

/// An upstream for `name`, already asked about.
pub async fn upstream(fake: &Fake, name: &str) -> Arc<Upstream> {
    let upstream = discovery(fake).add(settings(name));
    upstream.until_settled().await;
    upstream
}

pub fn listed(upstream: &Upstream) -> Vec<String> {
    upstream.snapshot().endpoints().iter().map(|endpoint| endpoint.address().to_string()).collect()
}

/// A choice, and how long it took.
pub async fn timed(upstream: &Upstream) -> (Result<Choice, NoEndpoint>, Duration) {
    let start = Instant::now();
    let choice = upstream.choose(&[]).await;
    (choice, start.elapsed())
}

pub async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}
