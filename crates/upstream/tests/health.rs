//! Pods whose requests or health checks fail are left alone, in time, and never too many of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use support::{Fake, HEADLESS, discovery, pass, settings};
use whichpod_upstream::{
    Balance, Endpoint, Health, Outcome, OutlierRules, Settings, SlowStart, Upstream, hash,
};

const RULES: OutlierRules = OutlierRules {
    consecutive_5xx: 5,
    consecutive_gateway_failure: 0,
    consecutive_slow: 0,
    slow: Duration::from_secs(1),
    base_ejection_time: Duration::from_secs(30),
    max_ejection_time: Duration::from_secs(300),
    max_ejection_percent: 50,
    interval: Duration::from_secs(10),
};

const IPS: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];

/// An upstream with four pods, or with those that the fake has.
async fn of_four(health: Health, change: impl FnOnce(Settings) -> Settings) -> (Fake, Arc<Upstream>) {
    let fake = Fake::new();
    fake.pods(HEADLESS, 1, &IPS);
    let upstream = discovery(&fake).add(change(Settings { health, ..settings("web:80") }));
    upstream.until_settled().await;
    (fake, upstream)
}

fn ejecting() -> Health {
    Health { outlier: Some(RULES), ..Health::default() }
}

fn pods(upstream: &Upstream) -> Vec<Arc<Endpoint>> {
    upstream.snapshot().endpoints().to_vec()
}

fn fails(upstream: &Upstream, pod: &Endpoint, times: u32) {
    for _ in 0..times {
        upstream.observe(pod, Outcome::Status(500), Duration::from_millis(1));
    }
}

