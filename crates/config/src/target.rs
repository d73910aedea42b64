//! Names, ports and addresses as people write them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::error::Fault;
use crate::types::{Host, Target, TargetPort};

impl fmt::Display for Target {
    /// `host:port`; an IPv6 address stands in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:")?,
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
        }
        match &self.port {
            TargetPort::Number(port) => write!(f, "{port}"),
            TargetPort::Name(port) => f.write_str(port),
        }
    }
}

impl FromStr for Target {
    type Err = Fault;

    /// Reads `HOST:PORT`, or `HOST:PORTNAME` for SRV. Names are turned to lower case.
    fn from_str(text: &str) -> Result<Self, Fault> {
        if text.contains("://") {
            return Err(Fault::new(
                "a scheme is no part of it",
                "write HOST:PORT; the protocol is set by protocol",
            ));
        }
        let (host, port) = split(text)?;
        let target = Self { host: parse_host(host)?, port: parse_port(port)? };
        match (&target.host, &target.port) {
            (Host::Ip(_), TargetPort::Name(_)) => Err(Fault::new(
                "a port name is looked up in DNS, which an address is not",
                "write the port's number, or the Service's name",
            )),
            _ => Ok(target),
        }
    }
}

/// Host (without brackets) and port.
fn split(text: &str) -> Result<(&str, &str), Fault> {
    const REMEDY: &str = "write HOST:PORT, e.g. backend:10000, or HOST:PORTNAME";
    if let Some(bracketed) = text.strip_prefix('[') {
        return bracketed
            .split_once("]:")
            .ok_or_else(|| Fault::new("no port after the address", "write [IP]:PORT, e.g. [::1]:10000"));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| Fault::new("no port", REMEDY))?;
    match (host, port) {
        ("", _) => Err(Fault::new("no host", REMEDY)),
        (_, "") => Err(Fault::new("no port", REMEDY)),
        _ if host.contains(':') => {
            Err(Fault::new("an IPv6 address without brackets", "write [IP]:PORT, e.g. [::1]:10000"))
        }
        found => Ok(found),
    }
}

fn parse_host(text: &str) -> Result<Host, Fault> {
    match text.parse() {
        Ok(ip) => Ok(Host::Ip(ip)),
        Err(_) => parse_domain(text).map(Host::Name),
    }
}

/// A DNS name in lower case: RFC 1123 labels, and the underscore that DNS itself allows. A trailing dot is kept.
pub(crate) fn parse_domain(text: &str) -> Result<String, Fault> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > 253 {
        return Err(Fault::new("a DNS name of more than 253 characters", "shorten it"));
    }
    if !name.is_ascii() {
        let remedy = "write it as DNS does, with labels like xn--...";
        return Err(Fault::new("a DNS name has ASCII characters only", remedy));
    }
    name.split('.').try_for_each(check_label)?;
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err(Fault::new("neither an IP address nor a DNS name", "write a full address, or a name"));
    }
    Ok(text.to_ascii_lowercase())
}

/// One label in lower case, as Kubernetes names namespaces (RFC 1123).
pub(crate) fn parse_label(text: &str) -> Result<String, Fault> {
    if text.contains(['.', '_']) {
        return Err(Fault::new(
            "more than one plain label",
            "write letters, digits and '-' only, e.g. default",
        ));
    }
    check_label(text)?;
    Ok(text.to_ascii_lowercase())
}

fn check_label(label: &str) -> Result<(), Fault> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if label.is_empty() {
        Err(Fault::new("a DNS name with an empty label", "write labels with single dots between them"))
    } else if label.len() > 63 {
        Err(Fault::new("a DNS label of more than 63 characters", "shorten it"))
    } else if !label.bytes().all(allowed) || label.starts_with('-') || label.ends_with('-') {
        let remedy = "use letters, digits, '_' and '-', with no '-' at the ends";
        Err(Fault::new(format!("{label:?} is no DNS label"), remedy))
    } else {
        Ok(())
    }
}

fn parse_port(text: &str) -> Result<TargetPort, Fault> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return match text.parse() {
            Ok(port @ 1..) => Ok(TargetPort::Number(port)),
            _ => Err(Fault::new(format!("{text} is no port"), "write a number from 1 to 65535")),
        };
    }
    // RFC 6335 §5.1 has 15 letters and digits; a Service's port may be any DNS label (RFC 1123 §2.1).
    let well_formed = text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if well_formed {
        Ok(TargetPort::Name(text.to_ascii_lowercase()))
    } else {
        let remedy = "write a number, or up to 63 letters, digits and inner '-'";
        Err(Fault::new(format!("{text:?} is no port name"), remedy))
    }
}

/// An address to listen on; port 0 lets the kernel choose.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, Fault> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let ask = |example: String| format!("write IP:PORT, e.g. {example}");
    Err(match text.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(ip)) => Fault::new("no port", ask(format!("{ip}:10000"))),
        Ok(IpAddr::V6(ip)) => Fault::new("no port", ask(format!("[{ip}]:10000"))),
        Err(_) => match text.trim_start_matches(':').parse::<u16>() {
            Ok(port) => Fault::new("no IP", ask(format!("127.0.0.1:{port}"))),
            Err(_) => Fault::new("not an IP and a port", ask("127.0.0.1:10000".to_owned())),
        },
    })
}

