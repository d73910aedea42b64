//! The retry rule: which requests may be sent again, after what, and how often.
//!
//! Connect failures are fail-over and are not decided here: nothing was sent, every pod may be tried.

use std::time::Duration;

use http::{HeaderMap, Method};
use whichpod_config::{Retry, RetryOn};

use crate::error::Failure;

/// May this request be sent a second time although its first copy may have been acted upon?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Idempotent (RFC 9110 §9.2.2), without a body or with one that is kept.
    Safe,
    /// POST, PATCH, unknown methods: never silently.
    Unsafe,
    /// The method would allow it, but the body is gone: it is longer than what is kept of it.
    BodyConsumed,
}

impl Replay {
    /// The rule for a request with this method.
    #[must_use]
    pub fn of(method: &Method, has_body: bool) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE => {
                if has_body {
                    Self::BodyConsumed
                } else {
                    Self::Safe
                }
            }
            _ => Self::Unsafe,
        }
    }

    /// May it be sent again on a condition that the user has written down? POST and PATCH only if that was written down
    /// too (nginx calls it `non_idempotent`): no request is duplicated silently.
    fn on_request(self, policy: &Retry) -> bool {
        match self {
            Self::Safe => true,
            Self::Unsafe => policy.non_idempotent,
            Self::BodyConsumed => false,
        }
    }
}

/// How much of a failed attempt may have reached the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The message was handed back: not a byte was sent.
    NothingSent,
    /// Some of it may have been sent, and no byte of a response was read.
    NoResponseByte,
    /// A part of a response was read.
    SomeResponse,
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send it again.
    Again {
        /// It is a retry, within the attempts and the budget. Not so what only met a stale connection: that says
        /// nothing about the pod, and the next connection is a new one.
        counted: bool,
    },
    /// The failure is final.
    GiveUp,
    /// The failure is final because the attempts are used up (URX).
    LimitReached,
}

/// Decides after a failure before any response; `reused` says that the connection had served before.
#[must_use]
pub fn after_failure(
    policy: &Retry,
    replay: Replay,
    progress: Progress,
    failure: Failure,
    reused: bool,
    retries: u32,
) -> Decision {
    let closed = matches!(failure, Failure::Closed | Failure::Reset | Failure::StreamReset);
    match progress {
        // The pod is there and says no: it may be asked again, but not without end.
        Progress::NothingSent if failure == Failure::StreamRefused => {
            return again_if(policy.on.contains(&RetryOn::RefusedStream), policy, retries);
        }
        Progress::NothingSent if reused => return Decision::Again { counted: false },
        // A pod that ends even new connections at once: any method may be sent again, but not without end.
        Progress::NothingSent => return again_if(true, policy, retries),
        // The pod closed an idle connection while the request was on its way: many at a time when a pod restarts.
        Progress::NoResponseByte if closed && reused && replay == Replay::Safe => {
            return Decision::Again { counted: false };
        }
        Progress::NoResponseByte | Progress::SomeResponse => {}
    }
    let wanted = match (progress, failure) {
        // nginx does so by default, and so do browsers (RFC 9112 §9.3.1).
        (Progress::NoResponseByte, _) if closed => true,
        _ => false,
    };
    let ends_without_answer = closed || matches!(failure, Failure::UpstreamProtocol | Failure::PerTryTimeout);
    // Envoy counts a try without an answer among the gateway errors.
    let asked_for = ends_without_answer
        && policy
            .on
            .iter()
            .any(|on| matches!(on, RetryOn::Reset | RetryOn::ServerError | RetryOn::GatewayError));
    let by_default = wanted && replay == Replay::Safe;
    again_if(by_default || asked_for && replay.on_request(policy), policy, retries)
}

/// True if the attempt says something about the pod: not so what the client did, a connection that the pod had closed
/// while it was idle, or a message that never left.
#[must_use]
pub fn blames_the_pod(failure: Failure, progress: Progress, reused: bool) -> bool {
    match failure {
        Failure::Closed | Failure::Reset => {
            progress != Progress::NothingSent && !(reused && progress == Progress::NoResponseByte)
        }
        Failure::UpstreamProtocol
        | Failure::RequestTimeout
        | Failure::PerTryTimeout
        | Failure::StreamIdle => true,
        _ => false,
    }
}

