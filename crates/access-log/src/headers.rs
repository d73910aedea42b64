//! Where a header's value comes from: the record has some as fields, the rest is captured by need.

use http::HeaderValue;
use http::header::HeaderName;

use crate::needs::{Needs, index_of};
use crate::operator::plain_number;
use crate::record::{Captured, Record};
use crate::value::Value;

/// Which headers an operator reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
    Trailer,
}

/// The source of one header's value; an index is one into the record's captured headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Method,
    Path,
    Authority,
    Status,
    Request(usize),
    Response(usize),
    Trailer(usize),
    /// The upstream's own measure of its time, or ours where it has none.
    ServiceTime(usize),
    /// A pseudo-header that the record does not have.
    Unknown,
}

impl Source {
    /// The source of the header with this name, which joins `needs` if it has to be captured.
    ///
    /// # Errors
    /// If `name` is no header's name.
    pub(crate) fn new(side: Side, name: &str, needs: &mut Needs) -> Result<Self, String> {
        let lower = name.to_ascii_lowercase();
        match (side, lower.as_str()) {
            (Side::Request, ":method") => return Ok(Self::Method),
            (Side::Request, ":path") => return Ok(Self::Path),
            (Side::Request, ":authority" | "host") => return Ok(Self::Authority),
            (Side::Request, ":scheme" | ":protocol") => return Ok(Self::Unknown),
            (Side::Response, ":status") => return Ok(Self::Status),
            _ => {}
        }
        let header =
            HeaderName::from_bytes(lower.as_bytes()).map_err(|_| format!("{name:?} is no header's name"))?;
        Ok(match side {
            Side::Request => Self::Request(index_of(header, &mut needs.request_headers)),
            Side::Trailer => Self::Trailer(index_of(header, &mut needs.response_trailers)),
            Side::Response if header == "x-envoy-upstream-service-time" => {
                Self::ServiceTime(index_of(header, &mut needs.response_headers))
            }
            Side::Response => Self::Response(index_of(header, &mut needs.response_headers)),
        })
    }

    pub(crate) fn value<'a>(&self, record: &'a Record) -> Value<'a> {
        match self {
            Self::Method => Value::name(record.method.as_ref().map(http::Method::as_str)),
            Self::Path => Value::name(record.path.as_ref().map(http::uri::PathAndQuery::as_str)),
            Self::Authority => text(record.authority.as_ref()),
            Self::Status => Value::number(record.status.map(|status| status.as_u16())),
            Self::Request(index) => text(captured(&record.request_headers, *index)),
            Self::Response(index) => text(captured(&record.response_headers, *index)),
            Self::Trailer(index) => text(captured(&record.response_trailers, *index)),
            Self::ServiceTime(index) => match plain_number(captured(&record.response_headers, *index)) {
                Some(millis) => Value::Number(millis),
                None => Value::millis(record.upstream_service_time),
            },
            Self::Unknown => Value::Unset,
        }
    }
}

fn captured(headers: &Captured, index: usize) -> Option<&HeaderValue> {
    headers.get(index).and_then(Option::as_ref)
}

fn text(value: Option<&HeaderValue>) -> Value<'_> {
    value.map_or(Value::Unset, |value| Value::Text(value.as_bytes()))
}