/// A DNS server: `IP` or `IP:PORT`.
pub(crate) fn parse_dns_server(text: &str) -> Result<SocketAddr, Fault> {
    let address = match text.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, crate::names::DNS_PORT),
        Err(_) => text.parse().map_err(|_| {
            Fault::new(
                "not an IP address",
                "write IP or IP:PORT, e.g. 10.96.0.10 (a name could not be looked up)",
            )
        })?,
    };
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(Fault::new("nothing can be asked there", "write a server's own address and port"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        text.parse::<Target>().map_or_else(|fault| fault.to_string(), |target| format!("{target:?}"))
    }

    #[test]
    fn names_addresses_and_port_names_are_told_apart() {
        let name = |host: &str, port| Target { host: Host::Name(host.to_owned()), port };
        assert_eq!("Backend.Default:80".parse(), Ok(name("backend.default", TargetPort::Number(80))));
        assert_eq!("db.:HTTP".parse(), Ok(name("db.", TargetPort::Name("http".to_owned()))));
        assert_eq!("_x._tcp.db:1".parse(), Ok(name("_x._tcp.db", TargetPort::Number(1))));
        let ip = |text: &str, port| Target {
            host: Host::Ip(text.parse().unwrap()),
            port: TargetPort::Number(port),
        };
        assert_eq!("10.1.2.3:80".parse(), Ok(ip("10.1.2.3", 80)));
        assert_eq!("[fd00::1]:80".parse(), Ok(ip("fd00::1", 80)));
        assert_eq!(ip("fd00::1", 80).to_string(), "[fd00::1]:80");
    }

    #[test]
    fn every_slip_in_a_target_has_its_own_reason() {
        for (text, reason) in [
            ("backend", "no port;"),
            ("backend:", "no port;"),
            (":80", "no host;"),
            ("", "no port;"),
            ("tcp://db:5432", "a scheme"),
            ("backend:0", "0 is no port;"),
            ("backend:65536", "65536 is no port;"),
            ("backend:a_b", "\"a_b\" is no port name;"),
            ("backend:-a", "\"-a\" is no port name;"),
            ("backend:a-", "\"a-\" is no port name;"),
            (&format!("backend:{0}", "a".repeat(64)), &format!("\"{0}\" is no port name;", "a".repeat(64))),
            ("::1:80", "an IPv6 address without brackets;"),
            ("[::1]", "no port after the address;"),
            ("10.0.0.1:http", "a port name is looked up in DNS"),
            ("10.0.0.256:80", "neither an IP address nor a DNS name;"),
            ("a..b:80", "a DNS name with an empty label;"),
            ("..:80", "a DNS name with an empty label;"),
            (".:80", "a DNS name with an empty label;"),
            ("-a:80", "\"-a\" is no DNS label;"),
            ("a b:80", "\"a b\" is no DNS label;"),
            ("bäckend:80", "a DNS name has ASCII"),
            (&format!("{}:80", "a".repeat(64)), "a DNS label of more than 63"),
            (&format!("{}:80", "a.".repeat(127) + "bc"), "a DNS name of more than 253"),
        ] {
            assert!(parsed(text).starts_with(reason), "{text}: {}", parsed(text));
        }
    }

    #[test]
    fn the_remedy_for_an_address_uses_what_was_written() {
        let fault = |text: &str| parse_address(text).unwrap_err().to_string();
        assert_eq!(fault("127.77.0.1"), "no port; write IP:PORT, e.g. 127.77.0.1:10000");
        assert_eq!(fault("::1"), "no port; write IP:PORT, e.g. [::1]:10000");
        assert_eq!(fault("[::1]"), "no port; write IP:PORT, e.g. [::1]:10000");
        assert_eq!(fault(":8080"), "no IP; write IP:PORT, e.g. 127.0.0.1:8080");
        assert_eq!(fault("8080"), "no IP; write IP:PORT, e.g. 127.0.0.1:8080");
        assert_eq!(fault("localhost:80"), "not an IP and a port; write IP:PORT, e.g. 127.0.0.1:10000");
    }

    #[test]
    fn a_dns_server_is_an_address_with_port_53_unless_given() {
        assert_eq!(parse_dns_server("10.96.0.10").unwrap().to_string(), "10.96.0.10:53");
        assert_eq!(parse_dns_server("fd00::a").unwrap().to_string(), "[fd00::a]:53");
        assert_eq!(parse_dns_server("[fd00::a]:5353").unwrap().to_string(), "[fd00::a]:5353");
        for refused in ["kube-dns", "10.0.0.1:0", "0.0.0.0", "10.0.0.1:x"] {
            assert!(parse_dns_server(refused).is_err(), "{refused}");
        }
    }
}