/// Decides after a complete response head with this status.
#[must_use]
pub fn after_status(policy: &Retry, replay: Replay, status: u16, retries: u32) -> Decision {
    let wanted = policy.on.iter().any(|on| match on {
        RetryOn::ServerError => status >= 500,
        RetryOn::GatewayError => (502..=504).contains(&status),
        RetryOn::Retriable4xx => status == 409,
        RetryOn::StatusCodes => policy.status_codes.contains(&status),
        RetryOn::ConnectFailure | RetryOn::RefusedStream | RetryOn::Reset | RetryOn::Headers => false,
        RetryOn::GrpcCancelled
        | RetryOn::GrpcDeadlineExceeded
        | RetryOn::GrpcResourceExhausted
        | RetryOn::GrpcInternal
        | RetryOn::GrpcUnavailable => false,
    });
    again_if(wanted && replay.on_request(policy), policy, retries)
}

/// Decides after a complete response head that was good enough by its status.
#[must_use]
pub fn after_headers(policy: &Retry, replay: Replay, headers: &HeaderMap, retries: u32) -> Decision {
    let wanted = policy.on.contains(&RetryOn::Headers)
        && policy.headers.iter().any(|name| headers.contains_key(name.as_str()));
    again_if(wanted && replay.on_request(policy), policy, retries)
}

/// Decides after a response that is nothing but this gRPC status. Every call is a POST, so the user's word for the status
/// is the user's leave to send it again; `replayable`: the request's body is still there.
#[must_use]
pub fn after_grpc_status(policy: &Retry, replayable: bool, status: u32, retries: u32) -> Decision {
    let word = match status {
        1 => RetryOn::GrpcCancelled,
        4 => RetryOn::GrpcDeadlineExceeded,
        8 => RetryOn::GrpcResourceExhausted,
        13 => RetryOn::GrpcInternal,
        14 => RetryOn::GrpcUnavailable,
        _ => return Decision::GiveUp,
    };
    again_if(replayable && policy.on.contains(&word), policy, retries)
}

fn again_if(wanted: bool, policy: &Retry, retries: u32) -> Decision {
    match (wanted, retries < policy.attempts) {
        (false, _) => Decision::GiveUp,
        (true, true) => Decision::Again { counted: true },
        (true, false) => Decision::LimitReached,
    }
}

/// True if one more retry fits the budget: by default a fifth of the running requests, at least 10 at a time.
#[must_use]
pub fn within_budget(policy: &Retry, running_requests: u64, running_retries: u64) -> bool {
    let share = running_requests.saturating_mul(policy.budget_percent.into()) / 100;
    running_retries < share.max(policy.min_concurrency.into())
}