/// The last numbers of the addresses that so many requests go to.
async fn used(upstream: &Upstream, requests: usize) -> HashMap<u8, usize> {
    let mut counts = HashMap::new();
    for _ in 0..requests {
        let std::net::IpAddr::V4(ip) = upstream.choose(&[]).await.unwrap().endpoint.address().ip() else {
            continue;
        };
        *counts.entry(ip.octets()[3]).or_default() += 1;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fails_five_times_in_a_row_is_left_alone_for_half_a_minute() {
    let (_fake, upstream) = of_four(ejecting(), |settings| settings).await;
    let bad = &pods(&upstream)[0];
    fails(&upstream, bad, 4);
    upstream.observe(bad, Outcome::Status(200), Duration::ZERO);
    fails(&upstream, bad, 4);
    assert!(!bad.is_ejected());
    fails(&upstream, bad, 1);
    assert!(bad.is_ejected());
    assert_eq!(
        used(&upstream, 30).await,
        HashMap::from([(2, 10), (3, 10), (4, 10)]),
        "the others share evenly"
    );
    pass(29.9).await;
    assert!(bad.is_ejected());
    pass(0.2).await;
    assert!(!bad.is_ejected());
    assert_eq!(used(&upstream, 40).await[&1], 10);
    assert_eq!(upstream.health_stats().ejections.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fails_again_and_again_is_left_alone_longer_and_forgiven_in_time() {
    let (_fake, upstream) = of_four(ejecting(), |settings| settings).await;
    let bad = &pods(&upstream)[0];
    let ejected_for = async || {
        fails(&upstream, bad, 5);
        let since = tokio::time::Instant::now();
        while bad.is_ejected() {
            pass(0.5).await;
        }
        since.elapsed().as_secs_f64().floor()
    };
    assert_eq!((ejected_for().await, ejected_for().await, ejected_for().await), (30.0, 60.0, 90.0));
    pass(1_000.0).await;
    assert!((29.0..=31.0).contains(&ejected_for().await), "it behaved: all is forgiven");
}

#[tokio::test(start_paused = true)]
async fn never_more_than_half_of_the_pods_are_ejected_unless_told() {
    let (_fake, upstream) = of_four(ejecting(), |settings| settings).await;
    let all = pods(&upstream);
    for pod in &all {
        fails(&upstream, pod, 50);
    }
    assert_eq!(all.iter().filter(|pod| pod.is_ejected()).count(), 2);
    assert!(upstream.health_stats().ejections_denied.load(Relaxed) >= 2);
    assert_eq!(used(&upstream, 20).await, HashMap::from([(3, 10), (4, 10)]));
    pass(31.0).await;
    fails(&upstream, &all[3], 5);
    assert!(all[3].is_ejected(), "there is room again");

    let rules = OutlierRules { max_ejection_percent: 100, ..RULES };
    let health = Health { outlier: Some(rules), panic_threshold: 0, ..Health::default() };
    let (_fake, upstream) = of_four(health, |settings| settings).await;
    let all = pods(&upstream);
    all.iter().for_each(|pod| fails(&upstream, pod, 5));
    assert!(all.iter().all(|pod| pod.is_ejected()));
    assert!(upstream.choose(&[]).await.is_ok(), "if there is nobody else, somebody is asked all the same");
}

#[tokio::test(start_paused = true)]
async fn half_of_one_pod_is_none() {
    let fake = Fake::new();
    let upstream = discovery(&fake).add(Settings { health: ejecting(), ..settings("10.0.0.1:80") });
    let only = &pods(&upstream)[0];
    fails(&upstream, only, 50);
    assert!(!only.is_ejected());
}

#[tokio::test(start_paused = true)]
async fn exactly_half_are_ejected_when_all_workers_see_failures_at_once() {
    let (_fake, upstream) = of_four(ejecting(), |settings| settings).await;
    let all = pods(&upstream);
    std::thread::scope(|scope| {
        for pod in &all {
            for _ in 0..3 {
                scope.spawn(|| fails(&upstream, pod, 100));
            }
        }
    });
    assert_eq!(all.iter().filter(|pod| pod.is_ejected()).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn pods_aside_for_failed_connects_do_not_count_as_ejected() {
    let (_fake, upstream) = of_four(ejecting(), |settings| settings).await;
    let all = pods(&upstream);
    upstream.connect_failed(&all[0]);
    upstream.connect_failed(&all[1]);
    fails(&upstream, &all[2], 5);
    assert!(all[2].is_ejected());
    assert_eq!(used(&upstream, 10).await, HashMap::from([(4, 10)]));
}

#[tokio::test(start_paused = true)]
async fn an_ejected_pod_that_leaves_makes_room_for_another() {
    let (fake, upstream) = of_four(ejecting(), |settings| settings).await;
    let all = pods(&upstream);
    fails(&upstream, &all[0], 5);
    fails(&upstream, &all[1], 5);
    fake.pods(HEADLESS, 1, &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    pass(2.0).await;
    fails(&upstream, &all[2], 5);
    assert!(all[2].is_ejected(), "one of four is ejected, so that a second may be");
    fails(&upstream, &all[3], 5);
    assert!(!all[3].is_ejected());
}

#[tokio::test(start_paused = true)]
async fn pods_that_fail_their_checks_are_left_alone_until_they_are_too_many() {
    let (_fake, upstream) = of_four(Health { checked: true, ..Health::default() }, |settings| settings).await;
    let all = pods(&upstream);
    assert!(upstream.checked(&all[0], false) && !upstream.checked(&all[0], false), "news only once");
    upstream.checked(&all[1], false);
    assert_eq!(used(&upstream, 20).await, HashMap::from([(3, 10), (4, 10)]), "half is no panic yet");
    upstream.checked(&all[2], false);
    assert_eq!(used(&upstream, 20).await.len(), 4, "a quarter would break down: all are used");
    assert!(upstream.health_stats().panics.load(Relaxed));
    upstream.checked(&all[2], true);
    assert_eq!(used(&upstream, 20).await.len(), 2);
    assert_eq!(upstream.health_stats().panics_total.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_shrinks_to_its_sick_pods_is_used_whole() {
    let (fake, upstream) = of_four(Health { checked: true, ..Health::default() }, |settings| settings).await;
    let all = pods(&upstream);
    upstream.checked(&all[0], false);
    upstream.checked(&all[1], false);
    fake.pods(HEADLESS, 1, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    pass(2.0).await;
    assert_eq!(used(&upstream, 30).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn pods_that_join_warm_up_and_those_of_the_start_do_not() {
    let slow_start = SlowStart { window: Duration::from_secs(100), aggression: 1.0, min_weight: 0.1 };
    let (fake, upstream) =
        of_four(Health::default(), |settings| Settings { slow_start: Some(slow_start), ..settings }).await;
    let shares = used(&upstream, 40).await;
    assert_eq!(shares, HashMap::from([(1, 10), (2, 10), (3, 10), (4, 10)]), "exact: nobody is new");
    fake.pods(HEADLESS, 1, &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9"]);
    pass(5.0).await;
    let share = |shares: &HashMap<u8, usize>| shares.get(&9).copied().unwrap_or(0);
    let first = share(&used(&upstream, 4_000).await);
    assert!((40..200).contains(&first), "a tenth of a share of 1000: {first}");
    pass(50.0).await;
    let later = share(&used(&upstream, 4_000).await);
    assert!((420..720).contains(&later), "half of a share: {later}");
    pass(60.0).await;
    assert_eq!(share(&used(&upstream, 4_000).await), 1_000, "exact again");
}

#[tokio::test(start_paused = true)]
async fn a_user_stays_with_a_pod_while_others_come_and_go() {
    let (fake, upstream) =
        of_four(Health::default(), |settings| Settings { balance: Balance::Maglev, ..settings }).await;
    let home = async |user: u32| {
        let choice = upstream.choose_for(&[], Some(hash(&user.to_be_bytes()))).await.unwrap();
        choice.endpoint.address()
    };
    let mut before = Vec::new();
    for user in 0..400 {
        before.push(home(user).await);
        assert_eq!(home(user).await, before[before.len() - 1]);
    }
    fake.pods(HEADLESS, 1, &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    pass(2.0).await;
    let (mut moved, mut to_new) = (0, 0);
    for (user, before) in (0..400).zip(&before) {
        let now = home(user).await;
        to_new += u32::from(now.ip().to_string() == "10.0.0.5");
        moved += u32::from(now != *before && now.ip().to_string() != "10.0.0.5");
    }
    assert!(
        moved < 40 && (40..130).contains(&to_new),
        "{moved} moved between old pods, {to_new} to the new one"
    );
    let without_key = used(&upstream, 500).await;
    assert_eq!(without_key.len(), 5, "a request without a key goes anywhere");
}

#[tokio::test(start_paused = true)]
async fn ewma_learns_from_what_it_is_told() {
    let (_fake, upstream) =
        of_four(Health::default(), |settings| Settings { balance: Balance::Ewma, ..settings }).await;
    for (pod, millis) in pods(&upstream).iter().zip([500, 5, 5, 5]) {
        upstream.observe(pod, Outcome::Status(200), Duration::from_millis(millis));
    }
    let shares = used(&upstream, 1_000).await;
    assert!(shares.get(&1).copied().unwrap_or(0) < 50, "{shares:?}");
    let failing = &pods(&upstream)[0];
    upstream.observe(failing, Outcome::Status(503), Duration::ZERO);
    assert!(used(&upstream, 1_000).await.get(&1).copied().unwrap_or(0) < 50, "quick to fail is not quick");
}
