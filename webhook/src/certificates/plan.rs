//! What to do about the certificates now: pure, so that every situation can be written down as a test.
//!
//! An authority is changed without a moment in which nobody is trusted: the new one joins the old one in the Secret, then
//! in every `caBundle`, and only when every API server has seen that, it signs. The old one stays until its time is over.

use jiff::{SignedDuration, Timestamp};

use super::material::Material;

/// API servers see a changed configuration a little later, each for itself; until then they know the old authority only.
pub(super) const SETTLES: SignedDuration = SignedDuration::from_secs(10);

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Store a new authority; those that are still trusted stay, and the certificate, too.
    NewAuthority,
    /// Store a new certificate.
    NewLeaf,
    /// Store the same without the authorities whose time is over.
    DropExpired,
    /// Write the authorities into every `caBundle` that has others.
    Publish,
    /// Nothing until then, unless something changes.
    Rest(Timestamp),
}

/// What is known when a step is taken.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// What the Secret holds; `None` without a usable Secret.
    pub stored: Option<&'a Material>,
    /// The names that the certificate must be good for.
    pub names: &'a [String],
    /// For how long every `caBundle` has had exactly the stored authorities; `None` if one has others.
    pub published: Option<SignedDuration>,
    /// The time.
    pub now: Timestamp,
}

