//! Each timing rule, without a clock.

use std::collections::HashSet;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn rules() -> Rules {
    Rules::new(secs(1), secs(30), secs(5))
}

fn pods(last: &[u8], ttl: u64) -> Outcome {
    let found = last
        .iter()
        .map(|last| Found { address: SocketAddr::from(([10, 0, 0, *last], 80)), identity: None })
        .collect();
    Outcome::Pods(Pods { found, ttl: secs(ttl), asked: Some("a".into()), refused: Vec::new() })
}

fn absent() -> Outcome {
    Outcome::Absent("a does not exist".into())
}

fn failed() -> Outcome {
    Outcome::Failed("SERVFAIL".into())
}

/// A refresh with a clock of its own, always with the longest jitter.
struct Play {
    refresh: Refresh,
    start: Instant,
    now: Instant,
}

impl Play {
    fn new(fallback: bool) -> Self {
        let start = Instant::now();
        Self { refresh: Refresh::new(rules(), fallback, start), start, now: start }
    }

    fn at(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    /// Goes on to the next question and answers it; which name, and when it was.
    fn next(&mut self, outcome: impl FnOnce(Source) -> Outcome) -> (Source, f64) {
        let (source, due) = self.refresh.next().expect("something is always due");
        self.now = self.now.max(due);
        self.refresh.begin(self.now, 1.0);
        self.refresh.finish(source, outcome(source), self.now, 1.0);
        (source, self.at())
    }

    /// The times of the next `n` questions about the target, each answered with `outcome`.
    fn times(&mut self, n: usize, outcome: impl Fn() -> Outcome) -> Vec<f64> {
        (0..n).map(|_| self.next(|_| outcome()).1).collect()
    }

    fn addresses(&self) -> Vec<String> {
        let pods = self.refresh.view().pods;
        pods.map_or_else(Vec::new, |(pods, _)| {
            pods.found.iter().map(|found| found.address.to_string()).collect()
        })
    }

    fn state(&self) -> SetState {
        self.refresh.view().state
    }
}

#[test]
fn a_name_is_asked_again_when_its_ttl_ends_and_never_later() {
    for ttl in [5, 10, 30] {
        assert_eq!(rules().after_pods(secs(ttl), 0.0), secs(ttl).mul_f64(0.8));
        assert_eq!(rules().after_pods(secs(ttl), 1.0), secs(ttl));
    }
}

#[test]
fn a_ttl_of_zero_does_not_flood_the_dns() {
    assert_eq!(rules().after_pods(secs(0), 0.0), secs(1).mul_f64(0.8));
    assert_eq!(rules().after_pods(secs(0), 1.0), secs(1));
    let careless = Rules::new(secs(0), secs(0), secs(0));
    assert!(careless.after_pods(secs(0), 0.0) >= Duration::from_millis(80));
}

#[test]
fn a_long_ttl_is_asked_again_around_the_cap_but_within_the_ttl() {
    assert_eq!(rules().after_pods(secs(3600), 0.0), secs(24));
    assert_eq!(rules().after_pods(secs(3600), 1.0), secs(36));
    assert_eq!(rules().after_pods(secs(31), 1.0), secs(31), "no name is printed past its TTL");
}

#[test]
fn names_hold_for_the_ttl_and_at_least_the_floor() {
    assert_eq!(rules().names_hold(secs(0)), secs(1));
    assert_eq!(rules().names_hold(secs(3600)), secs(3600));
}

#[test]
fn the_largest_settings_do_not_overflow() {
    let rules = Rules::new(Duration::MAX, Duration::MAX, Duration::MAX);
    let mut refresh = Refresh::new(rules, true, Instant::now());
    for outcome in [pods(&[1], u64::from(u32::MAX)), absent(), failed()] {
        refresh.finish(Source::Target, outcome, Instant::now(), 1.0);
        assert!(refresh.next().is_some());
    }
}

#[test]
fn a_failed_refresh_keeps_the_pods_and_is_tried_again_after_1_to_5_s() {
    let mut play = Play::new(false);
    play.next(|_| pods(&[1, 2], 10));
    assert_eq!(play.times(6, failed), [10.0, 11.0, 13.0, 17.0, 22.0, 27.0]);
    assert_eq!(play.addresses().len(), 2);
    assert_eq!(play.state(), SetState::Ready);
    assert_eq!(play.refresh.view().last_error.as_deref(), Some("SERVFAIL"));
    play.next(|_| pods(&[1], 10));
    assert_eq!(play.refresh.view().last_error, None);
}

#[test]
fn dns_down_for_ten_minutes_loses_no_pod() {
    let mut play = Play::new(false);
    play.next(|_| pods(&[1, 2], 5));
    while play.at() < 600.0 {
        play.next(|_| failed());
    }
    assert_eq!(play.addresses().len(), 2);
}

#[test]
fn an_absence_must_last_for_the_hold_time_before_the_set_is_empty() {
    let mut play = Play::new(false);
    play.next(|_| pods(&[1], 10));
    for expected in [10.0, 11.0, 13.0] {
        assert_eq!(play.next(|_| absent()).1, expected);
        assert_eq!(play.state(), SetState::Ready, "at {expected}");
        assert_eq!(play.addresses().len(), 1);
    }
    assert_eq!(play.next(|_| absent()).1, 15.0, "asked exactly when the hold time ends");
    assert_eq!(play.state(), SetState::Empty);
    assert!(play.addresses().is_empty());
    assert_eq!(play.times(2, absent), [20.0, 25.0]);
}

#[test]
fn a_short_absence_is_forgotten() {
    let mut play = Play::new(false);
    play.next(|_| pods(&[1], 10));
    play.times(3, absent);
    play.next(|_| pods(&[1], 1));
    play.times(3, absent);
    assert_eq!(play.state(), SetState::Ready, "the hold time began again");
}

#[test]
fn a_failure_within_an_absence_starts_the_hold_time_again() {
    let mut play = Play::new(false);
    play.next(|_| pods(&[1], 10));
    play.times(3, absent);
    play.next(|_| failed());
    play.next(|_| absent());
    assert_eq!(play.state(), SetState::Ready);
}

#[test]
fn a_name_that_never_existed_is_asked_each_second_at_first_and_empty_after_the_hold_time() {
    let mut play = Play::new(false);
    assert_eq!(play.times(3, absent), [0.0, 1.0, 3.0]);
    assert_eq!(play.state(), SetState::Pending);
    assert!(play.refresh.view().absent);
    assert!(play.refresh.view().settled, "it was answered");
    assert_eq!(play.times(3, absent), [5.0, 10.0, 15.0]);
    assert_eq!(play.state(), SetState::Empty);
}

#[test]
fn an_empty_set_stays_empty_while_dns_fails_and_ready_comes_with_pods() {
    let mut play = Play::new(false);
    play.times(4, absent);
    play.times(3, failed);
    assert_eq!(play.state(), SetState::Empty);
    play.next(|_| pods(&[1], 10));
    assert_eq!(play.state(), SetState::Ready);
}

#[test]
fn two_failures_in_a_row_are_a_verdict() {
    let mut play = Play::new(false);
    assert_eq!(play.state(), SetState::Pending);
    play.next(|_| failed());
    assert_eq!((play.state(), play.refresh.view().settled), (SetState::Pending, false));
    play.next(|_| failed());
    assert_eq!((play.state(), play.refresh.view().settled), (SetState::Failed, true));
}

#[test]
fn waits_are_spread_but_never_longer_than_they_should_be() {
    assert_eq!(back_off(1, 0.0), secs(1).mul_f64(0.8));
    assert_eq!(back_off(1, 1.0), secs(1));
    assert_eq!(back_off(3, 1.0), secs(4));
    assert_eq!(back_off(u32::MAX, 1.0), secs(5));
}

#[test]
fn a_connect_failure_asks_dns_at_once() {
    let mut play = Play::new(false);
    play.next(|_| pods(&[1], 30));
    play.now += secs(3);
    play.refresh.connect_failed(play.now);
    assert_eq!(play.next(|_| pods(&[2], 30)).1, 3.0);
    assert_eq!(play.next(|_| pods(&[2], 30)).1, 33.0, "and then as usual");
}

#[test]
fn connects_that_go_on_failing_ask_dns_ever_less_often() {
    let mut play = Play::new(false);
    play.next(|_| pods(&[1], 30));
    play.now += secs(1);
    let mut times = Vec::new();
    for _ in 0..7 {
        play.refresh.connect_failed(play.now);
        times.push(play.next(|_| pods(&[1], 30)).1);
        for _ in 0..100 {
            play.refresh.connect_failed(play.now);
        }
    }
    assert_eq!(times, [1.0, 2.0, 4.0, 8.0, 13.0, 18.0, 23.0]);
}

#[test]
fn a_new_storm_of_connect_failures_asks_at_once_again() {
    let mut play = Play::new(false);
    play.next(|_| pods(&[1], 3600));
    for _ in 0..4 {
        play.refresh.connect_failed(play.now);
        play.next(|_| pods(&[1], 3600));
    }
    play.now += secs(11);
    let before = play.at();
    play.refresh.connect_failed(play.now);
    assert_eq!(play.next(|_| pods(&[1], 3600)).1, before);
    play.refresh.connect_failed(play.now);
    assert_eq!(play.next(|_| pods(&[1], 3600)).1, before + 1.0, "and its waits grow from the shortest again");
}

#[test]
fn the_fallback_is_used_at_once_when_the_target_does_not_exist() {
    let mut play = Play::new(true);
    assert_eq!(play.next(|_| absent()), (Source::Target, 0.0));
    assert_eq!((play.state(), play.refresh.view().settled), (SetState::Pending, false));
    assert_eq!(play.next(|_| pods(&[9], 30)), (Source::Fallback, 0.0));
    let view = play.refresh.view();
    assert_eq!((view.state, view.source, view.settled), (SetState::Ready, Source::Fallback, true));
    assert_eq!(play.addresses(), ["10.0.0.9:80"]);
}

#[test]
fn the_fallback_is_used_when_the_target_cannot_be_asked() {
    let mut play = Play::new(true);
    play.next(|_| failed());
    play.next(|_| pods(&[9], 30));
    assert_eq!(play.refresh.view().source, Source::Fallback);
}

#[test]
fn the_target_wins_as_soon_as_it_has_pods() {
    let mut play = Play::new(true);
    play.next(|_| absent());
    play.next(|_| pods(&[9], 30));
    assert_eq!(play.next(|_| pods(&[1], 30)), (Source::Target, 1.0));
    assert_eq!(play.refresh.view().source, Source::Target);
    assert_eq!(play.addresses(), ["10.0.0.1:80"]);
    for _ in 0..5 {
        assert_eq!(play.next(|_| pods(&[1], 30)).0, Source::Target, "the fallback is not asked any more");
    }
}

#[test]
fn the_fallback_is_at_hand_when_the_target_turns_out_empty() {
    let mut play = Play::new(true);
    play.next(|_| pods(&[1], 10));
    let answer = |source| if source == Source::Target { absent() } else { pods(&[9], 30) };
    assert_eq!(play.next(answer), (Source::Target, 10.0));
    assert_eq!(play.next(answer), (Source::Fallback, 10.0));
    assert_eq!(play.addresses(), ["10.0.0.1:80"], "not before the hold time is over");
    while play.at() < 15.0 {
        play.next(answer);
    }
    assert_eq!(play.addresses(), ["10.0.0.9:80"]);
    assert_eq!(play.refresh.view().source, Source::Fallback);
}

#[test]
fn the_fallback_is_not_asked_while_the_target_only_fails() {
    let mut play = Play::new(true);
    play.next(|_| pods(&[1], 10));
    for _ in 0..5 {
        assert_eq!(play.next(|_| failed()).0, Source::Target);
    }
    assert_eq!(play.addresses(), ["10.0.0.1:80"]);
}

#[test]
fn neither_name_there_is_empty_and_dns_down_is_failed() {
    let mut play = Play::new(true);
    while play.at() < 5.0 {
        play.next(|_| absent());
    }
    assert_eq!((play.state(), play.refresh.view().settled), (SetState::Empty, true));

    let mut play = Play::new(true);
    play.next(|_| failed());
    assert!(!play.refresh.view().settled);
    play.next(|_| failed());
    assert!(play.refresh.view().settled, "DNS failed twice, whichever names it was asked for");
    play.times(2, failed);
    assert_eq!(play.state(), SetState::Failed);
}

#[test]
fn connect_failures_of_the_fallback_ask_for_the_fallback() {
    let mut play = Play::new(true);
    play.next(|_| absent());
    play.next(|_| pods(&[9], 30));
    play.refresh.connect_failed(play.now);
    assert_eq!(play.next(|_| pods(&[9], 30)), (Source::Fallback, 0.0));
}

#[test]
fn an_upstream_that_wakes_is_asked_at_once() {
    let mut play = Play::new(false);
    play.next(|_| pods(&[1], 30));
    play.refresh.wake(play.now + secs(7));
    assert_eq!(play.next(|_| pods(&[1], 30)).1, 7.0);
}

#[derive(Debug, Clone)]
enum Step {
    Pods(Vec<u8>, u64),
    Absent,
    Failed,
    ConnectFailed,
    Wake,
}

fn steps() -> impl Strategy<Value = Vec<(Step, f64)>> {
    let step = prop_oneof![
        (prop::collection::vec(0..6u8, 1..5), 0..100u64).prop_map(|(last, ttl)| Step::Pods(last, ttl)),
        Just(Step::Absent),
        Just(Step::Failed),
        Just(Step::ConnectFailed),
        Just(Step::Wake),
    ];
    prop::collection::vec((step, 0.0..1.0), 0..60)
}

proptest! {
    #[test]
    fn only_pods_of_an_answer_are_published_and_something_is_always_due(steps in steps(), fallback in any::<bool>()) {
        let mut now = Instant::now();
        let mut refresh = Refresh::new(rules(), fallback, now);
        let mut answered = HashSet::new();
        let mut last_good = false;
        for (step, random) in steps {
            let (source, due) = refresh.next().expect("something is always due");
            prop_assert!(due <= now + secs(36), "nothing is put off for longer than the cap and its jitter");
            let outcome = match step {
                Step::ConnectFailed => { refresh.connect_failed(now); continue }
                Step::Wake => { refresh.wake(now); continue }
                Step::Pods(last, ttl) => {
                    answered.extend(last.iter().copied());
                    pods(&last, ttl)
                }
                Step::Absent => absent(),
                Step::Failed => failed(),
            };
            now = now.max(due);
            refresh.begin(now, random);
            let fails = matches!(outcome, Outcome::Failed(_));
            refresh.finish(source, outcome, now, random);
            let view = refresh.view();
            let published = view.pods.as_ref().map(|(pods, _)| pods.found.clone()).unwrap_or_default();
            for found in &published {
                let last = match found.address { SocketAddr::V4(v4) => v4.ip().octets()[3], SocketAddr::V6(_) => 255 };
                prop_assert!(answered.contains(&last), "a pod that no answer named");
            }
            prop_assert_eq!(view.state == SetState::Ready, !published.is_empty());
            prop_assert!(!(fails && last_good && published.is_empty()), "a failure never takes pods away");
            prop_assert!(fallback || view.source == Source::Target);
            last_good = !published.is_empty();
        }
    }
}
