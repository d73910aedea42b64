//! What a client speaks, told from its first bytes (`protocol: auto`).
//!
//! Pure: the waiting is in [`whichpod_proxy::connection`]. A verdict is final: more bytes never change it.

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// More bytes are needed.
    Undecided,
    /// HTTP/1, or what is clearly meant to be: it is answered, be it with 400.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else, TLS among it.
    Tcp,
}

/// RFC 9113 §3.4
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The methods of RFC 9110 §9.3 and RFC 5789. Others are known by the version at the end of their line.
const METHODS: [&[u8]; 9] =
    [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];
/// Empty lines before a request line are skipped (RFC 9112 §2.2); so many bytes of them are none of HTTP.
const MOST_EMPTY: usize = 16;
/// A first line without an end that is longer than this is told by its method alone.
const LONGEST_LINE: usize = 8192;

/// What the client speaks that began with these bytes.
#[must_use]
pub fn detect(bytes: &[u8]) -> Verdict {
    if bytes.starts_with(PREFACE) {
        return Verdict::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return Verdict::Undecided;
    }
    let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let text = &bytes[empty..];
    if empty > MOST_EMPTY {
        return Verdict::Tcp;
    }
    let Some(first) = text.first() else { return Verdict::Undecided };
    let method = METHODS.into_iter().find(|method| text.starts_with(method));
    // The usual request: nothing else needs to be read.
    if method.is_some_and(|method| text.get(method.len()) == Some(&b'/')) {
        return Verdict::Http1;
    }
    let end = text.iter().position(|byte| *byte == b'\n');
    let line = &text[..end.unwrap_or(text.len())];
    let in_no_line = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r');
    if !(is_token(*first) || *first == b' ') || method.is_none() && line.iter().any(in_no_line) {
        return Verdict::Tcp;
    }
    if line.len() >= LONGEST_LINE {
        return if method.is_some() { Verdict::Http1 } else { Verdict::Tcp };
    }
    match end {
        None => Verdict::Undecided,
        Some(_) if names_version(line) => Verdict::Http1,
        Some(_) => Verdict::Tcp,
    }
}

/// What a client is taken for that has stopped after these undecided bytes. A slow typist of HTTP is known by a method.
#[must_use]
pub fn taken_for(bytes: &[u8]) -> Verdict {
    let begins = |whole: &[u8]| whole.starts_with(bytes) || bytes.starts_with(whole);
    if METHODS.into_iter().any(begins) {
        Verdict::Http1
    } else if PREFACE.starts_with(bytes) {
        Verdict::Http2
    } else {
        Verdict::Tcp
    }
}

/// True if bytes that came from a pod before it was asked are no greeting: an answer to nothing, as some servers give to a
/// connection that stays silent, or the beginning of one.
#[must_use]
pub fn is_http_response(bytes: &[u8]) -> bool {
    const VERSION: &[u8] = b"HTTP/1.";
    bytes.starts_with(VERSION) || VERSION.starts_with(bytes)
}

/// True if the last word of a line is an HTTP version, whichever.
fn names_version(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let last = line.iter().rposition(|byte| matches!(byte, b' ' | b'\t'));
    last.is_some_and(|space| line[space + 1..].starts_with(b"HTTP/"))
}

