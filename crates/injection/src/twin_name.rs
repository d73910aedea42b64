//! The name of a headless twin.

use crate::hash;
use crate::names::TWIN_SUFFIX;

/// The most characters of a Service's name (a DNS label, RFC 1035).
const LONGEST: usize = 63;

/// The name of the twin of a Service: `<name>-whichpod`, shortened with a hash if it would be too long.
pub fn twin_name(service: &str) -> String {
    let name = format!("{service}{TWIN_SUFFIX}");
    if name.len() <= LONGEST {
        return name;
    }
    let hash = &hash::hex(hash::of_text(service))[..8];
    let room = LONGEST - TWIN_SUFFIX.len() - hash.len() - 1;
    let mut end = room;
    while !service.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}{TWIN_SUFFIX}", service[..end].trim_end_matches('-'))
}

/// The name of the port of a twin, since only named ports are asked for by SRV: the Service's, else `p<port>` (also where
/// the Service's could be taken for a number).
pub(crate) fn twin_port_name(name: Option<&str>, port: u16) -> String {
    name.filter(|name| is_srv_name(name)).map_or_else(|| format!("p{port}"), str::to_owned)
}

/// Whether the sidecar can ask for a port of this name.
pub(crate) fn is_srv_name(name: &str) -> bool {
    let target: Result<whichpod_config::Target, _> = format!("host:{name}").parse();
    target.is_ok_and(|target| matches!(target.port, whichpod_config::TargetPort::Name(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_a_twin_can_be_asked_for() {
        assert_eq!(twin_port_name(Some("http"), 80), "http");
        assert_eq!(twin_port_name(None, 80), "p80");
        assert_eq!(twin_port_name(Some("a-name-of-more-than-fifteen"), 80), "a-name-of-more-than-fifteen");
        assert_eq!(twin_port_name(Some("8080"), 65535), "p65535", "a number would be asked as one");
        assert!(is_srv_name("p65535"));
    }

    #[test]
    fn a_long_name_is_shortened_but_stays_its_own() {
        assert_eq!(twin_name("backend-service"), "backend-service-whichpod");
        assert_eq!(twin_name(&"a".repeat(54)).len(), 63);
        let (one, two) = (twin_name(&"a".repeat(62)), twin_name(&"a".repeat(63)));
        assert_ne!(one, two);
        for name in [one, two, twin_name(&format!("{}-{}", "a".repeat(44), "b".repeat(18)))] {
            assert!(name.len() <= 63 && name.ends_with("-whichpod") && !name.contains("--"), "{name}");
        }
        assert!(twin_name(&"é".repeat(40)).len() <= 63);
    }
}
