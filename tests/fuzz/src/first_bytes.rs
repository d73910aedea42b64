//! The first bytes of a connection: what is spoken, the name in a ClientHello, and the PROXY protocol.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use whichpod_config::ProxyProtocol;
use whichpod_protocols::detect::{Verdict, is_http_response, taken_for};
use whichpod_protocols::proxy_protocol::header;
use whichpod_protocols::sni::Sni;

/// What a client speaks is the same however its bytes arrive: a verdict is final.
pub fn detect(bytes: &[u8]) {
    let mut verdict = Verdict::Undecided;
    // The lines that matter end within 8 KiB; beyond, every length is as good as the next.
    let lengths = (0..=bytes.len().min(256)).chain((256..=bytes.len()).step_by(509)).chain([bytes.len()]);
    for length in lengths {
        let begun = &bytes[..length];
        let next = whichpod_protocols::detect::detect(begun);
        assert!(verdict == Verdict::Undecided || verdict == next, "{verdict:?} became {next:?} at {length}");
        verdict = next;
        if next == Verdict::Undecided {
            assert_ne!(taken_for(begun), Verdict::Undecided, "who has stopped is taken for something");
        }
        let _ = is_http_response(begun);
    }
}

/// The name is the same however the ClientHello is cut.
pub fn sni(bytes: &[u8]) {
    let whole = look(bytes.chunks(bytes.len().max(1)));
    if let Some(name) = &whole {
        let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(!name.is_empty() && printable && name.len() < 256, "{name:?}");
    }
    for size in [1, 2, 3, 5, 7, 64, 500] {
        assert_eq!(look(bytes.chunks(size)), whole, "in pieces of {size}");
    }
}

fn look<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<Arc<str>> {
    let mut sni = Sni::default();
    let mut pieces = pieces;
    pieces.find_map(|piece| sni.look(piece))
}

/// The header of any two addresses can be read back: the version, two address families, two addresses, two ports.
pub fn proxy_protocol(bytes: &[u8]) {
    let mut padded = [0; 39];
    let length = bytes.len().min(padded.len());
    padded[..length].copy_from_slice(&bytes[..length]);
    let [version, families, _, rest @ ..] = padded;
    let (client, listener) =
        (address(families & 1 == 0, &rest[..18]), address(families & 2 == 0, &rest[18..]));
    let both = [client, listener].map(|address| (address.ip().to_canonical(), address.port()));
    if version & 1 == 0 {
        let line = String::from_utf8(header(ProxyProtocol::V1, client, listener)).expect("ASCII");
        assert!(line.len() <= 107, "{line}");
        let words: Vec<&str> = line.strip_suffix("\r\n").expect("a line").split(' ').collect();
        let ["PROXY", family, from, to, from_port, to_port] = words[..] else { panic!("{line}") };
        let told = [(from, from_port), (to, to_port)].map(|(ip, port)| {
            let ip: IpAddr = ip.parse().expect("an address");
            assert_eq!(family, if ip.is_ipv4() { "TCP4" } else { "TCP6" }, "{line}");
            (ip.to_canonical(), port.parse::<u16>().expect("a port"))
        });
        assert_eq!(told, both, "{line}");
    } else {
        let bytes = header(ProxyProtocol::V2, client, listener);
        let body = bytes.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n\x21").expect("the signature");
        let told = match body {
            [0x11, 0, 12, body @ ..] => read_back::<4>(body),
            [0x21, 0, 36, body @ ..] => read_back::<16>(body),
            other => panic!("{other:?}"),
        };
        assert_eq!(told, both);
    }
}

fn address(is_v4: bool, bytes: &[u8]) -> SocketAddr {
    let port = u16::from_be_bytes([bytes[16], bytes[17]]);
    let ip = <[u8; 16]>::try_from(&bytes[..16]).expect("16 bytes");
    if is_v4 { SocketAddr::from(([ip[0], ip[1], ip[2], ip[3]], port)) } else { SocketAddr::from((ip, port)) }
}

fn read_back<const N: usize>(body: &[u8]) -> [(IpAddr, u16); 2]
where
    IpAddr: From<[u8; N]>,
{
    assert_eq!(body.len(), 2 * N + 4);
    let ip =
        |at: usize| IpAddr::from(<[u8; N]>::try_from(&body[at..at + N]).expect("N bytes")).to_canonical();
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    [(ip(0), port(2 * N)), (ip(N), port(2 * N + 2))]
}
