//! From an operator's text to what it yields.

use std::net::SocketAddr;

use jiff::tz::TimeZone;
use serde_json::Value as Json;

use crate::headers::{Side, Source};
use crate::nearest::nearest;
use crate::needs::Needs;
use crate::operator::{GrpcName, Host, Op, Operator, Point, Unit, path};
use crate::record::Record;
use crate::table::{self, Build, OPERATORS};
use crate::time::{TimeFormat, local_zone};
use crate::value::{List, Value};

/// What is wrong with an operator, and what to write instead.
#[derive(Debug)]
pub(crate) struct Complaint {
    pub reason: String,
    pub remedy: String,
}

/// Which time an operator means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Start,
    /// When the line is written, which is when the request ended.
    Emit,
}

/// Gathers what the operators of one format need.
pub(crate) struct Compiler<'e> {
    pub needs: Needs,
    pub times: Vec<TimeFormat>,
    pub warnings: Vec<String>,
    environment: &'e dyn Fn(&str) -> Option<String>,
    hostname: &'e str,
}

type Result<T, E = Complaint> = std::result::Result<T, E>;

fn complain<T>(reason: impl Into<String>, remedy: impl Into<String>) -> Result<T> {
    Err(Complaint { reason: reason.into(), remedy: remedy.into() })
}

impl<'e> Compiler<'e> {
    pub(crate) fn new(environment: &'e dyn Fn(&str) -> Option<String>, hostname: &'e str) -> Self {
        Self { needs: Needs::default(), times: Vec::new(), warnings: Vec::new(), environment, hostname }
    }

    /// Compiles one operator.
    pub(crate) fn operator(
        &mut self,
        name: &str,
        parameter: Option<&str>,
        length: Option<usize>,
    ) -> Result<Operator> {
        let Some(row) = table::find(name) else {
            let remedy = match nearest(name, OPERATORS.iter().map(|row| row.name)) {
                Some(near) => format!("did you mean %{near}%?"),
                None => "take one of Envoy's command operators".to_owned(),
            };
            return complain("no such operator", remedy);
        };
        let text = parameter.unwrap_or_default();
        let op = match &row.build {
            Build::Nothing => {
                self.warn(format!(
                    "operator %{name}% is accepted but whichpod has no value for it; it renders -"
                ));
                Op::Nothing
            }
            Build::Field(_) | Build::Plain(_) if length.is_some() => return no_length(name),
            Build::Field(_) | Build::Plain(_) if !text.is_empty() => {
                return complain("it takes no parameter", format!("write %{name}%"));
            }
            Build::Field(field) => Op::Field(*field),
            Build::Plain(build) => build(self)?,
            Build::With { required: true, .. } if text.is_empty() => {
                return complain("it needs a parameter", format!("write %{name}(...)%"));
            }
            Build::With { length: false, .. } if length.is_some() => return no_length(name),
            Build::With { build, .. } => build(self, text)?,
        };
        Ok(Operator { op, max: length })
    }

    pub(crate) fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    pub(crate) fn time(&mut self, text: &str, when: When, local: bool) -> Result<Op> {
        let zone = if local { self.zone() } else { TimeZone::UTC };
        let format = match (text, local) {
            ("", false) => Ok(TimeFormat::iso()),
            ("", true) => TimeFormat::parse("%Y-%m-%dT%H:%M:%S.%3f%z", zone),
            _ => TimeFormat::parse(text, zone),
        };
        match format {
            Ok(format) => {
                self.times.push(format);
                Ok(Op::Time { slot: self.times.len() - 1, emit: when == When::Emit })
            }
            Err(reason) => complain(
                reason,
                "write a time as strftime does, such as %Y-%m-%dT%H:%M:%S.%3f, %s for seconds",
            ),
        }
    }

    fn zone(&mut self) -> TimeZone {
        let (zone, warning) = local_zone((self.environment)("TZ").as_deref());
        if let Some(warning) = warning {
            self.warn(warning);
        }
        zone
    }

