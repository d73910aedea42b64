//! When an answer is complete, and whether it is right.

/// What is expected back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// An HTTP/1.1 response with status 200 and a body of so many bytes.
    Http(usize),
    /// So many bytes.
    Bytes(usize),
}

/// How far an answer has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    Partial,
    /// It is complete and right.
    Complete,
    /// It is not what was expected.
    Wrong(String),
}

/// An answer that is being read; keeps only its head.
#[derive(Debug, Default)]
pub struct Answer {
    head: Vec<u8>,
    /// Bytes that are still to come, once that is known.
    left: Option<usize>,
}

impl Answer {
    /// Takes what was read.
    pub fn take(&mut self, bytes: &[u8], expected: Expected) -> Progress {
        let left = match (self.left, expected) {
            (Some(left), _) | (None, Expected::Bytes(left)) => left.checked_sub(bytes.len()),
            (None, Expected::Http(body)) => {
                self.head.extend_from_slice(bytes);
                match head(&self.head) {
                    Ok(None) => return Progress::Partial,
                    Ok(Some((length, Some(announced)))) if announced == body => {
                        (length + body).checked_sub(self.head.len())
                    }
                    Ok(Some((_, announced))) => {
                        return Progress::Wrong(format!("a body of {announced:?} bytes instead of {body}"));
                    }
                    Err(reason) => return Progress::Wrong(reason),
                }
            }
        };
        self.left = left;
        match left {
            Some(0) => Progress::Complete,
            Some(_) => Progress::Partial,
            None => Progress::Wrong("more bytes than the answer has".to_owned()),
        }
    }

    /// Ready for the next answer; the buffer is kept.
    pub fn reset(&mut self) {
        self.head.clear();
        self.left = None;
    }
}

/// The length of a complete head and of the body it announces.
fn head(bytes: &[u8]) -> Result<Option<(usize, Option<usize>)>, String> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("not a response: {error}")),
    };
    match response.code {
        Some(200) => {}
        other => return Err(format!("status {}", other.unwrap_or_default())),
    }
    let length_field = response.headers.iter().find(|f| f.name.eq_ignore_ascii_case("content-length"));
    let announced = length_field.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
    Ok(Some((length, announced)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";

    #[test]
    fn an_answer_in_pieces_is_complete_with_its_last_byte() {
        let whole = [HEAD, b"hello"].concat();
        for cut in 1..whole.len() {
            let mut answer = Answer::default();
            assert_eq!(answer.take(&whole[..cut], Expected::Http(5)), Progress::Partial, "{cut}");
            assert_eq!(answer.take(&whole[cut..], Expected::Http(5)), Progress::Complete, "{cut}");
        }
    }

    #[test]
    fn a_wrong_answer_is_never_counted_as_right() {
        let failing = [
            &b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell",
            b"HTTP/1.1 200 OK\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!",
            b"\x00garbage",
        ];
        for bytes in failing {
            let progress = Answer::default().take(bytes, Expected::Http(5));
            assert!(matches!(progress, Progress::Wrong(_)), "{progress:?}");
        }
    }

    #[test]
    fn bytes_are_counted_over_reads() {
        let mut answer = Answer::default();
        assert_eq!(answer.take(&[0; 10], Expected::Bytes(16)), Progress::Partial);
        assert_eq!(answer.take(&[0; 6], Expected::Bytes(16)), Progress::Complete);
        answer.reset();
        assert!(matches!(answer.take(&[0; 17], Expected::Bytes(16)), Progress::Wrong(_)));
    }
}
