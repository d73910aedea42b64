//! The access log: whatever a format says and a request holds, a record is one line, and JSON stays JSON.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use serde_json::{Map, Value};
use whichpod_access_log::{Attempt, Captured, Compiled, Flags, Format, LINE_LIMIT, Needs, Record, Scratch};

use crate::parts::parts;

/// Escapes make at most six bytes of one, and a field may have 2 KiB: what is shorter than this is never cut.
const WHOLE: usize = 300;

/// The presets, with the member that is the user agent where they are JSON.
static PRESETS: LazyLock<Vec<(&str, Option<&str>, Format)>> = LazyLock::new(|| {
    let agent = Some("user_agent.original");
    [("text", None), ("nginx", None), ("json", Some("user_agent")), ("otel", agent), ("ecs", agent)]
        .map(|(preset, agent)| (preset, agent, compiled(preset)))
        .into()
});

static QUOTED: LazyLock<Format> = LazyLock::new(|| compiled("\"%REQ(USER-AGENT)%\" \"%UPSTREAM_CLUSTER%\""));

fn compiled(text: &str) -> Format {
    Format::compile(text, &|_| None, "host").expect("a format").format
}

/// What a request and its pods can say.
struct Said<'a> {
    header: &'a [u8],
    path: &'a [u8],
    name: String,
}

impl<'a> From<[&'a [u8]; 3]> for Said<'a> {
    fn from([header, path, name]: [&'a [u8]; 3]) -> Self {
        Said { header, path, name: String::from_utf8_lossy(name).into_owned() }
    }
}

/// Any format string, with a record whose every field is hostile: `format`, a header's value, a path, a name.
pub fn access_log_format(bytes: &[u8]) {
    let [format, header, path, name] = parts(bytes);
    let Ok(text) = std::str::from_utf8(format) else { return };
    let hostile = |name: &str| (name != "TZ").then(|| format!("{name}\r\n\"\\\u{1b}[2J\u{202e}"));
    match Format::compile(text, &hostile, "host\n") {
        Ok(Compiled { format, .. }) => {
            let line = line(&format, &Said::from([header, path, name]));
            let text = std::str::from_utf8(&line).expect("a line is UTF-8");
            assert_eq!(text.matches(['\n', '\r']).count(), 1, "{text:?}");
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            for problem in &error.problems {
                assert!(text.is_char_boundary(problem.offset), "{problem:?}");
                assert!(!problem.reason.is_empty() && !problem.remedy.is_empty(), "{problem:?}");
            }
        }
    }
}

/// Hostile values in every preset: a header's value, a path, a name.
pub fn access_log_values(bytes: &[u8]) {
    let said = Said::from(parts(bytes));
    for (preset, user_agent, format) in PRESETS.iter() {
        let line = line(format, &said);
        let text = std::str::from_utf8(&line).expect("a line is UTF-8");
        let text = text.strip_suffix('\n').expect("a line ends");
        assert!(!text.contains(char::is_control), "{preset}: {text:?}");
        let Some(user_agent) = user_agent else { continue };
        let members: Map<String, Value> = serde_json::from_str(text).expect("JSON");
        if HeaderValue::from_bytes(said.header).is_ok() && is_short(&said) {
            let told = members[*user_agent].as_str().unwrap_or_default();
            assert_eq!(told, String::from_utf8_lossy(said.header), "{preset}");
        }
    }
    text_can_be_read_back(&said);
}

/// In text every quote and every backslash is the format's, so that a value can be taken out and read back.
fn text_can_be_read_back(said: &Said<'_>) {
    let line = line(&QUOTED, said);
    let quotes: Vec<usize> = (0..line.len()).filter(|at| line[*at] == b'"').collect();
    let [open, close, ..] = quotes[..] else { panic!("a quote is missing") };
    assert_eq!(quotes.len(), 4, "{:?}", String::from_utf8_lossy(&line));
    if HeaderValue::from_bytes(said.header).is_ok() && !said.header.is_empty() && is_short(said) {
        assert_eq!(unescaped(&line[open + 1..close]), said.header);
    }
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        bytes.push(if *first == b'\\' {
            let (digits, after) = rest.split_at(3);
            rest = after;
            let digits = std::str::from_utf8(digits).expect("ASCII");
            u8::from_str_radix(digits.strip_prefix('x').expect("\\x"), 16).expect("two digits")
        } else {
            *first
        });
    }
    bytes
}

fn is_short(said: &Said<'_>) -> bool {
    said.header.len() + said.path.len() + said.name.len() < WHOLE
}

/// The line of what was said, which never is too long.
fn line(format: &Format, said: &Said<'_>) -> Vec<u8> {
    let mut line = b"before".to_vec();
    format.write(&record(said, format.needs()), &mut Scratch::default(), &mut line);
    let line = line.split_off(b"before".len());
    assert!(line.len() <= LINE_LIMIT, "{} bytes", line.len());
    assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1), "one line");
    line
}

fn record(said: &Said<'_>, needs: &Needs) -> Record {
    let header = HeaderValue::from_bytes(said.header).ok();
    let captured = |names: &[HeaderName]| {
        let all: HeaderMap = names.iter().cloned().zip(header.iter().cloned().cycle()).collect();
        let mut captured = Captured::new();
        Needs::capture(names, &all, &mut captured);
        captured
    };
    let number =
        said.header.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(257).wrapping_add((*byte).into()));
    let duration = Duration::from_micros(number >> (number % 64));
    let name: Arc<str> = said.name.as_str().into();
    let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().ok();
    let mut record = Record::new(UNIX_EPOCH + Duration::from_millis(number % 10_000_000_000_000));
    record.protocol = Some(Version::HTTP_11);
    record.method = Method::from_bytes(said.name.as_bytes()).ok();
    record.path = said.path.try_into().ok();
    record.request_headers = captured(&needs.request_headers);
    record.response_headers = captured(&needs.response_headers);
    record.response_trailers = captured(&needs.response_trailers);
    record.authority.clone_from(&header);
    record.status = u16::try_from(number % 1000).ok().and_then(|status| StatusCode::from_u16(status).ok());
    record.details = Some(said.name.clone().into());
    for (flag, ..) in Flags::ALL {
        record.flags |= *flag;
    }
    (record.bytes_received, record.bytes_sent, record.duration) = (number, number, duration);
    record.request_duration = Some(duration);
    record.response_duration = Some(duration);
    record.response_tx_duration = Some(duration);
    record.upstream_service_time = Some(duration);
    record.grpc_status = u32::try_from(number % 20).ok();
    record.upstream = Some(Arc::clone(&name));
    record.route = Some(Arc::clone(&name));
    record.server_name = Some(Arc::clone(&name));
    record.transport_failure = Some(said.name.clone().into());
    (record.upstream_local, record.downstream_remote, record.downstream_local) = (address, address, address);
    for _ in 0..said.header.len() % 5 {
        record.attempts.push(Attempt {
            address: address.expect("an address"),
            pod: Some(Arc::clone(&name)),
            node: Some(Arc::clone(&name)),
            zone: Some(Arc::clone(&name)),
            status: record.status,
            duration,
            reason: "ok",
            reused_connection: false,
            sent: true,
        });
    }
    (record.connection_id, record.stream_id) = (Some(number), Some(number));
    record
}
