//! Who answered: what the log says beside what the pods themselves counted.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde::Serialize;

/// One pod's requests by both accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The pod's name.
    pub pod: String,
    /// Its address and port.
    pub address: String,
    /// Lines of the access log that name it.
    pub log: usize,
    /// Requests that it counted itself.
    pub backend: usize,
}

/// What a line of the default format says about the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `x-request-id`
    pub request_id: String,
    /// The pod's address and port.
    pub address: String,
    /// The pod's name, or `-`.
    pub pod: String,
    /// The status that the client got.
    pub status: String,
}

/// Reads one line of the default format.
///
/// # Errors
/// When the line is not of that format.
pub fn parse(line: &str) -> anyhow::Result<Line> {
    // Quotes inside of values are escaped, so these are the format's own: method and path, forwarded-for, user
    // agent, request id, authority, address.
    let parts: Vec<_> = line.split('"').collect();
    let [_, _, numbers, _, _, _, _, request_id, _, _, _, address, tail] = parts[..] else {
        bail!("this line is not of the default format: {line}");
    };
    let pod = tail.split_whitespace().next().context("a line ends before the pod")?;
    let status = numbers.split_whitespace().next().context("a line has no status")?;
    Ok(Line {
        request_id: request_id.to_owned(),
        address: address.to_owned(),
        pod: pod.to_owned(),
        status: status.to_owned(),
    })
}

/// Counts the lines of each pod beside what the pods counted.
pub fn table(lines: &[Line], pods: &[(String, String, usize)]) -> Vec<Row> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in lines {
        *counts.entry(&line.address).or_default() += 1;
    }
    pods.iter()
        .map(|(pod, address, backend)| Row {
            pod: pod.clone(),
            address: address.clone(),
            log: counts.get(address.as_str()).copied().unwrap_or_default(),
            backend: *backend,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"[2026-11-21T06:00:00.000Z] "GET / HTTP/1.1" 200 - 0 23 1 0 "-" "demo" "7" "backend-service" "127.0.77.1:8080" backend-1 127.0.77.1:8080 200 0 ok"#;

    #[test]
    fn a_default_line_tells_the_request_and_its_pod() {
        let line = parse(LINE).unwrap();
        assert_eq!(line.request_id, "7");
        assert_eq!(line.address, "127.0.77.1:8080");
        assert_eq!(line.pod, "backend-1");
        assert_eq!(line.status, "200");
    }

    #[test]
    fn something_else_is_not_taken_for_a_line() {
        assert!(parse("").is_err());
        assert!(parse("GET / 200").is_err());
    }

    #[test]
    fn a_pod_that_the_log_does_not_know_shows() {
        let rows = table(&[parse(LINE).unwrap()], &[("a".into(), "127.0.77.9:1".into(), 1)]);
        assert_eq!(rows, [Row { pod: "a".into(), address: "127.0.77.9:1".into(), log: 0, backend: 1 }]);
    }
}
