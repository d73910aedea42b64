//! What is asked, and what becomes of the answers. The clock is paused.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::*;
use whichpod_upstream::{Discovery, Family, Kind, Options, SetState, Settings, Source, Upstream};

async fn with(fake: &Fake, name: &str, options: Options) -> Arc<Upstream> {
    let upstream = Discovery::new(Arc::new(fake.clone()), options).add(settings(name));
    upstream.until_settled().await;
    upstream
}

#[tokio::test(start_paused = true)]
async fn pods_that_come_and_go_are_followed_within_the_ttl() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.0.0.1", "10.0.0.2"]);
    let upstream = upstream(&fake, "web:80").await;
    let mut generations = upstream.subscribe();
    let before = upstream.snapshot();
    fake.pods(HEADLESS, 5, &["10.0.0.2", "10.0.0.3"]);
    tokio::time::timeout(Duration::from_secs(5), generations.changed()).await.unwrap().unwrap();
    let after = upstream.snapshot();
    assert_eq!(listed(&upstream), ["10.0.0.2:80", "10.0.0.3:80"]);
    assert!(before.endpoints()[0].is_gone());
    assert!(!before.endpoints()[1].is_gone());
    assert_eq!(
        before.endpoints()[1].id(),
        after.endpoints()[0].id(),
        "who stays keeps connections and counts"
    );
    let generation = *generations.borrow_and_update();
    pass(60.0).await;
    assert_eq!(*generations.borrow(), generation, "an answer without a difference wakes no worker");
    assert!(upstream.snapshot().answered_at() > after.answered_at());
}

#[tokio::test(start_paused = true)]
async fn another_pod_at_the_same_address_is_another_endpoint() {
    let fake = Fake::new();
    let name = format!("_http._tcp.{HEADLESS}");
    let says = |pod: &str| services(&name, 5, &[(&format!("{pod}.{HEADLESS}"), 80, Some("10.0.0.1"))]);
    fake.set(&name, Kind::Srv, says("web-0"));
    let upstream = upstream(&fake, "web:http").await;
    let old = Arc::clone(&upstream.snapshot().endpoints()[0]);
    fake.set(&name, Kind::Srv, says("web-1"));
    pass(6.0).await;
    let new = upstream.choose(&[]).await.unwrap();
    assert!(old.is_gone());
    assert_ne!(old.id(), new.endpoint.id());
    assert_eq!(new.pod.as_deref(), Some("web-1"));
}

#[tokio::test(start_paused = true)]
async fn dns_down_for_ten_minutes_fails_no_request() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.0.0.1"]);
    let upstream = upstream(&fake, "web:80").await;
    fake.down(true);
    for _ in 0..600 {
        pass(1.0).await;
        assert!(upstream.choose(&[]).await.is_ok());
    }
    assert_eq!(upstream.snapshot().last_error(), Some("DNS server 10.96.0.10:53 answered with SERVFAIL"));
    assert_eq!(upstream.snapshot().state(), SetState::Ready);
    assert!(upstream.dns_stats().failures.load(Ordering::Relaxed) >= 120);
    fake.down(false);
    pass(5.0).await;
    assert_eq!(upstream.snapshot().last_error(), None);
}

#[tokio::test(start_paused = true)]
async fn failing_connects_do_not_flood_the_dns() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 3600, &["10.0.0.1", "10.0.0.2"]);
    let upstream = upstream(&fake, "web:80").await;
    fake.asked();
    let endpoint = Arc::clone(&upstream.snapshot().endpoints()[0]);
    for _ in 0..6_000 {
        upstream.connect_failed(&endpoint);
        pass(0.01).await;
    }
    let asked = fake.asked_at();
    assert!((12..=20).contains(&asked.len()), "{}", asked.len());
    let gaps: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] <= Duration::from_millis(1_010));
    assert!(gaps[4..].iter().all(|gap| *gap >= Duration::from_secs(4)), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_connect_has_dns_asked_at_once() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 3600, &["10.0.0.1"]);
    let upstream = upstream(&fake, "web:80").await;
    pass(3.0).await;
    fake.pods(HEADLESS, 3600, &["10.0.0.2"]);
    let mut changes = upstream.subscribe();
    upstream.connect_failed(&Arc::clone(&upstream.snapshot().endpoints()[0]));
    tokio::time::timeout(Duration::from_millis(10), changes.changed()).await.unwrap().unwrap();
    assert_eq!(listed(&upstream), ["10.0.0.2:80"]);
}

