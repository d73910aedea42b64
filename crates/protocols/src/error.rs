//! Why a request failed, and the one table from that to status code, response flag and details.

use h2::Reason;
use http::StatusCode;
use whichpod_access_log::Flags;

/// Why a request could not be answered by a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No configured prefix matches the path.
    NoRoute,
    /// DNS knows no pod.
    NoEndpoint,
    /// DNS has never answered.
    DnsFailed,
    /// No pod took a connection.
    Connect(ConnectFailure),
    /// The pod closed the connection before a response.
    Closed,
    /// The pod reset the connection before a response.
    Reset,
    /// The pod reset the stream before a response.
    StreamReset,
    /// The pod did not take the stream, and has done nothing about it.
    StreamRefused,
    /// The stream was reset here, because the pod sent more than is accepted.
    LocalReset,
    /// The pod's response is not HTTP.
    UpstreamProtocol,
    /// The pod took longer than the configured time.
    RequestTimeout,
    /// The pod took longer than one attempt may.
    PerTryTimeout,
    /// A limit on connections, waiting requests or requests was reached.
    Overflow,
    /// Memory runs short here.
    Overloaded,
    /// Nothing moved for the configured time, before a response.
    StreamIdle,
    /// Nothing came of the request's body for the configured time.
    RequestIdle,
    /// The request breaks HTTP's rules; what about it.
    BadRequest(&'static str),
    /// The request's head is larger than is accepted.
    HeadTooLarge,
    /// The request's body breaks HTTP's rules.
    BadRequestBody,
    /// A method that this proxy does not forward.
    MethodNotSupported,
    /// The client went away.
    ClientGone,
}

impl Failure {
    /// The reason of an attempt that was given up here, as the access log has it.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RequestTimeout => "response_timeout",
            Self::PerTryTimeout => "per_try_timeout",
            Self::StreamIdle | Self::RequestIdle => "idle_timeout",
            Self::BadRequestBody => "request_body_malformed",
            Self::Overloaded => "overload",
            Self::Closed => "closed",
            _ => "client_gone",
        }
    }
}

/// How the last connect failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    Timeout,
    /// The network says that the address cannot be reached.
    Unreachable,
    /// TLS could not be agreed upon.
    Tls,
    /// No local port, descriptor or memory for another connection.
    Local,
    /// Something else.
    Other,
}

impl ConnectFailure {
    /// The reason as the access log has it.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Refused => "connect_refused",
            Self::Timeout => "connect_timeout",
            Self::Unreachable => "connect_unreachable",
            Self::Tls => "connect_tls_failed",
            Self::Local => "connect_local_error",
            Self::Other => "connect_failed",
        }
    }
}

impl From<&std::io::Error> for ConnectFailure {
    fn from(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::TimedOut => Self::Timeout,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => Self::Unreachable,
            Kind::AddrNotAvailable | Kind::AddrInUse | Kind::OutOfMemory | Kind::PermissionDenied => {
                Self::Local
            }
            // EMFILE and ENFILE have no kind of their own.
            _ if matches!(error.raw_os_error(), Some(23 | 24)) => Self::Local,
            _ => Self::Other,
        }
    }
}

/// What the client and the access log are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// `None`: there is nobody left to answer.
    pub status: Option<StatusCode>,
    /// The response flag.
    pub flags: Flags,
    /// `RESPONSE_CODE_DETAILS`, in Envoy's vocabulary.
    pub details: &'static str,
    /// Where it went wrong, in words, without the upstream's name.
    pub what: &'static str,
    /// The connection cannot be trusted to carry another request.
    pub close: bool,
}

/// What is told of a head that did not come in time: there was no request, so there is no answer.
pub const HEAD_TIMEOUT: Verdict = Verdict {
    status: None,
    flags: Flags::STREAM_IDLE,
    details: "request_header_timeout",
    what: "the request's head did not come in time",
    close: true,
};

