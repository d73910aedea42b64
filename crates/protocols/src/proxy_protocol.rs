//! The PROXY protocol towards pods: who the client is, before its first byte (haproxy's proxy-protocol.txt, 2.1 and 2.2).

use std::net::{IpAddr, SocketAddr};

use whichpod_config::ProxyProtocol;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, a connection on behalf of somebody else.
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header for a connection from `client` to `listener`.
#[must_use]
pub fn header(version: ProxyProtocol, client: SocketAddr, listener: SocketAddr) -> Vec<u8> {
    let (from, to) = (client.ip().to_canonical(), listener.ip().to_canonical());
    let (from_port, to_port) = (client.port(), listener.port());
    match version {
        ProxyProtocol::V1 => {
            let (family, from, to) = match (from, to) {
                (IpAddr::V4(_), IpAddr::V4(_)) => ("TCP4", from, to),
                (from, to) => ("TCP6", octets(from).into(), octets(to).into()),
            };
            format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
        }
        ProxyProtocol::V2 => {
            let (family, addresses) = match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => (TCP_OVER_IPV4, [from.octets(), to.octets()].concat()),
                (from, to) => (TCP_OVER_IPV6, [octets(from), octets(to)].concat()),
            };
            let ports = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
            // 12 or 36.
            let length = u8::try_from(addresses.len() + ports.len()).unwrap_or_default();
            [SIGNATURE, &[PROXY, family, 0, length], &addresses, &ports].concat()
        }
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_of(version: ProxyProtocol, client: &str, listener: &str) -> Vec<u8> {
        header(version, client.parse().unwrap(), listener.parse().unwrap())
    }

    #[test]
    fn version_1_is_one_line() {
        let line =
            |client, listener| String::from_utf8(header_of(ProxyProtocol::V1, client, listener)).unwrap();
        assert_eq!(line("10.0.0.1:5000", "10.0.0.2:80"), "PROXY TCP4 10.0.0.1 10.0.0.2 5000 80\r\n");
        assert_eq!(
            line("10.0.0.1:1", "[::1]:2"),
            "PROXY TCP6 ::ffff:10.0.0.1 ::1 1 2\r\n",
            "both of one family"
        );
        assert_eq!(line("[::1]:5000", "[fe80::2]:80"), "PROXY TCP6 ::1 fe80::2 5000 80\r\n");
        assert_eq!(
            line("[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.2]:2"),
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"
        );
    }

    #[test]
    fn version_2_is_as_the_specification_lays_it_out() {
        let bytes = header_of(ProxyProtocol::V2, "10.0.0.1:258", "10.0.0.2:80");
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x01\x02\0\x50";
        assert_eq!(bytes, expected);
        let bytes = header_of(ProxyProtocol::V2, "[::1]:1", "[::2]:2");
        assert_eq!((bytes.len(), &bytes[12..16]), (52, &b"\x21\x21\0\x24"[..]));
        assert_eq!((bytes[31], bytes[47], &bytes[48..]), (1, 2, &b"\0\x01\0\x02"[..]));
    }
}