#[tokio::test(start_paused = true)]
async fn the_fallback_serves_at_once_while_the_target_does_not_exist_and_then_the_target_wins() {
    let fake = Fake::new();
    fake.pods("web-vip.shop.svc.cluster.local", 30, &["10.96.0.7"]);
    fake.pointer([10, 96, 0, 7], "web-vip.shop.svc.cluster.local");
    let settings = Settings { fallback: Some(target("web-vip:80")), ..settings("web:80") };
    let upstream = discovery(&fake).add(settings);
    let (choice, waited) = timed(&upstream).await;
    assert_eq!(choice.unwrap().endpoint.address().to_string(), "10.96.0.7:80");
    assert_eq!(waited, Duration::ZERO);
    pass(0.1).await;
    let choice = upstream.choose(&[]).await.unwrap();
    assert!(choice.virtual_ip, "the line must say that the pod cannot be known");
    assert_eq!(upstream.snapshot().source(), Source::Fallback);
    assert_eq!(upstream.dns_stats().fallbacks.load(Ordering::Relaxed), 1);

    fake.pods(HEADLESS, 30, &["10.0.0.1", "10.0.0.2"]);
    pass(5.1).await;
    let choice = upstream.choose(&[]).await.unwrap();
    assert!(!choice.virtual_ip);
    assert_eq!((upstream.snapshot().source(), choice.endpoints), (Source::Target, 2));
    fake.asked();
    pass(100.0).await;
    assert!(fake.asked().iter().all(|question| question.contains(HEADLESS)), "the fallback is asked no more");

    fake.remove(HEADLESS);
    for _ in 0..60 {
        pass(1.0).await;
        assert!(upstream.choose(&[]).await.is_ok(), "no gap between target and fallback");
    }
    assert_eq!(upstream.snapshot().source(), Source::Fallback);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_may_be_a_literal_address() {
    let upstream = discovery(&Fake::new())
        .add(Settings { fallback: Some(target("10.96.0.7:80")), ..settings("web:80") });
    assert!(upstream.choose(&[]).await.is_ok());
    assert_eq!(listed(&upstream), ["10.96.0.7:80"]);
}

#[tokio::test(start_paused = true)]
async fn the_trap_is_noticed_a_service_with_a_virtual_ip() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.96.0.7"]);
    fake.pointer([10, 96, 0, 7], HEADLESS);
    let upstream = upstream(&fake, "web:80").await;
    pass(0.1).await;
    assert!(upstream.choose(&[]).await.unwrap().virtual_ip);
    fake.asked();
    pass(60.0).await;
    assert!(!fake.asked().iter().any(|question| question.starts_with("PTR")), "asked once for an address");
    fake.pods(HEADLESS, 5, &["10.0.0.1", "10.0.0.2"]);
    pass(5.1).await;
    assert!(!upstream.snapshot().virtual_ip());
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_one_address_is_not_said_of_the_next() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.96.0.7"]);
    fake.pointer([10, 96, 0, 7], HEADLESS);
    let upstream = upstream(&fake, "web:80").await;
    pass(0.1).await;
    assert!(upstream.snapshot().virtual_ip());
    fake.set("1.0.0.10.in-addr.arpa", Kind::Ptr, Says::Fails);
    fake.pods(HEADLESS, 5, &["10.0.0.1"]);
    pass(5.1).await;
    assert_eq!(listed(&upstream), ["10.0.0.1:80"]);
    assert!(!upstream.snapshot().virtual_ip());
}

