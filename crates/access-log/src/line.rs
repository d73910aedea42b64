//! Numbers and addresses as bytes, without the formatting machinery where it would cost.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Appends a decimal number.
#[inline]
pub(crate) fn number(value: u64, line: &mut Vec<u8>) {
    match u8::try_from(value) {
        Ok(digit @ 0..=9) => line.push(b'0' + digit),
        _ => long_number(value, line),
    }
}

fn long_number(mut value: u64, line: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    while value > 0 {
        start -= 1;
        digits[start] += u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
    }
    line.extend_from_slice(&digits[start..]);
}

/// Appends an address without brackets.
pub(crate) fn ip(address: IpAddr, line: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => ipv4(address, line),
        // Writing to a vector does not fail.
        IpAddr::V6(address) => drop(write!(line, "{address}")),
    }
}

/// Appends `ip:port`, or `[ip]:port` for IPv6.
pub(crate) fn socket(address: SocketAddr, line: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(v4) => {
            ipv4(*v4.ip(), line);
            line.push(b':');
            number(v4.port().into(), line);
        }
        SocketAddr::V6(v6) => drop(write!(line, "{v6}")),
    }
}

/// Appends the network of `address` with this prefix length, in CIDR notation.
pub(crate) fn network(address: IpAddr, prefix: u8, line: &mut Vec<u8>) {
    let masked = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    };
    ip(masked, line);
    line.push(b'/');
    number(prefix.into(), line);
}

/// Appends seconds with milliseconds, as nginx does: `0.012`.
pub(crate) fn seconds(duration: Duration, line: &mut Vec<u8>) {
    number(duration.as_secs(), line);
    let millis = duration.subsec_millis();
    line.push(b'.');
    for digit in [millis / 100, millis / 10 % 10, millis % 10] {
        number(digit.into(), line);
    }
}

/// Appends a random UUID (RFC 9562 §5.4).
pub(crate) fn uuid(line: &mut Vec<u8>) {
    let random = fastrand::u128(..);
    let bits = random & !(0xf << 76) & !(0b11 << 62) | 0x4 << 76 | 0b10 << 62;
    for (index, byte) in bits.to_be_bytes().into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            line.push(b'-');
        }
        drop(write!(line, "{byte:02x}"));
    }
}

/// Whole milliseconds, as Envoy counts them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ipv4(address: Ipv4Addr, line: &mut Vec<u8>) {
    let mut text = [b'.'; 15];
    let mut len = 0;
    for octet in address.octets() {
        // Copied as a whole, advanced by what counts.
        let [digits @ .., count] = octet_text(octet);
        text[len..len + 3].copy_from_slice(&digits);
        len += usize::from(count);
        if let Some(dot) = text.get_mut(len) {
            *dot = b'.';
        }
        len += 1;
    }
    line.extend_from_slice(&text[..len - 1]);
}

/// The digits of a byte, from the left, and their number.
fn octet_text(octet: u8) -> [u8; 4] {
    let (hundreds, tens, ones) = (b'0' + octet / 100, b'0' + octet / 10 % 10, b'0' + octet % 10);
    match octet {
        0..10 => [ones, 0, 0, 1],
        10..100 => [tens, ones, 0, 2],
        100.. => [hundreds, tens, ones, 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut line = Vec::new();
        write(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn numbers_and_addresses_are_exact() {
        for value in [0, 7, 10, 12_345, u64::MAX] {
            assert_eq!(text(|line| number(value, line)), value.to_string());
        }
        for address in ["10.0.255.1:80", "0.0.0.0:0", "255.255.255.255:65535", "[2001:db8::1]:443"] {
            let parsed: SocketAddr = address.parse().unwrap();
            assert_eq!(text(|line| socket(parsed, line)), address);
            assert_eq!(text(|line| ip(parsed.ip(), line)), parsed.ip().to_string());
        }
        assert_eq!(text(|line| seconds(Duration::from_micros(12_345_678), line)), "12.345");
        assert_eq!(text(|line| seconds(Duration::from_millis(7), line)), "0.007");
    }

    #[test]
    fn a_masked_address_does_not_tell_who_called() {
        let network = |address: &str, prefix| text(|line| network(address.parse().unwrap(), prefix, line));
        assert_eq!(network("10.1.10.23", 16), "10.1.0.0/16");
        assert_eq!(network("10.1.10.23", 0), "0.0.0.0/0");
        assert_eq!(network("10.1.10.23", 32), "10.1.10.23/32");
        assert_eq!(network("2001:db8:1234:5678:9abc:def0:1234:5678", 64), "2001:db8:1234:5678::/64");
        assert_eq!(network("::1", 0), "::/0");
    }

    #[test]
    fn unique_ids_are_random_uuids() {
        let (a, b) = (text(uuid), text(uuid));
        assert_ne!(a, b);
        let shape: String = a.chars().map(|c| if c.is_ascii_hexdigit() { 'x' } else { c }).collect();
        assert_eq!(shape, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
        assert_eq!(&a[14..15], "4");
        assert!(matches!(&a[19..20], "8" | "9" | "a" | "b"), "{a}");
    }
}
