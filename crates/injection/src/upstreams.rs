//! The grammar of `whichpod.io/upstreams`: entries with commas or white space between them, each `*` or
//! `[SCHEME://]HOST:PORT[=HOST:PORT]` (what the app calls, and what to discover instead). A port is a number or the
//! name of a Service's port.

use std::fmt;
use std::net::IpAddr;

/// What a workload calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Every ClusterIP Service of the namespace (`*`).
    pub(crate) all: bool,
    pub(crate) entries: Vec<Entry>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What the app speaks, as a scheme says it: `http`, `tcp`, ...
    pub(crate) scheme: Option<&'static str>,
    /// What the app calls.
    pub(crate) call: Endpoint,
    /// What to discover, where that is another name.
    pub(crate) discover: Option<Endpoint>,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: Host,
    pub(crate) port: Port,
}

/// A DNS name in lower case without a trailing dot, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Name(String),
    Ip(IpAddr),
}

/// A port's number or name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Port {
    Number(u16),
    Name(String),
}

/// Schemes and the protocol each stands for.
const SCHEMES: [(&str, &str); 9] = [
    ("http", "http1"),
    ("http1", "http1"),
    ("h2c", "h2c"),
    ("http2", "h2c"),
    ("grpc", "grpc"),
    ("tcp", "tcp"),
    // Passed through: the app's TLS ends at the pod.
    ("https", "tcp"),
    ("tls", "tcp"),
    ("auto", "auto"),
];

/// The most entries: the configuration of more would not fit into an environment variable, and admission waits for it.
const MOST: usize = 300;

impl Wanted {
    /// Reads the annotation; the error says what is wrong with which entry.
    pub(crate) fn parse(text: &str) -> Result<Wanted, String> {
        let mut wanted = Wanted::default();
        let parts = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
        for (number, part) in parts.enumerate() {
            if number == MOST {
                return Err(format!("up to {MOST} upstreams; name those that matter"));
            }
            if part == "*" {
                wanted.all = true;
                continue;
            }
            let entry = entry(part)?;
            if !wanted.entries.contains(&entry) {
                wanted.entries.push(entry);
            }
        }
        Ok(wanted)
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.entries.is_empty()
    }
}

impl Endpoint {
    /// Whether the host is a loopback address: where to listen rather than what is called.
    pub(crate) fn loopback(&self) -> Option<IpAddr> {
        match self.host {
            Host::Ip(ip) if ip.is_loopback() => Some(ip),
            _ => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Number(number) => write!(f, "{number}"),
            Port::Name(name) => f.write_str(name),
        }
    }
}