/// The table: every failure before a response has begun.
#[must_use]
pub const fn verdict(failure: Failure) -> Verdict {
    use Failure as F;
    const fn row(status: StatusCode, flags: Flags, details: &'static str, what: &'static str) -> Verdict {
        Verdict { status: Some(status), flags, details, what, close: false }
    }
    const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    match failure {
        F::NoRoute => {
            row(StatusCode::NOT_FOUND, Flags::NO_ROUTE, "route_not_found", "no route matches the path")
        }
        F::NoEndpoint => {
            row(UNAVAILABLE, Flags::NO_ENDPOINT, "no_healthy_upstream", "there is no pod to choose")
        }
        F::DnsFailed => {
            row(UNAVAILABLE, Flags::DNS_FAILED, "dns_resolution_failure", "DNS has not answered for its name")
        }
        F::Connect(how) => row(
            UNAVAILABLE,
            Flags::CONNECT_FAILED,
            match how {
                ConnectFailure::Timeout => "upstream_reset_before_response_started{connection_timeout}",
                ConnectFailure::Local => "upstream_reset_before_response_started{local_connection_failure}",
                ConnectFailure::Tls => {
                    "upstream_reset_before_response_started{remote_connection_failure|TLS_error}"
                }
                ConnectFailure::Refused | ConnectFailure::Unreachable | ConnectFailure::Other => {
                    "upstream_reset_before_response_started{remote_connection_failure}"
                }
            },
            match how {
                ConnectFailure::Refused => "no pod took the connection: refused",
                ConnectFailure::Timeout => "no pod took the connection in time",
                ConnectFailure::Unreachable => "no pod can be reached",
                ConnectFailure::Tls => "no pod agreed on TLS",
                ConnectFailure::Local => "no connection could be made from here",
                ConnectFailure::Other => "no pod took the connection",
            },
        ),
        F::Closed => row(
            UNAVAILABLE,
            Flags::UPSTREAM_CLOSED,
            "upstream_reset_before_response_started{connection_termination}",
            "the pod closed the connection before it answered",
        ),
        F::Reset => row(
            UNAVAILABLE,
            Flags::UPSTREAM_CLOSED,
            "upstream_reset_before_response_started{connection_reset}",
            "the pod reset the connection before it answered",
        ),
        F::StreamReset => row(
            UNAVAILABLE,
            Flags::UPSTREAM_RESET,
            "upstream_reset_before_response_started{remote_reset}",
            "the pod reset the stream before it answered",
        ),
        F::StreamRefused => row(
            UNAVAILABLE,
            Flags::UPSTREAM_RESET,
            "upstream_reset_before_response_started{remote_refused_stream_reset}",
            "the pod refused the stream",
        ),
        F::LocalReset => row(
            UNAVAILABLE,
            Flags::LOCAL_RESET,
            "upstream_reset_before_response_started{local_reset}",
            "the pod's answer is larger than is accepted",
        ),
        F::UpstreamProtocol => row(
            StatusCode::BAD_GATEWAY,
            Flags::UPSTREAM_PROTOCOL,
            "upstream_reset_before_response_started{protocol_error}",
            "the pod's answer is not valid HTTP",
        ),
        F::RequestTimeout => row(
            StatusCode::GATEWAY_TIMEOUT,
            Flags::UPSTREAM_TIMEOUT,
            "upstream_response_timeout",
            "the pod did not answer in time",
        ),
        F::PerTryTimeout => row(
            StatusCode::GATEWAY_TIMEOUT,
            Flags::UPSTREAM_TIMEOUT,
            "upstream_per_try_timeout",
            "the pod did not answer in time",
        ),
        F::Overflow => row(
            UNAVAILABLE,
            Flags::OVERFLOW,
            "upstream_reset_before_response_started{overflow}",
            "too much is under way already",
        ),
        F::Overloaded => Verdict {
            status: Some(UNAVAILABLE),
            flags: Flags::OVERLOAD,
            details: "overload",
            what: "memory runs short here",
            close: true,
        },
        F::StreamIdle => row(
            StatusCode::GATEWAY_TIMEOUT,
            Flags::STREAM_IDLE,
            "stream_idle_timeout",
            "nothing was sent or received for too long",
        ),
        // As Envoy does: whose turn it was decides between 504 and 408.
        F::RequestIdle => Verdict {
            status: Some(StatusCode::REQUEST_TIMEOUT),
            flags: Flags::STREAM_IDLE,
            details: "stream_idle_timeout",
            what: "the rest of the request did not come in time",
            close: true,
        },
        F::BadRequest(what) => Verdict {
            status: Some(StatusCode::BAD_REQUEST),
            flags: Flags::DOWNSTREAM_PROTOCOL,
            details: "http1.codec_error",
            what,
            close: true,
        },
        F::HeadTooLarge => Verdict {
            status: Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            flags: Flags::DOWNSTREAM_PROTOCOL,
            details: "request_headers_too_large",
            what: "the request's head is too large",
            close: true,
        },
        F::BadRequestBody => Verdict {
            status: Some(StatusCode::BAD_REQUEST),
            flags: Flags::DOWNSTREAM_PROTOCOL,
            details: "http1.codec_error",
            what: "the request's body is malformed",
            close: true,
        },
        F::MethodNotSupported => Verdict {
            status: Some(StatusCode::NOT_IMPLEMENTED),
            flags: Flags::EMPTY,
            details: "method_not_supported",
            what: "CONNECT is not supported",
            close: true,
        },
        F::ClientGone => Verdict {
            status: None,
            flags: Flags::DOWNSTREAM_CLOSED,
            details: "downstream_remote_disconnect",
            what: "the client went away",
            close: true,
        },
    }
}