#[tokio::test(start_paused = true)]
async fn the_only_pod_of_a_headless_service_is_no_virtual_ip() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.0.0.1"]);
    fake.pointer([10, 0, 0, 1], &format!("10-0-0-1.{HEADLESS}"));
    let upstream = upstream(&fake, "web:80").await;
    pass(60.0).await;
    assert!(!upstream.snapshot().virtual_ip());
    assert_eq!(fake.asked().iter().filter(|question| question.starts_with("PTR")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reverse_zone_that_hangs_delays_nobody() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 1, &["10.0.0.1"]);
    fake.set("1.0.0.10.in-addr.arpa", Kind::Ptr, Says::Hangs);
    let upstream = discovery(&fake).add(settings("web:80"));
    assert_eq!(timed(&upstream).await.1, Duration::ZERO);
    fake.pods(HEADLESS, 1, &["10.0.0.1", "10.0.0.2"]);
    pass(1.1).await;
    assert_eq!(listed(&upstream).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_search_list_is_followed_once_and_again_when_the_name_is_gone() {
    let fake = Fake::new();
    let full = "web.prod.svc.cluster.local";
    fake.pods(full, 5, &["10.0.0.1"]);
    let upstream = upstream(&fake, "web.prod:80").await;
    assert_eq!(fake.asked()[..2], ["A web.prod.shop.svc.cluster.local".to_owned(), format!("A {full}")]);
    pass(30.0).await;
    assert!(
        fake.asked().iter().all(|question| *question == format!("A {full}") || question.starts_with("PTR"))
    );
    fake.remove(full);
    fake.pods("web.prod.corp.example", 5, &["192.0.2.1"]);
    pass(20.0).await;
    assert_eq!(listed(&upstream), ["192.0.2.1:80"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_search_list_is_noticed() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.0.0.1"]);
    fake.pods("web.prod.svc.cluster.local", 5, &["10.0.0.2"]);
    let upstream = upstream(&fake, "web:80").await;
    fake.conf(&POD_CONF.replace("shop", "prod"));
    pass(6.0).await;
    assert_eq!(listed(&upstream), ["10.0.0.2:80"]);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_name_that_cannot_be_asked_is_not_looked_for_elsewhere() {
    let fake = Fake::new();
    fake.set("web.dev.svc.cluster.local", Kind::A, Says::Fails);
    fake.pods("web.dev", 30, &["192.0.2.66"]);
    let upstream = upstream(&fake, "web.dev:80").await;
    pass(30.0).await;
    assert_eq!(listed(&upstream), Vec::<String>::new(), "a stranger of the same name gets no request");
    fake.pods("web.dev.svc.cluster.local", 30, &["10.0.0.1"]);
    pass(6.0).await;
    assert_eq!(listed(&upstream), ["10.0.0.1:80"]);
}

#[tokio::test(start_paused = true)]
async fn a_broken_search_domain_outside_the_cluster_is_passed_over() {
    let fake = Fake::new();
    fake.set("api.example.com.corp.example", Kind::A, Says::Fails);
    fake.pods("api.example.com", 30, &["192.0.2.1"]);
    let upstream = upstream(&fake, "api.example.com:443").await;
    assert_eq!(listed(&upstream), ["192.0.2.1:443"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_name_is_said_so() {
    let upstream = upstream(&Fake::new(), "a..b:80").await;
    assert_eq!(upstream.snapshot().last_error(), Some("a..b:80 is no DNS name"));
    assert_eq!(upstream.snapshot().state(), SetState::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_pod_with_both_kinds_of_address_counts_once() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 30, &["10.0.0.1"]);
    fake.set(HEADLESS, Kind::Aaaa, addresses(HEADLESS, 30, &["fd00::1"]));
    let v4 = upstream(&fake, "web:80").await;
    assert_eq!(listed(&v4), ["10.0.0.1:80"]);
    assert_eq!(fake.asked()[0], format!("A {HEADLESS}"));
    let v6 = with(&fake, "web:80", Options { family: Family::V6, ..options() }).await;
    assert_eq!(listed(&v6), ["[fd00::1]:80"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_with_only_the_other_kind_of_address_is_found() {
    let fake = Fake::new();
    fake.set(HEADLESS, Kind::Aaaa, addresses(HEADLESS, 30, &["fd00::1"]));
    assert_eq!(listed(&*upstream(&fake, "web:80").await), ["[fd00::1]:80"]);
    assert_eq!(fake.asked()[..2], [format!("A {HEADLESS}"), format!("AAAA {HEADLESS}")]);
    fake.remove(HEADLESS);
    upstream(&fake, "web:80").await;
    assert_eq!(
        fake.asked(),
        [format!("A {HEADLESS}")],
        "a name that does not exist has no address of any kind"
    );
}

#[tokio::test(start_paused = true)]
async fn loopback_answers_are_refused_and_the_pods_are_kept() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.0.0.1"]);
    let upstream = upstream(&fake, "web:80").await;
    fake.pods(HEADLESS, 5, &["127.0.0.1", "169.254.1.1"]);
    pass(30.0).await;
    assert_eq!(listed(&upstream), ["10.0.0.1:80"]);
    let error = upstream.snapshot().last_error().unwrap().to_owned();
    assert!(error.contains("127.0.0.1") && error.contains("allow_loopback"), "{error}");
    fake.pods(HEADLESS, 5, &["127.0.0.1", "10.0.0.2"]);
    pass(6.0).await;
    assert_eq!(listed(&upstream), ["10.0.0.2:80"]);
    assert!(upstream.dns_stats().refused.load(Ordering::Relaxed) > 3);
    let allowed = with(&fake, "web:80", Options { allow_loopback: true, ..options() }).await;
    assert_eq!(listed(&allowed), ["10.0.0.2:80", "127.0.0.1:80"]);
}

#[tokio::test(start_paused = true)]
async fn an_srv_target_without_address_is_asked_for() {
    let fake = Fake::new();
    let name = format!("_http._tcp.{HEADLESS}");
    let (web_0, web_1, gone) =
        (format!("web-0.{HEADLESS}"), format!("web-1.{HEADLESS}"), format!("web-2.{HEADLESS}"));
    let told = [(&*web_0, 80, Some("10.0.0.1")), (&*web_1, 81, None), (&*gone, 82, None)];
    fake.set(&name, Kind::Srv, services(&name, 30, &told));
    fake.pods(&web_1, 7, &["10.0.0.2"]);
    let upstream = upstream(&fake, "web:http").await;
    assert_eq!(listed(&upstream), ["10.0.0.1:80", "10.0.0.2:81"]);
    fake.asked();
    pass(7.1).await;
    assert!(!fake.asked().is_empty(), "the shortest TTL counts");
    fake.set(&web_1, Kind::A, Says::Fails);
    pass(20.0).await;
    assert_eq!(listed(&upstream).len(), 2, "an answer that cannot be completed is not applied");
}

#[tokio::test(start_paused = true)]
async fn many_srv_targets_without_address_are_asked_for_at_once_over_tcp() {
    let fake = Fake::new();
    let name = format!("_http._tcp.{HEADLESS}");
    let targets: Vec<_> = (0..16).map(|i| (format!("web-{i}.{HEADLESS}"), format!("10.0.0.{i}"))).collect();
    let short: Vec<_> = targets.iter().map(|(target, _)| (&**target, 80, None)).collect();
    let whole: Vec<_> = targets.iter().map(|(target, ip)| (&**target, 80, Some(&**ip))).collect();
    fake.set(&name, Kind::Srv, services(&name, 30, &short));
    fake.set_whole(&name, Kind::Srv, services(&name, 30, &whole));
    let first = upstream(&fake, "web:http").await;
    assert_eq!(listed(&first).len(), 16);
    assert_eq!(fake.asked(), [format!("SRV {name}"), format!("SRV {name}")]);
    fake.set_whole(&name, Kind::Srv, Says::Fails);
    for (target, ip) in &targets {
        fake.pods(target, 30, &[ip]);
    }
    let second = upstream(&fake, "web:http").await;
    assert_eq!(listed(&second).len(), 16, "TCP is closed: one by one");
}

#[tokio::test(start_paused = true)]
async fn a_named_port_of_a_service_whose_only_port_has_no_name_is_found() {
    let fake = Fake::new();
    let web_0 = format!("web-0.{HEADLESS}");
    fake.set(HEADLESS, Kind::Srv, services(HEADLESS, 30, &[(&web_0, 8080, Some("10.0.0.1"))]));
    let upstream = upstream(&fake, "web:http").await;
    assert_eq!(listed(&upstream), ["10.0.0.1:8080"]);
    assert_eq!(upstream.choose(&[]).await.unwrap().pod.as_deref(), Some("web-0"));
}

#[tokio::test(start_paused = true)]
async fn a_named_port_is_never_guessed_among_several() {
    let fake = Fake::new();
    let web_0 = format!("web-0.{HEADLESS}");
    let several = [(&*web_0, 8080, Some("10.0.0.1")), (&*web_0, 9090, Some("10.0.0.1"))];
    fake.set(HEADLESS, Kind::Srv, services(HEADLESS, 30, &several));
    let upstream = upstream(&fake, "web:http").await;
    assert_eq!(listed(&upstream), Vec::<String>::new());
    assert!(upstream.snapshot().last_error().unwrap().contains("one of the Service's port names"));
}

#[tokio::test(start_paused = true)]
async fn the_queries_end_with_the_upstream() {
    let fake = Fake::new();
    fake.pods(HEADLESS, 1, &["10.0.0.1"]);
    let upstream = upstream(&fake, "web:80").await;
    let mut changes = upstream.subscribe();
    drop(upstream);
    assert!(changes.changed().await.is_err());
    fake.asked();
    pass(60.0).await;
    assert_eq!(fake.asked(), Vec::<String>::new());
}