fn entry(text: &str) -> Result<Entry, String> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => {
            let (_, protocol) = SCHEMES.iter().find(|(known, _)| *known == scheme).ok_or_else(|| {
                let known: Vec<&str> = SCHEMES.iter().map(|(known, _)| *known).collect();
                format!("{} has an unknown scheme; schemes: {}", quoted(text), known.join(", "))
            })?;
            (Some(*protocol), rest)
        }
        None => (None, text),
    };
    let (call, discover) = match rest.split_once('=') {
        Some((call, discover)) => (endpoint(call)?, Some(endpoint(discover)?)),
        None => (endpoint(rest)?, None),
    };
    match (&call.host, &call.port, &discover) {
        (Host::Ip(_), _, None) if call.loopback().is_some() => {
            Err(format!("{} does not say what to discover; write {call}=HOST:PORT", quoted(text)))
        }
        (Host::Ip(_), _, _) if call.loopback().is_none() => Err(format!(
            "{} is an address, which cannot be redirected; name a Service, such as backend-service:10000",
            quoted(text)
        )),
        (Host::Ip(_), Port::Name(_), _) => Err(format!("{} needs a port number to listen on", quoted(text))),
        _ => Ok(Entry { scheme, call, discover }),
    }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let wrong = || {
        format!(
            "{} is not NAME:PORT, such as backend-service:10000 or users:80=users-headless:8080",
            quoted(text)
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bare.unwrap_or(host).parse::<IpAddr>() {
        Ok(ip) if ip.is_ipv4() || bare.is_some() => Host::Ip(ip),
        Ok(_) => return Err(wrong()),
        Err(_) => {
            let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
            if name == "localhost" {
                return endpoint(&format!("127.0.0.1:{port}"));
            }
            if !is_dns_name(&name) || name.rsplit('.').next().is_some_and(is_number) {
                return Err(wrong());
            }
            Host::Name(name)
        }
    };
    let port = if is_number(port) {
        Port::Number(port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?)
    } else if is_label(port) {
        Port::Name(port.to_owned())
    } else {
        return Err(wrong());
    };
    Ok(Endpoint { host, port })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A DNS-1123 subdomain, which is what Kubernetes takes in `hostAliases` and for names of objects.
pub(crate) fn is_dns_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

/// A DNS-1123 label.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn quoted(text: &str) -> String {
    format!("{:?}", crate::warning::short(text, 60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(Option<&'static str>, String, Option<String>)> {
        let entries = Wanted::parse(text).unwrap().entries;
        entries
            .into_iter()
            .map(|entry| {
                (entry.scheme, entry.call.to_string(), entry.discover.map(|discover| discover.to_string()))
            })
            .collect()
    }

    #[test]
    fn the_documented_forms_are_read() {
        let discover = |text: &str| Some(text.to_owned());
        assert_eq!(
            read("backend-service:10000, users:80=users-headless:8080, tcp://db:5432"),
            [
                (None, "backend-service:10000".to_owned(), None),
                (None, "users:80".to_owned(), discover("users-headless:8080")),
                (Some("tcp"), "db:5432".to_owned(), None),
            ]
        );
        assert_eq!(
            read("db.Shared.svc.cluster.local.:http\n127.0.0.1:9=x:1 [::1]:9=10.0.0.1:1,"),
            [
                (None, "db.shared.svc.cluster.local:http".to_owned(), None),
                (None, "127.0.0.1:9".to_owned(), discover("x:1")),
                (None, "[::1]:9".to_owned(), discover("10.0.0.1:1")),
            ]
        );
        assert!(Wanted::parse("*").unwrap().all);
        assert!(Wanted::parse(" , ").unwrap().is_empty());
        assert_eq!(read("a:1, a:1").len(), 1, "what is said twice is meant once");
    }

    #[test]
    fn every_slip_is_named() {
        for (text, reason) in [
            ("backend-service", "is not NAME:PORT"),
            ("backend:0", "is not NAME:PORT"),
            ("backend:65536", "is not NAME:PORT"),
            ("backend:80/path", "is not NAME:PORT"),
            ("back_end:80", "is not NAME:PORT"),
            ("http://backend:80/", "is not NAME:PORT"),
            ("udp://backend:80", "unknown scheme"),
            ("a:1=b", "is not NAME:PORT"),
            ("=b:1", "is not NAME:PORT"),
            ("10.0.0.1:80", "cannot be redirected"),
            ("1.2.3:80", "is not NAME:PORT"),
            ("::1:80", "is not NAME:PORT"),
            ("127.0.0.1:80", "does not say what to discover"),
            ("localhost:80", "does not say what to discover"),
            ("127.0.0.1:http=b:1", "needs a port number"),
            ("**", "is not NAME:PORT"),
        ] {
            let error = Wanted::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z0-9:=*./\\[\\], \\PC]{0,80}") {
            let _ = Wanted::parse(&text);
        }

        #[test]
        fn what_was_read_reads_the_same_again(
            host in "[a-z][a-z0-9-]{0,8}[a-z0-9](\\.[a-z]{1,5}){0,3}", port in 1_u16.., to in "[a-z]{1,8}:[a-z]{1,8}",
        ) {
            let text = format!("{host}:{port}={to}");
            prop_assert_eq!(read(&text), [(None, format!("{host}:{port}"), Some(to))]);
        }
    }
}
