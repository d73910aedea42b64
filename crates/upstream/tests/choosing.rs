//! What a request gets, and how long it waits for it. The clock is paused.

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use support::*;
use whichpod_upstream::{Balance, Kind, NoEndpoint, Options, SetState, Settings, Upstream};

const ZERO: Duration = Duration::ZERO;

fn late(seconds: u64, says: Says) -> Says {
    Says::Late(Duration::from_secs(seconds), Box::new(says))
}

#[tokio::test(start_paused = true)]
async fn requests_go_to_all_pods_in_turn() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 30, &["10.0.0.2", "10.0.0.1", "10.0.0.3"]);
    let upstream = upstream(&fake, "web:80").await;
    assert_eq!(listed(&upstream), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    let mut seen = Vec::new();
    for _ in 0..6 {
        let choice = upstream.choose(&[]).await.unwrap();
        assert_eq!((choice.endpoints, choice.pod, choice.virtual_ip), (3, None, false));
        seen.push(choice.endpoint.address());
    }
    assert_eq!(seen[..3], seen[3..]);
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn all_workers_share_one_exact_turn() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 3600, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let upstream = upstream(&fake, "web:80").await;
    let count = |upstream: &Arc<Upstream>| {
        let upstream = Arc::clone(upstream);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let mut counts = [0_u32; 3];
                for _ in 0..1_001 {
                    let std::net::IpAddr::V4(ip) =
                        upstream.choose(&[]).await.unwrap().endpoint.address().ip()
                    else {
                        panic!("no IPv4 address")
                    };
                    counts[usize::from(ip.octets()[3]) - 1] += 1;
                }
                counts
            })
        })
    };
    let workers: Vec<_> = (0..4).map(|_| count(&upstream)).collect();
    let mut total = [0; 3];
    for worker in workers {
        let counts = worker.join().unwrap();
        total.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    assert!(total.iter().max().unwrap() - total.iter().min().unwrap() <= 1, "{total:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_before_the_first_answer_waits_for_it() {
    let fake = Fake::new();
    fake.set(HEADLESS, Kind::A, late(2, addresses(HEADLESS, 30, &["10.0.0.1"])));
    let upstream = discovery(&fake).add(settings("web:80"));
    let (choice, waited) = timed(&upstream).await;
    assert!(choice.is_ok());
    assert_eq!(waited, Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_five_seconds_at_most_while_dns_is_silent() {
    let fake = Fake::new();
    fake.set(HEADLESS, Kind::A, Says::Hangs);
    let upstream = discovery(&fake).add(settings("web:80"));
    let (choice, waited) = timed(&upstream).await;
    assert_eq!(choice.unwrap_err(), NoEndpoint::DnsFailed);
    assert_eq!(waited, Duration::from_secs(5));
    pass(10.0).await;
    assert_eq!(upstream.snapshot().state(), SetState::Failed);
    let (choice, waited) = timed(&upstream).await;
    assert_eq!(
        (choice.unwrap_err(), waited),
        (NoEndpoint::DnsFailed, ZERO),
        "decided: nobody waits any more"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_while_dns_was_neither_answered_nor_failed_twice() {
    let fake = Fake::new();
    fake.set(HEADLESS, Kind::A, Says::Hangs);
    let upstream = discovery(&fake).add(settings("web:80"));
    pass(4.5).await;
    fake.set(HEADLESS, Kind::A, late(2, addresses(HEADLESS, 30, &["10.0.0.1"])));
    pass(1.0).await;
    let task = tokio::spawn(async move { timed(&upstream).await });
    let (choice, waited) = task.await.unwrap();
    assert!(choice.is_ok(), "the first question failed, the second is under way");
    assert!(waited > Duration::from_secs(1) && waited < Duration::from_secs(2), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_turns_up_in_the_first_seconds_is_waited_for() {
    let fake = Fake::new();
    let upstream = upstream(&fake, "web:80").await;
    let later = fake.clone();
    tokio::spawn(async move {
        pass(2.0).await;
        later.pods(HEADLESS, 30, &["10.0.0.1"]);
    });
    let (choice, waited) = timed(&upstream).await;
    assert!(choice.is_ok());
    assert!(waited > Duration::from_secs(2) && waited < Duration::from_secs(4), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_exist_is_waited_for_once() {
    let fake = Fake::new();
    let upstream = discovery(&fake).add(settings("web:80"));
    let (choice, waited) = timed(&upstream).await;
    assert_eq!((choice.unwrap_err(), waited), (NoEndpoint::Empty, Duration::from_secs(5)));
    for _ in 0..3 {
        let (choice, waited) = timed(&upstream).await;
        assert_eq!((choice.unwrap_err(), waited), (NoEndpoint::Empty, ZERO));
        pass(7.0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_set_that_became_empty_is_answered_at_once() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 1, &["10.0.0.1"]);
    let upstream = upstream(&fake, "web:80").await;
    let endpoint = upstream.choose(&[]).await.unwrap().endpoint;
    fake.remove(HEADLESS);
    pass(4.0).await;
    assert!(upstream.choose(&[]).await.is_ok(), "not before the hold time is over");
    pass(4.0).await;
    let (choice, waited) = timed(&upstream).await;
    assert_eq!((choice.unwrap_err(), waited), (NoEndpoint::Empty, ZERO));
    assert!(endpoint.is_gone());
    fake.pods(HEADLESS, 1, &["10.0.0.1"]);
    pass(5.1).await;
    let again = upstream.choose(&[]).await.unwrap().endpoint;
    assert_ne!(again.id(), endpoint.id(), "a pod that came back is a new one");
}

#[tokio::test(start_paused = true)]
async fn what_was_tried_is_not_chosen() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 30, &["10.0.0.1", "10.0.0.2"]);
    let upstream = upstream(&fake, "web:80").await;
    let first = upstream.choose(&[]).await.unwrap().endpoint.id();
    let second = upstream.choose(&[first]).await.unwrap().endpoint.id();
    assert_ne!(first, second);
    let (choice, waited) = timed(&upstream).await;
    assert!(choice.is_ok() && waited == ZERO);
    assert_eq!(upstream.choose(&[first, second]).await.unwrap_err(), NoEndpoint::AllTried);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_refuses_connections_is_avoided_until_it_takes_one() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 3600, &["10.0.0.1", "10.0.0.2"]);
    let upstream = upstream(&fake, "web:80").await;
    let bad = upstream.choose(&[]).await.unwrap().endpoint;
    upstream.connect_failed(&bad);
    assert!(upstream.aside(&bad));
    for _ in 0..10 {
        assert_ne!(upstream.choose(&[]).await.unwrap().endpoint.id(), bad.id());
    }
    pass(1.1).await;
    let mut trials = 0;
    for _ in 0..10 {
        trials += u32::from(upstream.choose(&[]).await.unwrap().endpoint.id() == bad.id());
    }
    assert_eq!(trials, 1);
    upstream.connected(&bad);
    assert!(!upstream.aside(&bad));
    let mut used = 0;
    for _ in 0..10 {
        used += u32::from(upstream.choose(&[]).await.unwrap().endpoint.id() == bad.id());
    }
    assert_eq!(used, 5);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_printed_within_its_ttl_only() {
    let fake = Fake::new();
    let web_0 = format!("web-0.{HEADLESS}");
    let name = format!("_http._tcp.{HEADLESS}");
    fake.set(&name, Kind::Srv, services(&name, 10, &[(&web_0, 8080, Some("10.0.0.1"))]));
    let upstream = upstream(&fake, "web:http").await;
    let choice = upstream.choose(&[]).await.unwrap();
    assert_eq!((choice.pod.as_deref(), choice.dns_age), (Some("web-0"), ZERO));
    assert_eq!(choice.endpoint.address().to_string(), "10.0.0.1:8080");
    fake.down(true);
    pass(10.0).await;
    let choice = upstream.choose(&[]).await.unwrap();
    assert_eq!((choice.pod.as_deref(), choice.dns_age), (Some("web-0"), Duration::from_secs(10)));
    pass(0.1).await;
    let choice = upstream.choose(&[]).await.unwrap();
    assert_eq!(choice.pod, None, "the address may be another pod's by now");
    assert_eq!(
        choice.endpoint.identity().map(|name| &**name),
        Some("web-0"),
        "but it is the same connection pool"
    );
    fake.down(false);
    pass(5.0).await;
    assert_eq!(upstream.choose(&[]).await.unwrap().pod.as_deref(), Some("web-0"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_a_lazy_upstream_before_its_first_request() {
    let fake = Fake::new();
    fake.set(HEADLESS, Kind::A, late(1, addresses(HEADLESS, 30, &["10.0.0.1"])));
    let upstream = discovery(&fake).add(Settings { lazy: true, ..settings("web:80") });
    pass(1_000.0).await;
    assert_eq!(fake.asked(), Vec::<String>::new());
    assert!(!upstream.settled());
    let (first, second) = tokio::join!(timed(&upstream), timed(&upstream));
    assert!(first.0.is_ok() && second.0.is_ok());
    assert_eq!((first.1, second.1), (Duration::from_secs(1), Duration::from_secs(1)));
    assert_eq!(fake.asked()[0], format!("A {HEADLESS}"));
}

#[tokio::test(start_paused = true)]
async fn a_lazy_upstream_waits_five_seconds_for_its_first_pod() {
    let fake = Fake::new();
    let upstream = discovery(&fake).add(Settings { lazy: true, ..settings("web:80") });
    pass(100.0).await;
    let (choice, waited) = timed(&upstream).await;
    assert_eq!((choice.unwrap_err(), waited), (NoEndpoint::Empty, Duration::from_secs(5)));
}

#[tokio::test(start_paused = true)]
async fn an_unused_upstream_is_not_refreshed_and_the_next_request_gets_a_new_answer() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.0.0.1"]);
    let upstream = upstream(&fake, "web:80").await;
    pass(310.0).await;
    assert!(fake.asked().len() > 50, "refreshed while it might be used");
    pass(3_600.0).await;
    assert_eq!(fake.asked(), Vec::<String>::new());
    fake.set(
        HEADLESS,
        Kind::A,
        Says::Late(Duration::from_millis(300), Box::new(addresses(HEADLESS, 5, &["10.0.0.2"]))),
    );
    let (first, second) = tokio::join!(timed(&upstream), timed(&upstream));
    for (choice, waited) in [first, second] {
        assert_eq!(choice.unwrap().endpoint.address().to_string(), "10.0.0.2:80");
        assert_eq!(waited, Duration::from_millis(300));
    }
    pass(30.0).await;
    assert!(fake.asked().len() >= 6, "and it is refreshed again");
}

#[tokio::test(start_paused = true)]
async fn after_a_long_rest_a_silent_dns_costs_one_second_once() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.0.0.1"]);
    let upstream = upstream(&fake, "web:80").await;
    pass(1_000.0).await;
    fake.set(HEADLESS, Kind::A, Says::Hangs);
    let (choice, waited) = timed(&upstream).await;
    assert_eq!(choice.unwrap().endpoint.address().to_string(), "10.0.0.1:80", "the last set");
    assert_eq!(waited, Duration::from_secs(1));
    assert_eq!(timed(&upstream).await.1, ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_in_use_is_refreshed_for_ever() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 30, &["10.0.0.1"]);
    let upstream = upstream(&fake, "web:80").await;
    for _ in 0..20 {
        pass(100.0).await;
        assert_eq!(timed(&upstream).await.1, ZERO);
        assert!(fake.asked().len() >= 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_literal_address_is_there_at_once_and_never_asked_about() {
    let fake = Fake::new();
    let upstream = discovery(&fake).add(Settings { lazy: true, ..settings("127.0.0.1:80") });
    assert!(upstream.settled());
    assert_eq!(upstream.snapshot().state(), SetState::Ready);
    pass(100_000.0).await;
    let (choice, waited) = timed(&upstream).await;
    let choice = choice.unwrap();
    assert_eq!((choice.endpoint.address().to_string().as_str(), waited), ("127.0.0.1:80", ZERO));
    assert_eq!((choice.dns_age, choice.endpoints), (ZERO, 1));
    upstream.connect_failed(&choice.endpoint);
    assert!(upstream.choose(&[]).await.is_ok(), "the only pod is used even if it is aside");
    assert_eq!(fake.asked(), Vec::<String>::new());
}

#[test]
fn a_literal_address_needs_no_runtime() {
    let upstream = discovery(&Fake::new()).add(settings("10.0.0.1:80"));
    assert_eq!(listed(&upstream), ["10.0.0.1:80"]);
}

#[tokio::test(start_paused = true)]
async fn a_literal_address_with_a_named_port_says_what_is_wrong() {
    let upstream = upstream(&Fake::new(), "10.0.0.1:http").await;
    assert!(upstream.snapshot().last_error().unwrap().contains("write a number"));
    pass(5.0).await;
    assert_eq!(upstream.choose(&[]).await.unwrap_err(), NoEndpoint::DnsFailed);
}

#[tokio::test(start_paused = true)]
async fn least_request_avoids_the_busy_pod() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 3600, &["10.0.0.1", "10.0.0.2"]);
    let upstream = discovery(&fake).add(Settings { balance: Balance::LeastRequest, ..settings("web:80") });
    let busy = upstream.choose(&[]).await.unwrap().endpoint;
    busy.counts().requests_active.store(100, std::sync::atomic::Ordering::Relaxed);
    let mut to_busy = 0;
    for _ in 0..200 {
        to_busy += u32::from(upstream.choose(&[]).await.unwrap().endpoint.id() == busy.id());
    }
    assert!(to_busy < 20, "{to_busy}");
}

#[tokio::test(start_paused = true)]
async fn the_start_is_never_held_up_for_more_than_ten_seconds() {
    let start = tokio::time::Instant::now();
    let fake = Fake::new();
    for name in [HEADLESS, "web-vip.shop.svc.cluster.local"] {
        fake.set(name, Kind::A, Says::Hangs);
    }
    let discovery = whichpod_upstream::Discovery::new(Arc::new(fake), Options { ..options() });
    let plain = discovery.add(settings("web:80"));
    let both = discovery.add(Settings { fallback: Some(target("web-vip:80")), ..settings("web:80") });
    tokio::join!(plain.until_settled(), both.until_settled());
    assert!(start.elapsed() <= Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(plain.settled() && both.settled());
}
