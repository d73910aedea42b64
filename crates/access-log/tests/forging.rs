//! No request can forge or split a line, and no line is too long for a container's log.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{attempt, compile};
use whichpod_access_log::{Attempt, Flags, Format, LINE_LIMIT, Needs, Record, Scratch};

const PRESETS: [&str; 5] = ["text", "json", "nginx", "otel", "ecs"];

/// What a request and its pods can say, in every field at once.
#[derive(Debug, Clone)]
struct Said {
    header: Vec<u8>,
    name: String,
    path: String,
    attempts: usize,
    numbers: u64,
    millis: u64,
    flags: bool,
    open: bool,
}

fn said() -> impl Strategy<Value = Said> {
    let long = prop_oneof![4 => 0..200usize, 1 => 0..70_000usize];
    let header = prop_oneof![
        vec(
            any::<u8>().prop_filter("a header can hold it", |byte| HeaderValue::from_bytes(&[*byte]).is_ok()),
            0..300
        ),
        long.prop_map(|len| vec![b'"'; len]),
        Just("ü".repeat(40_000).into())
    ];
    let name = prop_oneof![any::<String>(), "\\PC{0,3000}", Just("\u{0}".repeat(9000))];
    let path = "/[ -~]{0,300}(\\?[ -~]{0,300})?";
    (header, name, path, 0..60usize, any::<u64>(), 0..10_000_000_000u64, any::<bool>(), any::<bool>())
        .prop_map(|(header, name, path, attempts, numbers, millis, flags, open)| Said {
            header,
            name,
            path,
            attempts,
            numbers,
            millis,
            flags,
            open,
        })
}

fn record(said: &Said, needs: &Needs) -> Record {
    let header = HeaderValue::from_bytes(&said.header).ok();
    let duration = Duration::from_millis(said.millis);
    let mut record = Record::new(UNIX_EPOCH + duration);
    let captured = |names: &[HeaderName]| {
        let all: HeaderMap = names.iter().cloned().zip(header.iter().cloned().cycle()).collect();
        let mut captured = whichpod_access_log::Captured::new();
        Needs::capture(names, &all, &mut captured);
        captured
    };
    record.protocol = (!said.open).then_some(Version::HTTP_11);
    record.method = Method::from_bytes(said.name.as_bytes()).ok();
    record.path = said.path.parse().ok();
    record.request_headers = captured(&needs.request_headers);
    record.response_headers = captured(&needs.response_headers);
    record.response_trailers = captured(&needs.response_trailers);
    record.authority = header;
    record.status = StatusCode::from_u16(u16::try_from(said.millis % 1000).unwrap()).ok();
    record.details = Some(said.name.clone().into());
    if said.flags {
        for (flag, ..) in Flags::ALL {
            record.flags |= *flag;
        }
    }
    (record.bytes_received, record.bytes_sent, record.duration) = (said.numbers, said.numbers, duration);
    record.request_duration = Some(duration);
    record.response_duration = Some(duration);
    record.response_tx_duration = Some(duration);
    record.upstream_service_time = Some(duration);
    record.grpc_status = u32::try_from(said.millis).ok();
    let name: std::sync::Arc<str> = said.name.as_str().into();
    record.upstream = Some(name.clone());
    record.route = Some(name.clone());
    record.server_name = Some(name.clone());
    record.transport_failure = Some(said.name.clone().into());
    let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
    record.upstream_local = address.parse().ok();
    record.downstream_remote = address.parse().ok();
    record.downstream_local = address.parse().ok();
    record.attempts = (0..said.attempts)
        .map(|_| Attempt {
            pod: Some(name.clone()),
            node: Some(name.clone()),
            zone: Some(name.clone()),
            duration,
            ..attempt(address)
        })
        .collect();
    record.connection_id = Some(said.numbers);
    record.stream_id = Some(said.numbers);
    record.trace_id = said.header.get(..32).and_then(|id| id.try_into().ok());
    record.open = said.open;
    record
}

fn bytes(format: &Format, record: &Record) -> Vec<u8> {
    let mut line = b"before\n".to_vec();
    format.write(record, &mut Scratch::default(), &mut line);
    line.split_off(7)
}