    pub(crate) fn span(&mut self, text: &str) -> Result<Op> {
        let mut parts = text.split(':');
        let (Some(from), Some(to), unit, None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return complain("it is not START:END or START:END:PRECISION", "such as DS_RX_BEG:DS_TX_END:us");
        };
        let unit = match unit {
            None | Some("ms") => Unit::Millis,
            Some("us") => Unit::Micros,
            Some("ns") => Unit::Nanos,
            Some(other) => return complain(format!("{other:?} is no precision"), "take ms, us or ns"),
        };
        let (from, to) = (self.point(from), self.point(to));
        Ok(Op::Span { from, to, unit })
    }

    fn point(&mut self, name: &str) -> Point {
        match name {
            "DS_RX_BEG" => Point::RequestBegin,
            "DS_RX_END" => Point::RequestEnd,
            "US_RX_BEG" => Point::ResponseBegin,
            "DS_TX_END" => Point::ResponseSent,
            "DS_CX_BEG" => Point::ConnectionBegin,
            "DS_CX_END" => Point::ConnectionEnd,
            other => {
                self.warn(format!(
                    "operator %COMMON_DURATION%: whichpod does not measure the time point {other}; it renders -"
                ));
                Point::Unknown
            }
        }
    }

    pub(crate) fn header(&mut self, side: Side, text: &str, query: bool) -> Result<Op> {
        let mut names = text.split('?');
        let (Some(main), alternative, None) = (names.next(), names.next(), names.next()) else {
            return complain("more than one alternative header", "write FIRST?SECOND");
        };
        let main = self.source(side, main)?;
        let alternative = match alternative {
            None | Some("") => None,
            Some(name) => Some(self.source(side, name)?),
        };
        Ok(Op::Header { main, alternative, query })
    }

    fn source(&mut self, side: Side, name: &str) -> Result<Source> {
        match Source::new(side, name, &mut self.needs) {
            Ok(source) => {
                if source == Source::Unknown {
                    self.warn(format!(
                        "header {name} is accepted but whichpod has no value for it; it renders -"
                    ));
                }
                Ok(source)
            }
            Err(reason) => complain(
                reason,
                "name a header such as X-REQUEST-ID, or :METHOD, :PATH, :AUTHORITY of a request",
            ),
        }
    }

    pub(crate) fn path(&mut self, text: &str) -> Result<Op> {
        let (query, from) = text.split_once(':').unwrap_or((text, ""));
        let query = match query {
            "" | "WQ" => true,
            "NQ" => false,
            other => {
                return complain(format!("{other:?} is not known"), "take WQ (with query) or NQ (no query)");
            }
        };
        match from {
            "PATH" if query => Ok(Op::Header { main: Source::Path, alternative: None, query }),
            "PATH" => Ok(Op::Field(path)),
            "ORIG" => self.header(Side::Request, "x-envoy-original-path", query),
            "" | "ORIG_OR_PATH" => self.header(Side::Request, "x-envoy-original-path?:path", query),
            other => complain(format!("{other:?} is no source of a path"), "take ORIG, PATH or ORIG_OR_PATH"),
        }
    }

    pub(crate) fn query(&mut self, text: &str) -> Result<Op> {
        match text {
            "" | "ORIG" => Ok(Op::Query { decoded: false }),
            "DECODED" => Ok(Op::Query { decoded: true }),
            other => complain(format!("{other:?} is not known"), "take ORIG or DECODED"),
        }
    }

    pub(crate) fn server_name(&mut self, text: &str) -> Result<Op> {
        let (order, from) = text.split_once(':').unwrap_or((text, ""));
        let (original, authority) = match from {
            "" | "ORIG_OR_HOST" => (true, true),
            "ORIG" => (true, false),
            "HOST" => (false, true),
            other => {
                return complain(
                    format!("{other:?} is no source of a host"),
                    "take ORIG, HOST or ORIG_OR_HOST",
                );
            }
        };
        let mut host = || -> Result<Option<Host>> {
            let original =
                original.then(|| self.source(Side::Request, "x-envoy-original-host")).transpose()?;
            Ok(Some(Host { original, authority }))
        };
        match order {
            "" | "SNI_ONLY" => Ok(Op::ServerName { first: None, sni: true, then: None }),
            "SNI_FIRST" => Ok(Op::ServerName { first: None, sni: true, then: host()? }),
            "HOST_FIRST" => Ok(Op::ServerName { first: host()?, sni: true, then: None }),
            other => complain(format!("{other:?} is no order"), "take SNI_ONLY, SNI_FIRST or HOST_FIRST"),
        }
    }

