//! How a target that needs several things finds them in its bytes.

use http::{HeaderMap, HeaderName, HeaderValue};

/// What stands between two parts: a line of its own, so that seeds can be written by hand.
const BETWEEN: &[u8] = b"\n---\n";

/// The parts of an input; those that are not there are empty, and the last has all that is left.
pub(crate) fn parts<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut rest = bytes;
    std::array::from_fn(|index| {
        let end = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN);
        match end.filter(|_| index + 1 < N) {
            Some(end) => {
                let part = &rest[..end];
                rest = &rest[end + BETWEEN.len()..];
                part
            }
            None => std::mem::take(&mut rest),
        }
    })
}

/// The lines of a part, without an empty one at its end.
pub(crate) fn lines(part: &[u8]) -> impl Iterator<Item = &[u8]> {
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    part.split(|byte| *byte == b'\n').filter(|_| !part.is_empty())
}

/// Fields as in HTTP/1, one a line; what is none is left out.
pub(crate) fn fields<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}
