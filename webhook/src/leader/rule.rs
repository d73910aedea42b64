//! Who may take the Lease: pure.

use k8s_openapi::api::coordination::v1::LeaseSpec;
use std::time::Duration;
use tokio::time::Instant;

/// What this replica has seen of the Lease.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sight {
    spec: Option<LeaseSpec>,
    /// When it was first seen so.
    since: Instant,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// It is ours: say that we are alive.
    Renew,
    /// It is nobody's: take it.
    Take,
    /// It is somebody else's.
    Wait,
}

impl Sight {
    /// What is seen now, given what was seen before.
    pub(super) fn of(spec: Option<&LeaseSpec>, before: Option<Self>, now: Instant) -> Self {
        match before {
            Some(before) if before.spec.as_ref() == spec => before,
            _ => Self { spec: spec.cloned(), since: now },
        }
    }
}

pub(super) fn next(sight: &Sight, me: &str, now: Instant) -> Move {
    let Some(spec) = &sight.spec else { return Move::Take };
    match spec.holder_identity.as_deref() {
        None | Some("") => Move::Take,
        Some(holder) if holder == me => Move::Renew,
        Some(_) => {
            let lasts =
                spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
            let silent = now.saturating_duration_since(sight.since);
            if silent >= Duration::from_secs(lasts) { Move::Take } else { Move::Wait }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: Option<&str>, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_free_lease_is_taken_and_an_own_one_renewed() {
        let now = Instant::now();
        let see = |spec: Option<LeaseSpec>| next(&Sight::of(spec.as_ref(), None, now), "me", now);
        assert_eq!(see(None), Move::Take);
        assert_eq!(see(Some(LeaseSpec::default())), Move::Take);
        assert_eq!(see(Some(held_by(Some(""), 1))), Move::Take);
        assert_eq!(see(Some(held_by(Some("me"), 1))), Move::Renew);
        assert_eq!(see(Some(held_by(Some("you"), 1))), Move::Wait);
    }

    #[test]
    fn a_holder_is_gone_only_after_it_has_been_silent_for_as_long_as_the_lease_lasts() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let first = Sight::of(Some(&held_by(Some("you"), 1)), None, start);
        let same = Sight::of(Some(&held_by(Some("you"), 1)), Some(first.clone()), after(14));
        assert_eq!(next(&same, "me", after(14)), Move::Wait);
        assert_eq!(next(&same, "me", after(15)), Move::Take);
        let renewed = Sight::of(Some(&held_by(Some("you"), 2)), Some(same), after(14));
        assert_eq!(next(&renewed, "me", after(28)), Move::Wait);
        assert_eq!(next(&renewed, "me", after(29)), Move::Take);
    }

    #[test]
    fn a_lease_with_a_senseless_duration_is_free() {
        let now = Instant::now();
        let spec = LeaseSpec { lease_duration_seconds: Some(-5), ..held_by(Some("you"), 1) };
        assert_eq!(next(&Sight::of(Some(&spec), None, now), "me", now), Move::Take);
    }
}