/// The next step, if this replica is the one to take it.
pub fn next(situation: &Situation<'_>) -> Step {
    let Situation { stored, names, published, now } = *situation;
    let Some(stored) = stored else { return Step::NewAuthority };
    let authority = stored.authority();
    if now >= authority.renew_at() || !authority.is_valid(now) {
        return Step::NewAuthority;
    }
    let leaf = stored.leaf().and_then(|leaf| leaf.chain.first());
    let current = stored.leaf_is_current(names, now);
    let (Some(leaf), Some(current)) = (leaf, current) else { return Step::NewLeaf };
    let renew_leaf = now >= leaf.renew_at();
    if current && renew_leaf {
        return Step::NewLeaf;
    }
    if stored.authorities().iter().any(|authority| authority.not_after <= now) {
        return Step::DropExpired;
    }
    let Some(published) = published else { return Step::Publish };
    if !current {
        let left = SETTLES.saturating_sub(published);
        return if left.is_positive() {
            Step::Rest(now.saturating_add(left).unwrap_or(now))
        } else {
            Step::NewLeaf
        };
    }
    let ends = stored.authorities().iter().skip(1).map(|older| older.not_after);
    let next = ends.chain([authority.renew_at(), leaf.renew_at()]).min();
    Step::Rest(next.unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::material::Lifetimes;
    use jiff::SignedDuration;

    const DAY: i64 = 24;
    const LIFETIMES: Lifetimes = Lifetimes {
        authority: SignedDuration::from_hours(365 * DAY),
        leaf: SignedDuration::from_hours(30 * DAY),
    };

    fn at(days: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap() + SignedDuration::from_hours(days * DAY)
    }

    fn names() -> Vec<String> {
        vec!["whichpod.whichpod-system.svc".to_owned()]
    }

    /// A cluster with one Secret and one `caBundle`.
    struct Cluster {
        secret: Option<Material>,
        bundle: String,
        /// What API servers go by: the bundle of ten seconds ago.
        known: String,
    }

    impl Cluster {
        fn new() -> Self {
            Self { secret: None, bundle: String::new(), known: String::new() }
        }

        fn look(&self, now: Timestamp) -> Step {
            let settled = if self.known == self.bundle { SETTLES } else { SignedDuration::ZERO };
            let secret = self.secret.as_ref();
            let published = secret.filter(|secret| secret.is_bundle(self.bundle.as_bytes())).map(|_| settled);
            next(&Situation { stored: self.secret.as_ref(), names: &names(), published, now })
        }

        fn take(&mut self, step: Step, now: Timestamp) {
            let made = match (step, &self.secret) {
                (Step::NewAuthority, None) => Material::fresh(&names(), now, LIFETIMES),
                (Step::NewAuthority, Some(secret)) => secret.with_new_authority(now, LIFETIMES),
                (Step::NewLeaf, Some(secret)) => secret.with_new_leaf(&names(), now, LIFETIMES),
                (Step::DropExpired, Some(secret)) => Ok(secret.without_expired(now)),
                (Step::Publish, Some(secret)) => {
                    self.bundle = secret.bundle();
                    return;
                }
                _ => return,
            };
            self.secret = Some(made.unwrap());
        }

        /// Every step until there is none left; a short rest is slept through.
        fn settle(&mut self, now: Timestamp) -> Vec<Step> {
            self.settle_and(now, |_, _| {})
        }

        fn settle_and(&mut self, now: Timestamp, check: impl Fn(&Self, &[Step])) -> Vec<Step> {
            let mut steps = Vec::new();
            loop {
                match self.look(now) {
                    Step::Rest(until) if until <= now + SETTLES => self.known.clone_from(&self.bundle),
                    Step::Rest(_) => return steps,
                    step => {
                        steps.push(step);
                        self.take(step, now);
                    }
                }
                assert!(steps.len() < 8, "no end: {steps:?}");
                check(self, &steps);
            }
        }

        /// Whether every API server, also one that is ten seconds behind, trusts what the Secret tells to serve.
        fn is_trusted(&self, now: Timestamp) -> bool {
            self.trusts(&self.bundle, now) && self.trusts(&self.known, now)
        }

        fn trusts(&self, bundle: &str, now: Timestamp) -> bool {
            let trusted = crate::certificates::trust::authorities(bundle.as_bytes()).unwrap();
            let leaf = self.secret.as_ref().and_then(Material::leaf).unwrap();
            crate::certificates::trust::verify(&leaf.chain, &trusted, &names()[0], now).is_ok()
        }
    }

    #[test]
    fn the_first_start_makes_everything_and_a_restart_nothing() {
        let mut cluster = Cluster::new();
        assert_eq!(cluster.settle(at(0)), [Step::NewAuthority, Step::Publish]);
        assert!(cluster.trusts(&cluster.bundle, at(0)));
        assert_eq!(cluster.settle(at(1)), []);
        let Step::Rest(until) = cluster.look(at(1)) else { panic!() };
        assert!(until > at(19) && until < at(21), "a third of 30 days before the end: {until}");
    }

    #[test]
    fn a_certificate_is_renewed_before_it_expires_by_the_same_authority() {
        let mut cluster = Cluster::new();
        cluster.settle(at(0));
        let authority = cluster.secret.clone().unwrap().authority().clone();
        assert_eq!(cluster.settle(at(21)), [Step::NewLeaf]);
        assert_eq!(*cluster.secret.unwrap().authority(), authority);
    }

    #[test]
    fn an_authority_is_changed_without_a_moment_in_which_nobody_is_trusted() {
        let mut cluster = Cluster::new();
        cluster.settle(at(0));
        cluster.take(Step::NewLeaf, at(240));
        cluster.known.clone_from(&cluster.bundle);
        let now = at(250);
        let steps = cluster.settle_and(now, |cluster, steps| {
            assert!(cluster.is_trusted(now), "after {steps:?}");
        });
        assert_eq!(steps, [Step::NewAuthority, Step::Publish, Step::NewLeaf]);
        assert_eq!(cluster.secret.as_ref().unwrap().authorities().len(), 2, "the old one stays trusted");
        // Its time is over at last.
        let mut steps = cluster.settle(at(366));
        steps.retain(|step| *step != Step::NewLeaf);
        assert_eq!(steps, [Step::DropExpired, Step::Publish]);
        assert_eq!(cluster.secret.unwrap().authorities().len(), 1);
    }

    #[test]
    fn an_emptied_bundle_is_written_again_and_nothing_else() {
        let mut cluster = Cluster::new();
        cluster.settle(at(0));
        let secret = cluster.secret.clone();
        cluster.bundle.clear();
        assert_eq!(cluster.settle(at(0)), [Step::Publish]);
        assert_eq!(cluster.secret, secret);
    }

    #[test]
    fn a_replica_that_looked_before_the_others_write_finds_nothing_left_to_do() {
        let mut cluster = Cluster::new();
        let (one, two) = (cluster.look(at(0)), cluster.look(at(0)));
        assert_eq!((one, two), (Step::NewAuthority, Step::NewAuthority));
        // The second one's write is refused (the Secret exists by then), so it looks again.
        cluster.take(one, at(0));
        assert_eq!(cluster.look(at(0)), Step::Publish);
        cluster.settle(at(0));
        assert!(matches!(cluster.look(at(0)), Step::Rest(_)));
    }

    #[test]
    fn an_expired_or_misnamed_certificate_does_not_wait_for_the_bundle() {
        let mut cluster = Cluster::new();
        cluster.settle(at(0));
        cluster.bundle.clear();
        assert_eq!(cluster.look(at(40)), Step::NewLeaf);
        let secret = cluster.secret.as_ref();
        let renamed =
            Situation { stored: secret, names: &["other.svc".to_owned()], published: None, now: at(0) };
        assert_eq!(next(&renamed), Step::NewLeaf);
    }

    #[test]
    fn everything_has_expired_after_a_long_pause() {
        let mut cluster = Cluster::new();
        cluster.settle(at(0));
        let steps = cluster.settle(at(1000));
        assert_eq!(steps, [Step::NewAuthority, Step::NewLeaf, Step::Publish]);
        assert!(cluster.trusts(&cluster.bundle, at(1000)));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_end_in_a_loop() {
        let mut cluster = Cluster::new();
        cluster.settle(at(0));
        let steps = cluster.settle(at(-100));
        assert!(steps.contains(&Step::NewAuthority), "{steps:?}");
        assert!(cluster.trusts(&cluster.bundle, at(-100)));
    }
}