/// The short text body of a locally made error: what happened, and to which upstream.
#[must_use]
pub fn body(verdict: &Verdict, upstream: &str) -> String {
    format!("whichpod: upstream {upstream}: {}\n", verdict.what)
}

/// How a response ended after it had begun: its status stays, the flag is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The pod closed or reset the connection inside its response.
    #[error("the pod closed the connection inside its response")]
    UpstreamClosed,
    /// The pod reset the stream inside its response, for this reason.
    #[error("the pod reset the stream inside its response: {0}")]
    UpstreamReset(Reason),
    /// The stream was reset here, because the pod sent more than is accepted.
    #[error("the pod sent more than is accepted")]
    LocalReset,
    /// The pod's response breaks HTTP's rules inside its body.
    #[error("the pod's response body is malformed")]
    UpstreamProtocol,
    /// The response took longer than the configured time.
    #[error("the response took too long")]
    Timeout,
    /// Nothing moved for the configured time.
    #[error("nothing moved for too long")]
    Idle,
    /// Memory runs short here.
    #[error("memory runs short")]
    Overloaded,
    /// The client went away.
    #[error("the client went away")]
    ClientGone,
}

impl Broken {
    /// What an HTTP/2 client is told. The pod's own word is passed on, unless it would say that nothing has happened.
    #[must_use]
    pub const fn reset(self) -> Reason {
        match self {
            Self::UpstreamReset(Reason::NO_ERROR | Reason::REFUSED_STREAM) => Reason::INTERNAL_ERROR,
            Self::UpstreamReset(reason) => reason,
            Self::UpstreamClosed | Self::LocalReset | Self::UpstreamProtocol => Reason::INTERNAL_ERROR,
            Self::Overloaded => Reason::ENHANCE_YOUR_CALM,
            Self::Timeout | Self::Idle | Self::ClientGone => Reason::CANCEL,
        }
    }
}

