//! A strict reader of HTTP/1.1 requests (RFC 9112): what it accepts, every parser reads the same way.

/// Checks that these are whole requests, perhaps but for the last one, that nobody can read in two ways.
///
/// # Errors
/// What is doubtful, in words.
pub fn unambiguous(mut bytes: &[u8]) -> Result<(), String> {
    while !bytes.is_empty() {
        match after_request(bytes)? {
            Some(rest) => bytes = rest,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// What follows the first request; `None` if that is not complete.
///
/// # Errors
/// What is doubtful about it, in words.
pub fn after_request(bytes: &[u8]) -> Result<Option<&[u8]>, String> {
    let Some((head, body)) = split(bytes, b"\r\n\r\n") else { return Ok(None) };
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some((line, after)) = split(rest, b"\r\n") {
        lines.push(line);
        rest = after;
    }
    lines.push(rest);
    let (start, fields) = lines.split_first().ok_or("no start line")?;
    start_line(start)?;
    let mut hosts = 0;
    let mut length = None;
    let mut chunked = false;
    for line in fields {
        let (name, value) = field(line)?;
        match name.as_str() {
            "host" => hosts += 1,
            "content-length" if length.is_some() => return Err("two lengths".to_owned()),
            "content-length" => length = Some(decimal(value).ok_or("a length that is no number")?),
            "transfer-encoding" if chunked || value != b"chunked" => {
                return Err("a doubtful coding".to_owned());
            }
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    match (hosts, length, chunked) {
        (1, None, false) => Ok(Some(body)),
        (1, Some(length), false) => Ok(body.get(length..)),
        (1, None, true) => chunks(body),
        (1, Some(_), true) => Err("a length and chunks".to_owned()),
        (hosts, ..) => Err(format!("{hosts} hosts")),
    }
}

fn start_line(line: &[u8]) -> Result<(), String> {
    let parts: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.1"] = parts[..] else { return Err(format!("start line {}", text(line))) };
    let printable = target.iter().all(|byte| !byte.is_ascii_control() && *byte != b'#');
    let form = target.starts_with(b"/") || target == b"*";
    if method.is_empty() || !method.iter().all(is_token) || !printable || !form {
        return Err(format!("start line {}", text(line)));
    }
    Ok(())
}

/// The lower-case name and the value of a field.
fn field(line: &[u8]) -> Result<(String, &[u8]), String> {
    let (name, value) = split(line, b":").ok_or_else(|| format!("no colon in {}", text(line)))?;
    let clean = value.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t');
    if name.is_empty() || !name.iter().all(is_token) || !clean {
        return Err(format!("field {}", text(line)));
    }
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim_ascii()))
}

fn chunks(mut bytes: &[u8]) -> Result<Option<&[u8]>, String> {
    loop {
        let Some((size, after)) = split(bytes, b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(size).ok().filter(|size| !size.starts_with('+'));
        let size =
            size.and_then(|size| usize::from_str_radix(size, 16).ok()).ok_or("a doubtful chunk size")?;
        if size == 0 {
            return trailers(after);
        }
        match after.get(size..) {
            None => return Ok(None),
            Some(end) if end.len() < 2 => return Ok(None),
            Some(end) => bytes = end.strip_prefix(b"\r\n").ok_or("a chunk of another size than it says")?,
        }
    }
}

fn trailers(mut bytes: &[u8]) -> Result<Option<&[u8]>, String> {
    loop {
        match split(bytes, b"\r\n") {
            None => return Ok(None),
            Some((b"", after)) => return Ok(Some(after)),
            Some((line, after)) => {
                let (name, _) = field(line)?;
                if ["content-length", "transfer-encoding", "host"].contains(&name.as_str()) {
                    return Err(format!("{name} in the trailers"));
                }
                bytes = after;
            }
        }
    }
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

fn decimal(digits: &[u8]) -> Option<usize> {
    let only_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    only_digits.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

fn split<'b>(bytes: &'b [u8], at: &[u8]) -> Option<(&'b [u8], &'b [u8])> {
    let position = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..position], &bytes[position + at.len()..]))
}

fn text(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}

#[cfg(test)]
mod tests {
    use super::unambiguous;

    #[test]
    fn proper_requests_pass_and_so_does_the_beginning_of_one() {
        let get = "GET /a?b HTTP/1.1\r\nhost: a\r\n\r\n";
        let post = "POST * HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
        let chunked = "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\nx: y\r\n\r\n";
        let all = [get, post, chunked, get].concat();
        for end in 0..=all.len() {
            assert_eq!(unambiguous(&all.as_bytes()[..end]), Ok(()), "{end}");
        }
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_found() {
        let with = |fields: &str| format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n");
        let bad = [
            "GET / HTTP/1.1\r\nx: y\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\nhost: a\r\n\r\n".to_owned(),
            "GET a HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "GET /#a HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            with("host: a"),
            with("content-length: 3\r\ncontent-length: 3"),
            with("content-length: +3"),
            with("content-length: 3\r\ntransfer-encoding: chunked"),
            with("transfer-encoding: gzip, chunked"),
            with("x : y"),
            with("x: y\r\n z"),
            with("x: y\rz"),
            with("transfer-encoding: chunked") + "+3\r\nabc\r\n",
            with("transfer-encoding: chunked") + "3;x\r\nabc\r\n",
            with("transfer-encoding: chunked") + "3\r\nabcd\r\n",
            with("transfer-encoding: chunked") + "0\r\ncontent-length: 3\r\n\r\n",
        ];
        for request in bad {
            assert!(unambiguous(request.as_bytes()).is_err(), "{request:?}");
        }
    }
}
