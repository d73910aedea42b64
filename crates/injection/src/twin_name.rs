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

/// The name of the port of a twin, since only named ports are asked for by SRV. It is not the Service's own name for the
/// port: what is injected before its Service exists must ask for the same, and a port may be renamed later.
pub(crate) fn twin_port_name(port: u16) -> String {
    format!("p{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_a_twin_can_be_asked_for() {
        for port in [1, 80, u16::MAX] {
            let target: whichpod_config::Target = format!("host:{}", twin_port_name(port)).parse().unwrap();
            assert!(matches!(target.port, whichpod_config::TargetPort::Name(_)), "{target}");
        }
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
