//! DNS: whatever resolv.conf and servers say, only what was asked about is believed.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use whichpod_upstream::{
    Balance, Data, Discovery, Family, Health, Host, Kind, Lookup, LookupError, Options, Question, Record,
    ResolvConf, Resolver, Response, Settings, Target, TargetPort, read_message,
};

use crate::parts::{lines, parts};

/// Any resolv.conf.
pub fn resolv_conf(bytes: &[u8]) {
    let conf = ResolvConf::parse(bytes);
    assert!(conf.ndots <= 15);
    for domain in &conf.search {
        assert!(!domain.is_empty() && is_plain(domain), "{domain:?}");
    }
    // A line more at the end changes nothing of the servers before it.
    let more = [bytes, b"\nnameserver 192.0.2.1\n"].concat();
    let servers = ResolvConf::parse(&more).servers;
    assert!(servers.starts_with(&conf.servers), "{servers:?}");
}

/// Any message, as an answer to each kind of question.
pub fn dns_message(bytes: &[u8]) {
    for kind in [Kind::A, Kind::Aaaa, Kind::Srv, Kind::Ptr] {
        let name: Arc<str> = "web.shop.svc.cluster.local".into();
        let question = Question { name, kind, whole: false };
        let server = SocketAddr::from(([10, 96, 0, 10], 53));
        match read_message(server, &question, bytes.to_vec()) {
            Err(LookupError(reason)) => assert!(!reason.is_empty()),
            Ok(Response { answers, additionals, .. }) => {
                for record in answers.iter().chain(&additionals) {
                    assert!(is_plain(&record.name), "{record:?}");
                    match &record.data {
                        Data::Cname(name) | Data::Ptr(name) | Data::Srv { target: name, .. } => {
                            assert!(is_plain(name), "{record:?}");
                        }
                        Data::Address(_) => {}
                    }
                }
            }
        }
    }
}

/// As names are compared: lower case, no trailing dot but an escaped one, and nothing that is not ASCII.
fn is_plain(name: &str) -> bool {
    let ends = name.ends_with('.') && !name.ends_with("\\.");
    !ends && !name.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// So many questions are enough for any answer.
const MOST_QUESTIONS: u32 = 1_000;

/// A target `host:port`, a resolv.conf, and a zone, of which each line is `NAME TTL A|AAAA|CNAME|SRV|PTR ...`,
/// `NAME fails` or `NAME nxdomain`: every pod is one that the zone knows, and none has an address that no pod has.
pub fn discovery(bytes: &[u8]) {
    let [target, conf, zone] = parts(bytes);
    let Some((host, port)) = std::str::from_utf8(target).ok().and_then(|target| target.rsplit_once(':'))
    else {
        return;
    };
    let zone = Arc::new(Zone::read(zone, conf));
    let resolver: Arc<Zone> = Arc::clone(&zone);
    let settings = Settings {
        name: "web".into(),
        target: Target {
            host: Host::Name(host.into()),
            port: port.parse().map_or_else(|_| TargetPort::Name(port.into()), TargetPort::Number),
        },
        fallback: None,
        balance: Balance::RoundRobin,
        slow_start: None,
        health: Health::default(),
        lazy: false,
    };
    let options = Options { family: Family::V4, ..Options::default() };
    let runtime: Runtime =
        Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let upstream = Discovery::new(resolver, options).add(settings);
        tokio::time::timeout(Duration::from_secs(30), upstream.until_settled())
            .await
            .expect("an answer, or a failure");
        let set = upstream.snapshot();
        let mut seen: Vec<SocketAddr> = set.endpoints().iter().map(|endpoint| endpoint.address()).collect();
        for endpoint in set.endpoints() {
            let ip = endpoint.address().ip();
            let told =
                |data: &Data| matches!(data, Data::Address(told) if told.to_canonical() == ip.to_canonical());
            assert!(zone.records.iter().any(|record| told(&record.data)), "nobody told of {ip}");
            let v4 = match ip.to_canonical() {
                IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            let canonical = ip.to_canonical();
            let refused =
                v4 || canonical.is_loopback() || canonical.is_unspecified() || canonical.is_multicast();
            assert!(!refused, "{ip} is no pod's");
            if let Some(pod) = endpoint.identity() {
                let is_label = pod.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                assert!(is_label && (1..=63).contains(&pod.len()), "{pod:?}");
            }
        }
        seen.sort();
        assert!(seen.windows(2).all(|two| two[0] != two[1]), "twice: {seen:?}");
    });
    assert!(zone.questions.load(Ordering::Relaxed) <= MOST_QUESTIONS, "questions without end");
}

struct Zone {
    conf: Arc<ResolvConf>,
    records: Vec<Record>,
    failing: Vec<Arc<str>>,
    absent: Vec<Arc<str>>,
    questions: AtomicU32,
    strange: Mutex<Option<String>>,
}

impl Zone {
    fn read(zone: &[u8], conf: &[u8]) -> Self {
        let mut read = Zone {
            conf: Arc::new(ResolvConf::parse(conf)),
            records: Vec::new(),
            failing: Vec::new(),
            absent: Vec::new(),
            questions: AtomicU32::new(0),
            strange: Mutex::default(),
        };
        for line in lines(zone).filter_map(|line| std::str::from_utf8(line).ok()).take(64) {
            let line = line.to_ascii_lowercase();
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                [name, "fails"] => read.failing.push(name.into()),
                [name, "nxdomain"] => read.absent.push(name.into()),
                [name, ttl, ref data @ ..] => {
                    if let (Ok(ttl), Some(data)) = (ttl.parse(), data_of(data)) {
                        read.records.push(Record { name: name.into(), ttl, data });
                    }
                }
                _ => {}
            }
        }
        read
    }
}

fn data_of(words: &[&str]) -> Option<Data> {
    Some(match *words {
        ["a" | "aaaa", ip] => Data::Address(ip.parse().ok()?),
        ["cname", name] => Data::Cname(name.into()),
        ["ptr", name] => Data::Ptr(name.into()),
        ["srv", priority, port, target] => {
            Data::Srv { priority: priority.parse().ok()?, port: port.parse().ok()?, target: target.into() }
        }
        _ => return None,
    })
}

impl Resolver for Zone {
    /// As bad servers do, it says everything it has about the name whatever is asked, and all addresses besides.
    fn lookup(&self, question: Question) -> Lookup<'_> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let Question { name, .. } = question;
        if name.len() > 253 || name.is_empty() || !is_plain(&name) {
            self.strange.lock().expect("nobody panicked").get_or_insert(name.to_string());
        }
        let result = if self.failing.contains(&name) {
            Err(LookupError("SERVFAIL".into()))
        } else {
            Ok(Response {
                nxdomain: self.absent.contains(&name),
                answers: self.records.iter().filter(|record| record.name == name).cloned().collect(),
                additionals: self.records.clone(),
            })
        };
        Box::pin(std::future::ready(result))
    }

    fn system(&self) -> Arc<ResolvConf> {
        Arc::clone(&self.conf)
    }
}