    pub(crate) fn details(&mut self, text: &str) -> Result<Op> {
        match text {
            "" => Ok(Op::Details { spaces: false }),
            "ALLOW_WHITESPACES" => Ok(Op::Details { spaces: true }),
            other => complain(format!("{other:?} is not known"), "take ALLOW_WHITESPACES or nothing"),
        }
    }

    pub(crate) fn grpc_status(&mut self, text: &str) -> Result<Op> {
        match text {
            "" | "CAMEL_STRING" => Ok(Op::GrpcStatus(GrpcName::Camel)),
            "SNAKE_STRING" => Ok(Op::GrpcStatus(GrpcName::Snake)),
            "NUMBER" => Ok(Op::GrpcStatus(GrpcName::Number)),
            other => complain(format!("{other:?} is not known"), "take CAMEL_STRING, SNAKE_STRING or NUMBER"),
        }
    }

    pub(crate) fn attempts(&mut self, text: &str) -> Result<Op> {
        Ok(Op::Field(match text {
            "" => |record| table::attempts(record, List::Compact),
            "ADDRESS" => |record| table::attempts(record, List::NginxAddress),
            "STATUS" => |record| table::attempts(record, List::NginxStatus),
            "SECONDS" => |record| table::attempts(record, List::NginxTime),
            "LENGTH" => |record| table::attempts(record, List::NginxLength),
            other => {
                return complain(
                    format!("{other:?} is not known"),
                    "take ADDRESS, STATUS, SECONDS or LENGTH",
                );
            }
        }))
    }

    pub(crate) fn masked(&mut self, address: fn(&Record) -> Option<SocketAddr>, text: &str) -> Result<Op> {
        let prefix = match text {
            "" => None,
            digits => match digits.parse() {
                Ok(prefix @ 0..=128) => Some(prefix),
                _ => {
                    return complain(
                        format!("{digits:?} is no prefix length"),
                        "take 0 to 32 for IPv4, 128 for IPv6",
                    );
                }
            },
        };
        Ok(Op::Masked { address, prefix })
    }

    /// Envoy's stream id is the request id; a connection has only our number.
    pub(crate) fn stream_id(&mut self) -> Result<Op> {
        let header = self.header(Side::Request, "x-request-id", true)?;
        let number = Op::Field(|record| Value::number(record.stream_id));
        Ok(Op::FirstOf([header, number].map(|op| Operator { op, max: None }).into()))
    }

    pub(crate) fn hostname(&self) -> Op {
        Op::Constant(self.hostname.into())
    }

    pub(crate) fn environment(&mut self, name: &str) -> Result<Op> {
        Ok(Op::Constant((self.environment)(name).unwrap_or_default().into()))
    }

    /// `{"operators": ["NAME", {"command": "NAME", "param": "...", "max_length": 9}]}`
    pub(crate) fn coalesce(&mut self, text: &str) -> Result<Op> {
        const REMEDY: &str = r#"write {"operators": ["NAME", {"command": "NAME", "param": "..."}]}"#;
        let json: Json = match serde_json::from_str(text) {
            Ok(json) => json,
            Err(error) => return complain(format!("its parameter is no JSON: {error}"), REMEDY),
        };
        let Some(entries) =
            json.get("operators").and_then(Json::as_array).filter(|entries| !entries.is_empty())
        else {
            return complain("its parameter has no operators", REMEDY);
        };
        let mut operators = Vec::with_capacity(entries.len());
        for entry in entries {
            let name = entry.as_str().or_else(|| entry.get("command")?.as_str());
            let Some(name) = name else {
                return complain(format!("{entry} is no operator"), REMEDY);
            };
            let parameter = entry.get("param").and_then(Json::as_str);
            let length = entry.get("max_length").and_then(Json::as_u64);
            let length = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
            operators.push(self.operator(name, parameter, length).map_err(|complaint| Complaint {
                reason: format!("{name}: {}", complaint.reason),
                remedy: complaint.remedy,
            })?);
        }
        Ok(Op::FirstOf(operators.into()))
    }
}

fn no_length<T>(name: &str) -> Result<T> {
    complain("it can't be cut to a length", format!("write %{name}% without :length"))
}