fn is_one_clean_line(line: &[u8]) -> Result<(), TestCaseError> {
    prop_assert!(line.len() <= LINE_LIMIT, "{} bytes", line.len());
    let text = std::str::from_utf8(line).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let Some(text) = text.strip_suffix('\n') else { return Err(TestCaseError::fail("no newline")) };
    prop_assert!(!text.chars().any(char::is_control), "{text:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_a_request_says_is_one_line(said in said()) {
        for preset in PRESETS {
            let format = compile(preset).format;
            let line = bytes(&format, &record(&said, format.needs()));
            is_one_clean_line(&line)?;
            if !matches!(preset, "text" | "nginx") {
                let parsed: serde_json::Result<serde_json::Map<_, _>> = serde_json::from_slice(&line);
                prop_assert!(parsed.is_ok(), "{preset}: {parsed:?}");
            }
        }
    }

    #[test]
    fn a_request_cannot_add_a_field_to_the_default_format(said in said()) {
        let format = compile("\"%REQ(USER-AGENT)%\" \"%REQ(:AUTHORITY)%\" \"%QUERY_PARAM(a)%\" \"%UPSTREAM_CLUSTER%\"").format;
        let line = bytes(&format, &record(&said, format.needs()));
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'"').count(), 8);
    }

    #[test]
    fn no_format_string_makes_compiling_or_writing_panic(text in "(%[A-Z_]{0,12}(\\([^)]{0,8}\\))?(:[0-9]{0,3})?%?|%%|\\PC|\n){0,20}", any: String) {
        for text in [text, any] {
            match Format::compile(&text, &|name| Some(name.to_owned()), "h") {
                Ok(compiled) => {
                    let line = bytes(&compiled.format, &support::record());
                    prop_assert!(line.ends_with(b"\n"));
                    prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
                }
                Err(error) => prop_assert!(error.problems.iter().all(|problem| text.get(problem.offset..).is_some())),
            }
        }
    }

    #[test]
    fn known_operators_with_any_parameter_do_not_panic(
        name in prop::sample::select(vec!["START_TIME", "REQ", "COMMON_DURATION", "COALESCE", "QUERY_PARAM", "PATH", "ENVIRONMENT",
            "REQUESTED_SERVER_NAME", "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "UPSTREAM_ATTEMPTS", "GRPC_STATUS"]),
        parameter: String,
        length: Option<u64>,
    ) {
        let length = length.map_or(String::new(), |length| format!(":{length}"));
        let text = format!("%{name}({parameter}){length}%");
        if let Ok(compiled) = Format::compile(&text, &|_| Some(parameter.clone()), "h") {
            let line = bytes(&compiled.format, &support::record());
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        }
    }
}

#[test]
fn the_longest_record_fits_a_line_in_every_preset() {
    let said = Said {
        header: vec![b'"'; 60_000],
        name: "\u{1}".repeat(60_000),
        path: format!("/{0}?{0}", "a".repeat(30_000)),
        attempts: 200,
        numbers: u64::MAX,
        millis: 9_999_999_999,
        flags: true,
        open: false,
    };
    for preset in PRESETS {
        let format = compile(preset).format;
        let line = bytes(&format, &record(&said, format.needs()));
        assert!(line.len() <= LINE_LIMIT, "{preset}: {}", line.len());
        if !matches!(preset, "text" | "nginx") {
            let parsed: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&line).unwrap();
            assert!(parsed.keys().any(|key| key.ends_with("attempts_omitted")), "{preset}");
        }
    }
}

#[test]
fn a_field_is_cut_at_2_kib() {
    let mut record = support::record();
    record.authority = Some(HeaderValue::from_bytes(&[b'a'; 5000]).unwrap());
    assert_eq!(support::line("%REQ(:AUTHORITY)%", record.clone()).len(), 2048);
    record.path = Some(format!("/{}", "b".repeat(5000)).parse().unwrap());
    let json: serde_json::Value = serde_json::from_str(&support::line("json", record)).unwrap();
    assert_eq!(json["authority"].as_str().unwrap().len(), 2048);
}

#[test]
fn a_format_of_its_own_that_is_too_long_is_cut_and_still_ends_its_line() {
    let format = compile(&format!("{}%PROTOCOL%", "ü".repeat(20_000))).format;
    let line = bytes(&format, &support::record());
    assert_eq!(line.len(), LINE_LIMIT - 1, "between characters");
    assert!(line.ends_with("ü\n".as_bytes()));
    let many = compile(&"%REQ(:AUTHORITY)%|".repeat(20)).format;
    let mut record = support::record();
    record.authority = Some(HeaderValue::from_bytes(&[b'"'; 5000]).unwrap());
    let line = bytes(&many, &record);
    assert!(line.len() > LINE_LIMIT - 8 && line.len() <= LINE_LIMIT);
    assert!(line.ends_with(b"\\x22\n"), "no half of an escape");
}

#[test]
fn values_of_the_environment_cannot_split_a_line_either() {
    let format =
        Format::compile("%ENVIRONMENT(A)% %HOSTNAME%", &|_| Some("a\nb".to_owned()), "h\n").unwrap().format;
    assert_eq!(support::written(&format, &support::record()), r"a\x0ab h\x0a");
}