/// The pause before a counted retry: by default 25 ms doubling up to 250 ms, as Envoy's, less up to half of it;
/// `random` is in 0.0..1.0. DNS is asked meanwhile, so that the next choice knows which pods have gone.
#[must_use]
pub fn back_off(policy: &Retry, retries_so_far: u32, random: f64) -> Duration {
    let doubled = policy.back_off_base.saturating_mul(1_u32.checked_shl(retries_so_far).unwrap_or(u32::MAX));
    let longest = doubled.min(policy.back_off_max.max(policy.back_off_base));
    longest.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: &[RetryOn]) -> Retry {
        Retry { on: on.to_vec(), status_codes: vec![429], ..Retry::default() }
    }

    const DEFAULT: &[RetryOn] = &[RetryOn::ConnectFailure, RetryOn::RefusedStream];

    #[test]
    fn a_post_is_never_sent_twice_once_a_byte_may_have_left() {
        let replay = Replay::of(&Method::POST, false);
        for on in [DEFAULT, &[RetryOn::Reset, RetryOn::ServerError]] {
            for progress in [Progress::NoResponseByte, Progress::SomeResponse] {
                let decision = after_failure(&policy(on), replay, progress, Failure::Closed, true, 0);
                assert_eq!(decision, Decision::GiveUp);
            }
            assert_eq!(after_status(&policy(on), replay, 503, 0), Decision::GiveUp);
        }
    }

    #[test]
    fn a_request_of_which_nothing_was_sent_goes_to_another_pod_whatever_its_method() {
        let decide = |reused, retries| {
            let policy = policy(DEFAULT);
            after_failure(&policy, Replay::Unsafe, Progress::NothingSent, Failure::Closed, reused, retries)
        };
        assert_eq!(decide(true, 9), Decision::Again { counted: false });
        assert_eq!(decide(false, 1), Decision::Again { counted: true });
        assert_eq!(
            decide(false, 2),
            Decision::LimitReached,
            "new connections that end at once are no accident"
        );
    }

    #[test]
    fn an_idempotent_request_survives_the_keep_alive_race_but_not_for_ever() {
        let replay = Replay::of(&Method::GET, false);
        let decide = |reused, retries| {
            after_failure(
                &policy(DEFAULT),
                replay,
                Progress::NoResponseByte,
                Failure::Closed,
                reused,
                retries,
            )
        };
        assert_eq!(decide(false, 0), Decision::Again { counted: true });
        assert_eq!(decide(false, 1), Decision::Again { counted: true });
        assert_eq!(decide(false, 2), Decision::LimitReached);
        assert_eq!(decide(true, 2), Decision::Again { counted: false }, "a stale connection is no attempt");
    }

    #[test]
    fn a_body_that_was_streamed_is_not_sent_again() {
        let replay = Replay::of(&Method::PUT, true);
        let decision =
            after_failure(&policy(DEFAULT), replay, Progress::NoResponseByte, Failure::Reset, true, 0);
        assert_eq!(decision, Decision::GiveUp);
    }

    #[test]
    fn half_a_response_is_repeated_only_on_request() {
        let decide = |on: &[RetryOn]| {
            after_failure(&policy(on), Replay::Safe, Progress::SomeResponse, Failure::Closed, true, 0)
        };
        assert_eq!(decide(DEFAULT), Decision::GiveUp);
        assert_eq!(decide(&[RetryOn::Reset]), Decision::Again { counted: true });
        assert_eq!(decide(&[RetryOn::ServerError]), Decision::Again { counted: true });
    }

    #[test]
    fn a_time_out_is_not_retried() {
        let decision = after_failure(
            &policy(&[RetryOn::ServerError, RetryOn::Reset]),
            Replay::Safe,
            Progress::NoResponseByte,
            Failure::RequestTimeout,
            true,
            0,
        );
        assert_eq!(decision, Decision::GiveUp);
    }

    #[test]
    fn a_post_is_repeated_only_on_conditions_and_only_by_permission() {
        let allowed = |on: &[RetryOn]| Retry { non_idempotent: true, ..policy(on) };
        let (replay, progress) = (Replay::of(&Method::POST, true), Progress::NoResponseByte);
        let decide = |policy: &Retry| after_failure(policy, replay, progress, Failure::Closed, true, 0);
        assert_eq!(decide(&allowed(DEFAULT)), Decision::GiveUp, "no condition says so");
        assert_eq!(decide(&policy(&[RetryOn::Reset])), Decision::GiveUp, "no permission");
        assert_eq!(decide(&allowed(&[RetryOn::Reset])), Decision::Again { counted: true });
        assert_eq!(
            after_status(&allowed(&[RetryOn::GatewayError]), replay, 503, 0),
            Decision::Again { counted: true }
        );
        assert_eq!(after_status(&policy(&[RetryOn::GatewayError]), replay, 503, 0), Decision::GiveUp);
    }

    #[test]
    fn a_try_that_took_too_long_is_repeated_in_envoys_words() {
        for (on, again) in [
            (DEFAULT, false),
            (&[RetryOn::ServerError] as &[_], true),
            (&[RetryOn::GatewayError], true),
            (&[RetryOn::Reset], true),
            (&[RetryOn::StatusCodes], false),
        ] {
            let decision = after_failure(
                &policy(on),
                Replay::Safe,
                Progress::NoResponseByte,
                Failure::PerTryTimeout,
                false,
                0,
            );
            assert_eq!(matches!(decision, Decision::Again { .. }), again, "{on:?}");
        }
    }

    #[test]
    fn a_header_that_says_so_is_a_reason_to_try_again() {
        let policy = Retry { headers: vec!["x-retry".into()], ..policy(&[RetryOn::Headers]) };
        let mut headers = HeaderMap::new();
        assert_eq!(after_headers(&policy, Replay::Safe, &headers, 0), Decision::GiveUp);
        headers.insert("x-retry", http::HeaderValue::from_static("1"));
        assert_eq!(after_headers(&policy, Replay::Safe, &headers, 0), Decision::Again { counted: true });
        assert_eq!(after_headers(&policy, Replay::Safe, &headers, 2), Decision::LimitReached);
        assert_eq!(
            after_headers(&Retry { on: DEFAULT.to_vec(), ..policy }, Replay::Safe, &headers, 0),
            Decision::GiveUp
        );
    }

    #[test]
    fn a_pod_is_not_blamed_for_a_stale_connection_or_a_client_that_left() {
        use Progress::{NoResponseByte, NothingSent, SomeResponse};
        assert!(!blames_the_pod(Failure::Closed, NoResponseByte, true));
        assert!(blames_the_pod(Failure::Closed, NoResponseByte, false));
        assert!(blames_the_pod(Failure::Reset, SomeResponse, true));
        assert!(!blames_the_pod(Failure::Reset, NothingSent, false));
        assert!(!blames_the_pod(Failure::ClientGone, NoResponseByte, false));
        assert!(blames_the_pod(Failure::PerTryTimeout, NoResponseByte, true));
    }

    #[test]
    fn statuses_are_retried_in_envoys_words() {
        let cases: &[(&[RetryOn], u16, bool)] = &[
            (DEFAULT, 503, false),
            (&[RetryOn::ServerError], 500, true),
            (&[RetryOn::ServerError], 499, false),
            (&[RetryOn::GatewayError], 500, false),
            (&[RetryOn::GatewayError], 502, true),
            (&[RetryOn::GatewayError], 504, true),
            (&[RetryOn::GatewayError], 505, false),
            (&[RetryOn::Retriable4xx], 409, true),
            (&[RetryOn::Retriable4xx], 429, false),
            (&[RetryOn::StatusCodes], 429, true),
            (&[RetryOn::StatusCodes], 430, false),
        ];
        for (on, status, again) in cases {
            let decision = after_status(&policy(on), Replay::Safe, *status, 0);
            assert_eq!(matches!(decision, Decision::Again { .. }), *again, "{on:?} {status}");
        }
    }

    #[test]
    fn a_refused_stream_is_sent_again_whatever_its_method_but_not_for_ever() {
        let decide = |on: &[RetryOn], retries| {
            let (replay, progress) = (Replay::Unsafe, Progress::NothingSent);
            after_failure(&policy(on), replay, progress, Failure::StreamRefused, true, retries)
        };
        assert_eq!(decide(DEFAULT, 0), Decision::Again { counted: true });
        assert_eq!(decide(DEFAULT, 2), Decision::LimitReached);
        assert_eq!(decide(&[RetryOn::Reset], 0), Decision::GiveUp, "the user's list decides");
    }

    #[test]
    fn grpc_statuses_are_retried_in_envoys_words_and_only_with_the_body_at_hand() {
        use RetryOn as On;
        let cases = [
            (On::GrpcCancelled, 1),
            (On::GrpcDeadlineExceeded, 4),
            (On::GrpcResourceExhausted, 8),
            (On::GrpcInternal, 13),
            (On::GrpcUnavailable, 14),
        ];
        for (word, status) in cases {
            let decide = |status, replayable| after_grpc_status(&policy(&[word]), replayable, status, 0);
            assert_eq!(decide(status, true), Decision::Again { counted: true }, "{word:?}");
            assert_eq!(decide(status, false), Decision::GiveUp, "{word:?}");
            for other in (0..=16).filter(|other| *other != status) {
                assert_eq!(decide(other, true), Decision::GiveUp, "{word:?} {other}");
            }
        }
        assert_eq!(after_grpc_status(&policy(DEFAULT), true, 14, 0), Decision::GiveUp);
    }

    #[test]
    fn retries_cannot_become_a_storm() {
        let default = Retry::default();
        let within = |requests, retries| within_budget(&default, requests, retries);
        assert!(within(0, 9) && !within(0, 10) && !within(50, 10) && within(100, 19) && !within(100, 20));
        let generous = Retry { budget_percent: 50, min_concurrency: 0, ..Retry::default() };
        assert!(!within_budget(&generous, 1, 0) && within_budget(&generous, 100, 49));
        assert!(within_budget(&generous, u64::MAX, 1), "no overflow");
    }

    #[test]
    fn back_off_grows_and_stays_below_a_quarter_second() {
        let default = Retry::default();
        assert_eq!(back_off(&default, 0, 0.0), Duration::from_micros(12_500));
        assert_eq!(back_off(&default, 0, 1.0), Duration::from_millis(25));
        assert_eq!(back_off(&default, 1, 1.0), Duration::from_millis(50));
        assert_eq!(back_off(&default, 99, 1.0), Duration::from_millis(250));
        let second = Duration::from_secs(1);
        let slow = Retry { back_off_base: second, back_off_max: 3 * second, ..default };
        assert_eq!([0, 1, 2].map(|retries| back_off(&slow, retries, 1.0)), [second, 2 * second, 3 * second]);
    }
}