/// RFC 9110 §5.6.2
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_http_whatever_they_ask_for() {
        for request in [
            "GET /",
            "GET / HTTP/1.1\r\n",
            "POST /a",
            "\r\n\r\nGET /",
            "OPTIONS * HTTP/1.1\r\n",
            "GET http://a/b HTTP/1.1\r\n",
            "CONNECT a:443 HTTP/1.1\n",
            "PROPFIND /a HTTP/1.1\r\n",
            "M-SEARCH * HTTP/1.1\r\n",
        ] {
            assert_eq!(detect(request.as_bytes()), Verdict::Http1, "{request:?}");
        }
    }

    #[test]
    fn what_is_meant_to_be_http_gets_an_answer() {
        for request in [
            "GET / HTTP/9.9\r\n",
            "GET  / HTTP/1.1\r\n",
            " GET / HTTP/1.1\r\n",
            "G(T / HTTP/1.1\r\n",
            "G\u{e9}T / HTTP/1.1\r\n",
            "GET x HTTP/1.1 \r\r\n",
            "PRI * HTTP/2.0\r\nx",
        ] {
            assert_eq!(detect(request.as_bytes()), Verdict::Http1, "{request:?}");
        }
        let long = format!("GET http://{}", "a".repeat(LONGEST_LINE));
        assert_eq!(detect(long.as_bytes()), Verdict::Http1);
    }

    #[test]
    fn an_http_2_client_is_known_by_its_whole_preface() {
        assert_eq!(detect(PREFACE), Verdict::Http2);
        for length in 0..PREFACE.len() {
            assert_eq!(detect(&PREFACE[..length]), Verdict::Undecided);
        }
    }

    #[test]
    fn other_protocols_are_known_without_waiting_where_that_is_possible() {
        let postgres = b"\0\0\0\x08\x04\xd2\x16\x2f";
        let rest: [&[u8]; 12] = [
            b"\x16\x03\x01",
            postgres,
            b"*1\r\n$4\r\nPING\r\n",
            b"PING\r\n",
            b"GET key\r\n",
            b"SSH-2.0-OpenSSH_9.9\r\n",
            b"AMQP\0",
            b"\x10\x0cMQTT",
            b"<13>nginx: GET / HTTP/1.1\n",
            b"{\"a\": 1}",
            b"OPTIONS rtsp://a/b RTSP/1.0\r\n",
            b"HTTP/1.1 200 OK\r\n",
        ];
        for bytes in rest {
            assert_eq!(detect(bytes), Verdict::Tcp, "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(detect(&[b'\n'; MOST_EMPTY + 1]), Verdict::Tcp);
        assert_eq!(detect(&[b'a'; LONGEST_LINE]), Verdict::Tcp);
    }

    #[test]
    fn a_slow_typist_is_waited_for_and_a_terse_protocol_is_not() {
        for (begun, taken) in [
            ("G", Verdict::Http1),
            ("GET ", Verdict::Http1),
            ("GET x", Verdict::Http1),
            ("P", Verdict::Http1),
            ("PRI * HTTP/2.0\r\n", Verdict::Http2),
            ("\r\n", Verdict::Tcp),
            ("hello", Verdict::Tcp),
            ("GETX", Verdict::Tcp),
        ] {
            assert_eq!((detect(begun.as_bytes()), taken_for(begun.as_bytes())), (Verdict::Undecided, taken));
        }
    }

    #[test]
    fn a_pods_answer_to_nothing_is_no_greeting() {
        for answer in ["HTTP/1.1 408 Request Timeout\r\n", "HTTP/1.", "HT", ""] {
            assert!(is_http_response(answer.as_bytes()), "{answer}");
        }
        assert!(!is_http_response(b"220 mail ESMTP\r\n"));
    }

    /// Bytes of which many are near a verdict.
    fn near() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            proptest::sample::select(METHODS.to_vec()).prop_map(<[u8]>::to_vec),
            Just(PREFACE.to_vec()),
            "[A-Z]{1,4}|[ -~]{0,6}| HTTP/[0-9.]{0,3}|[\r\n\t ]{1,9}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_a_verdict(bytes in near()) {
            let mut verdict = Verdict::Undecided;
            for length in 0..=bytes.len() {
                let next = detect(&bytes[..length]);
                prop_assert!(verdict == Verdict::Undecided || verdict == next, "{verdict:?} became {next:?}");
                verdict = next;
                let _ = (taken_for(&bytes[..length]), is_http_response(&bytes[..length]));
            }
        }
    }
}