/// The table for responses that had begun: flag and details.
#[must_use]
pub const fn broken(how: Broken) -> (Flags, &'static str) {
    match how {
        Broken::UpstreamClosed => {
            (Flags::UPSTREAM_CLOSED, "upstream_reset_after_response_started{connection_termination}")
        }
        Broken::UpstreamReset(_) => {
            (Flags::UPSTREAM_RESET, "upstream_reset_after_response_started{remote_reset}")
        }
        Broken::LocalReset => (Flags::LOCAL_RESET, "upstream_reset_after_response_started{local_reset}"),
        Broken::UpstreamProtocol => {
            (Flags::UPSTREAM_PROTOCOL, "upstream_reset_after_response_started{protocol_error}")
        }
        Broken::Overloaded => (Flags::OVERLOAD, "overload"),
        Broken::Timeout => (Flags::UPSTREAM_TIMEOUT, "upstream_response_timeout"),
        Broken::Idle => (Flags::STREAM_IDLE, "stream_idle_timeout"),
        Broken::ClientGone => (Flags::DOWNSTREAM_CLOSED, "downstream_remote_disconnect"),
    }
}

/// How a TCP connection or a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Both sides said that they were done, the client first.
    ByClient,
    /// Both sides said that they were done, the pod first.
    ByPod,
    /// The client reset the connection, or is gone.
    ClientReset,
    /// The pod reset the connection, or is gone.
    PodReset,
    /// Nothing moved for the configured time.
    Idle,
    /// It was cut by the end of this process.
    Shutdown,
}

/// The table for TCP connections and tunnels: flag and details.
#[must_use]
pub const fn ended(how: Ended) -> (Flags, &'static str) {
    match how {
        Ended::ByClient => (Flags::EMPTY, "downstream_remote_close"),
        Ended::ByPod => (Flags::EMPTY, "upstream_remote_close"),
        Ended::ClientReset => (Flags::DOWNSTREAM_CLOSED, "downstream_remote_disconnect"),
        Ended::PodReset => (Flags::UPSTREAM_CLOSED, "upstream_remote_disconnect"),
        Ended::Idle => (Flags::STREAM_IDLE, "tcp_session_idle_timeout"),
        Ended::Shutdown => (Flags::LOCAL_RESET, "shutdown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[(Failure, u16, &str)] = &[
        (Failure::NoRoute, 404, "NR"),
        (Failure::NoEndpoint, 503, "UH"),
        (Failure::DnsFailed, 503, "DF"),
        (Failure::Connect(ConnectFailure::Refused), 503, "UF"),
        (Failure::Connect(ConnectFailure::Timeout), 503, "UF"),
        (Failure::Connect(ConnectFailure::Unreachable), 503, "UF"),
        (Failure::Connect(ConnectFailure::Tls), 503, "UF"),
        (Failure::Connect(ConnectFailure::Local), 503, "UF"),
        (Failure::Connect(ConnectFailure::Other), 503, "UF"),
        (Failure::Closed, 503, "UC"),
        (Failure::Reset, 503, "UC"),
        (Failure::StreamReset, 503, "UR"),
        (Failure::StreamRefused, 503, "UR"),
        (Failure::LocalReset, 503, "LR"),
        (Failure::UpstreamProtocol, 502, "UPE"),
        (Failure::RequestTimeout, 504, "UT"),
        (Failure::PerTryTimeout, 504, "UT"),
        (Failure::Overflow, 503, "UO"),
        (Failure::Overloaded, 503, "OM"),
        (Failure::StreamIdle, 504, "SI"),
        (Failure::RequestIdle, 408, "SI"),
        (Failure::BadRequest("two Host headers"), 400, "DPE"),
        (Failure::HeadTooLarge, 431, "DPE"),
        (Failure::BadRequestBody, 400, "DPE"),
        (Failure::ClientGone, 0, "DC"),
    ];

    #[test]
    fn a_user_reads_the_documented_status_and_flag_for_every_failure() {
        for (failure, status, flag) in ALL {
            let verdict = verdict(*failure);
            assert_eq!(verdict.status.map_or(0, |s| s.as_u16()), *status, "{failure:?}");
            assert_eq!(Some(verdict.flags), Flags::parse(flag), "{failure:?}");
        }
    }

    #[test]
    fn an_error_body_names_the_upstream_and_what_happened() {
        let text = body(&verdict(Failure::NoEndpoint), "backend-service");
        assert_eq!(text, "whichpod: upstream backend-service: there is no pod to choose\n");
    }
}
