//! Pods come, go and change names, DNS fails: requests do not, and no line is wrong about the pod.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use whichpod_testkit::backend::Backend;
use whichpod_testkit::client::Response;
use whichpod_testkit::dns::{Failure, Service};
use whichpod_testkit::load::{Load, Report};
use whichpod_testkit::sidecar::Sidecar;
use whichpod_testkit::virtual_ip::VirtualIp;
use whichpod_tests_sidecar::{ADDRESSES, Cluster, Rig, UPSTREAM, eventually};

/// What is checked of many lines: quicker to read than JSON.
const SHORT: &str =
    "%REQ(X-REQUEST-ID)% %UPSTREAM_HOST% %UPSTREAM_POD% %RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_ATTEMPTS%";

/// Every request has one line, and each names the pod that answered: by address always, by name or not at all.
async fn lines_agree(report: &Report, rig: &Rig, addresses: &BTreeMap<String, SocketAddr>) {
    let count = usize::try_from(report.ok + report.failed).unwrap();
    let lines = Sidecar::lines(rig, count).await.unwrap();
    assert_eq!(lines.len(), count);
    let failed: Vec<_> = lines.iter().filter(|line| !line.contains(" 200 - ")).collect();
    assert_eq!(report.failed, 0, "{:?} {failed:#?}", report.reasons);
    let mut seen = BTreeSet::new();
    let mut named = 0;
    for line in &lines {
        let [id, address, name] = line.splitn(4, ' ').take(3).collect::<Vec<_>>().try_into().unwrap();
        assert!(seen.insert(id), "two lines for request {id}");
        let pod = &report.pod_of[&id.parse().unwrap()];
        assert_eq!(address, addresses[pod].to_string(), "answered by {pod}: {line}");
        assert!(name == pod || name == "-", "answered by {pod}: {line}");
        named += usize::from(name == pod);
    }
    assert!(named * 10 > count * 8, "only {named} of {count} lines have a name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_pods_come_and_go_no_request_fails_and_no_line_names_the_wrong_pod() {
    const REQUESTS: u64 = 30_000;
    let cluster = Cluster::new(1).await;
    let mut pods = VecDeque::from(cluster.pods(3).await);
    let mut addresses: BTreeMap<_, _> =
        pods.iter().map(|pod| (pod.name().to_owned(), pod.address())).collect();
    let rig = cluster.sidecar(json!({"workers": 2, "access_log": {"format": SHORT}})).ready().await;
    let load = Load::new(rig.address).connections(64).requests(REQUESTS).start();
    let mut slot = 3;
    while load.report().ok + load.report().failed < REQUESTS {
        // One pod more, which takes the address of one that left long ago.
        slot = slot % ADDRESSES + 1;
        let name = format!("backend-{}", addresses.len() + 1);
        let new = cluster.named_pod(&name, slot).await;
        addresses.insert(name, new.address());
        pods.push_back(new);
        cluster.publish(&pods);
        sleep(Duration::from_millis(350)).await;
        // One pod less, as a rollout does it: it leaves DNS and stops gracefully while it may still be asked.
        let old = pods.pop_front().unwrap();
        cluster.publish(&pods);
        old.stop().await;
        sleep(Duration::from_millis(350)).await;
    }
    let report = load.finish().await;
    assert!(addresses.len() >= 6, "{} pods in {:?}", addresses.len(), report.elapsed);
    lines_agree(&report, &rig, &addresses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pod_gets_its_equal_share_from_any_number_of_workers() {
    for workers in [1, 2] {
        let cluster = Cluster::new(30).await;
        let pods = cluster.pods(3).await;
        let rig = cluster.sidecar(json!({"workers": workers, "access_log": {"format": SHORT}})).ready().await;
        let report = Load::new(rig.address).connections(16).requests(2_000).run().await;
        let counts: Vec<_> = report.pods.values().copied().collect();
        assert_eq!((counts.len(), counts.iter().sum::<u64>()), (3, 2_000), "{:?}", report.reasons);
        assert!(
            counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1,
            "{workers} workers: {counts:?}"
        );
        let addresses = pods.iter().map(|pod| (pod.name().to_owned(), pod.address())).collect();
        lines_agree(&report, &rig, &addresses).await;
    }
}

#[tokio::test]
async fn dns_that_fails_costs_no_request_and_names_end_with_their_time() {
    let failures =
        [Failure::ServFail, Failure::Refused, Failure::Silent, Failure::Garbage, Failure::Truncate];
    // Each request has a connection of its own, and thus the name that holds at that moment.
    let settings = json!({"timeouts": {"upstream_idle": "1ms"}, "headers": {"expose_upstream": true}});
    let mut worlds = Vec::new();
    for failure in failures {
        let cluster = Cluster::new(1).await;
        let pods = cluster.pods(2).await;
        let rig = cluster.sidecar(settings.clone()).ready().await;
        let load = Load::new(rig.address).pause(Duration::from_millis(20)).start();
        worlds.push((failure, cluster, pods, rig, load));
    }
    for (failure, cluster, ..) in &worlds {
        cluster.zone.fail_all(*failure);
    }
    sleep(Duration::from_millis(2_200)).await;
    for (failure, _, _, rig, load) in &worlds {
        let report = load.report();
        assert!(report.failed == 0 && report.ok > 20, "{failure:?}: {:?}", report.reasons);
        assert_eq!(report.pods.len(), 2, "{failure:?}: both pods still serve");
        rig.get("/last").await;
        let lines = rig.lines_with("the last", |line| line.text("path") == "/last").await;
        assert_ne!(lines[0].text("upstream_pod"), "-", "{failure:?}");
        let last = lines.iter().find(|line| line.text("path") == "/last").unwrap();
        assert_eq!(last.text("upstream_pod"), "-", "{failure:?}: the address may be another pod's by now");
        assert_ne!(last.text("upstream_host"), "-", "{failure:?}: the address is known all the same");
    }
    for (_, cluster, ..) in &worlds {
        cluster.zone.heal();
    }
    for (failure, _, _pods, rig, load) in worlds {
        until(&rig, "a name again", |answer| answer.header("x-whichpod-pod").is_some()).await;
        assert_eq!(load.stop().await.failed, 0, "{failure:?}");
    }
}

#[tokio::test]
async fn a_connection_keeps_the_name_of_the_pod_that_it_was_opened_to() {
    let cluster = Cluster::new(0).await;
    let _pods = cluster.pods(1).await;
    let rig = cluster.sidecar(json!({"timeouts": {"upstream_idle": "60s"}})).ready().await;
    rig.get("/first").await;
    cluster.zone.fail_all(Failure::ServFail);
    let asked = cluster.zone.all_queries();
    eventually("DNS has failed", || cluster.zone.all_queries() > asked + 1).await;
    rig.get("/last").await;
    let last = rig.last_line(2).await;
    assert_eq!((last.text("upstream_pod"), last.tries()[0].reused), ("backend-1", true));
}

/// Sends requests until one answer is like this.
async fn until(rig: &Rig, what: &str, is_it: impl Fn(&Response) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_it(&rig.get("/").await) {
        assert!(Instant::now() < deadline, "no answer had {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn until_status(rig: &Rig, status: u16) {
    until(rig, &format!("status {status}"), |answer| answer.status == status).await;
}

/// Sends requests until one answer's header has this value; all are answered.
async fn until_header(rig: &Rig, name: &str, value: &str) {
    until(rig, &format!("{name}: {value}"), |answer| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header(name) == Some(value)
    })
    .await;
}

/// Every further request is refused at once; measured within the sidecar, because the machine has other work too.
async fn refused_at_once(rig: &Rig) {
    for _ in 0..20 {
        assert_eq!(rig.get("/refused").await.status, 503);
    }
    let lines = rig.lines_with("the last refusal", |line| line.text("path") == "/refused").await;
    let refusals = lines.iter().filter(|line| line.text("path") == "/refused");
    let quickest = refusals.map(|line| line.number("duration_ms")).min().unwrap();
    assert!(quickest < 10, "{quickest} ms");
}

#[tokio::test]
async fn when_the_last_pod_is_gone_clients_are_told_at_once_and_when_one_is_back_too() {
    let cluster = Cluster::new(0).await;
    let mut pods = cluster.pods(1).await;
    let rig = cluster.sidecar(json!({"dns": {"hold_empty": "500ms"}})).ready().await;
    assert_eq!(rig.get("/").await.status, 200);
    cluster.publish([]);
    let removed = Instant::now();
    // An empty answer must last before it is believed.
    until(&rig, "status 503", |answer| {
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        answer.status == 503
    })
    .await;
    assert!(removed.elapsed() >= Duration::from_millis(500), "{:?}", removed.elapsed());
    refused_at_once(&rig).await;
    let answer = rig.get("/").await;
    assert_eq!(answer.text(), format!("whichpod: upstream {UPSTREAM}: there is no pod to choose\n"));
    let lines = rig.lines_with("a refusal", |line| line.status() == 503).await;
    let line = lines.iter().find(|line| line.status() == 503).unwrap();
    assert_eq!((line.verdict(), line.text("details")), ((503, "UH", vec![]), "no_healthy_upstream"));

    pods.push(cluster.pod(2).await);
    cluster.publish(&pods);
    until_status(&rig, 200).await;
}

#[tokio::test]
async fn before_the_first_answer_requests_wait_and_then_say_what_is_wrong() {
    let cluster = Cluster::new(1).await;
    // An answer that no pod can have (loopback) is none.
    let names = ["servfail", "refused", "silent", "nxdomain", "empty", "loopback"]
        .map(|name| format!("{name}.default.svc.cluster.local."));
    let fails = [Failure::ServFail, Failure::Refused, Failure::Silent];
    for (name, failure) in names.iter().zip(fails) {
        cluster.zone.fail(name, failure);
    }
    cluster.zone.set_empty(&names[4]);
    cluster.zone.set_a(&names[5], &[cluster.address(1).ip()], 1);
    let settings = || json!({"dns": {"allow_loopback": false}});
    let started = Instant::now();
    let rigs: Vec<_> =
        names.iter().map(|name| cluster.sidecar_for(&format!("{name}:80"), settings())).collect();
    let mut requests = tokio::task::JoinSet::new();
    for (index, rig) in rigs.iter().enumerate() {
        let mut client = rig.client().await.with_timeout(Duration::from_secs(15));
        requests.spawn(async move { (index, client.get("/").await.unwrap(), started.elapsed()) });
    }
    let (dns, none) = (("DF", "dns_resolution_failure"), ("UH", "no_healthy_upstream"));
    let expected = [dns, dns, dns, none, none, dns];
    while let Some(ended) = requests.join_next().await {
        let (index, answer, took) = ended.unwrap();
        let name = &names[index];
        assert_eq!(answer.status, 503, "{name}");
        assert!((Duration::from_millis(700)..Duration::from_secs(9)).contains(&took), "{name} took {took:?}");
        let line = rigs[index].line().await;
        assert_eq!((line.flags(), line.text("details")), expected[index], "{name}");
        assert!(line.tries().is_empty(), "{name}");
        refused_at_once(&rigs[index]).await;
    }
}

#[tokio::test]
async fn the_first_requests_wait_for_a_pod_that_is_about_to_be_there() {
    let cluster = Cluster::new(1).await;
    let rig = cluster.sidecar(json!({}));
    let mut waiting = rig.client().await;
    waiting.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let asked = || cluster.zone.all_queries() > 0;
    eventually("DNS was asked", asked).await;
    let _pods = cluster.pods(1).await;
    assert_eq!(waiting.response().await.unwrap().status, 200);
    assert_eq!(rig.line().await.verdict(), (200, "-", vec!["ok".to_owned()]));
}

#[tokio::test]
async fn an_answer_too_long_for_udp_is_used_whole() {
    let cluster = Cluster::new(30).await;
    let pod = Backend::start("everywhere", "0.0.0.0:0".parse().unwrap()).await.unwrap();
    let addresses: Vec<SocketAddr> =
        (1..=150).map(|n| ([127, 42, 0, n], pod.address().port()).into()).collect();
    cluster.publish_addresses(&addresses);
    let target = format!("{}:{}", cluster.service.name(), pod.address().port());
    let rig = cluster.sidecar_for(&target, json!({})).ready().await;
    let report = Load::new(rig.address).connections(8).requests(300).run().await;
    assert_eq!(report.failed, 0, "{:?}", report.reasons);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in rig.lines(300).await {
        *counts.entry(line.text("upstream_host").to_owned()).or_default() += 1;
    }
    assert_eq!(counts.len(), 150, "every pod of the answer is used");
    assert!(counts.values().all(|count| *count == 2), "{counts:?}");
    assert!(cluster.zone.tcp_queries() > 0);
}

#[tokio::test]
async fn an_address_that_went_to_another_pod_is_never_logged_as_the_old_one() {
    let cluster = Cluster::new(1).await;
    let pods = cluster.pods(1).await;
    let rig = cluster
        .sidecar(json!({"timeouts": {"upstream_idle": "60s"}, "headers": {"expose_upstream": true}}))
        .ready()
        .await;
    until_header(&rig, "x-whichpod-pod", "backend-1").await;
    assert_eq!(pods[0].connections(), 1);
    cluster.publish_named(&[("backend-9", pods[0].address())]);
    until_header(&rig, "x-whichpod-pod", "backend-9").await;
    assert_eq!(pods[0].connections(), 2, "the connection to the old pod is not used");
    for _ in 0..20 {
        assert_eq!(rig.get("/").await.header("x-whichpod-pod"), Some("backend-9"));
    }
    rig.get("/last").await;
    let lines = rig.lines_with("the last", |line| line.text("path") == "/last").await;
    let first_new = lines.iter().position(|line| line.text("upstream_pod") == "backend-9").unwrap();
    assert!(!lines[first_new].tries()[0].reused);
    assert!(lines[first_new..].iter().all(|line| line.text("upstream_pod") == "backend-9"));
    assert!(lines[..first_new].iter().all(|line| line.text("upstream_pod") != "backend-9"));
}

#[tokio::test]
async fn a_pod_that_left_gets_no_new_request_and_ends_what_it_has() {
    let cluster = Cluster::new(1).await;
    let pods = cluster.pods(2).await;
    let rig = cluster.sidecar(json!({"timeouts": {"upstream_idle": "60s"}})).ready().await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut client = rig.client().await.with_timeout(Duration::from_secs(10));
        client.send("GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        slow.push(client);
    }
    let running = || pods.iter().all(|pod| pod.requests() == 1);
    eventually("both pods have a slow request", running).await;
    cluster.publish(&pods[1..]);
    let load = Load::new(rig.address).pause(Duration::from_millis(10)).start();
    let gone = pods[0].address().to_string();
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.admin_page("/clusters").await.contains(&gone) {
        assert!(Instant::now() < deadline, "its time in DNS is over");
        sleep(Duration::from_millis(10)).await;
    }
    // One that was on its way already may still come.
    let served = load.report().ok;
    eventually("the load goes on", || load.report().ok > served).await;
    let before = pods[0].requests();
    eventually("the load goes on for long", || load.report().ok > served + 40).await;
    assert_eq!(pods[0].requests(), before, "it left");
    assert_eq!(load.stop().await.failed, 0);
    pods.iter().for_each(Backend::release);
    for client in &mut slow {
        assert_eq!(client.response().await.unwrap().status, 200, "a running request is not cut");
    }
}

#[tokio::test]
async fn a_pod_that_left_loses_its_idle_connections() {
    let cluster = Cluster::new(0).await;
    let listener = TcpListener::bind(cluster.address(1)).await.unwrap();
    let other = cluster.pod(2).await;
    cluster.publish_named(&[("backend-1", cluster.address(1))]);
    let rig = cluster.sidecar(json!({"timeouts": {"upstream_idle": "60s"}})).ready().await;
    let pod = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        timeout(Duration::from_secs(10), stream.read(&mut request)).await.unwrap().unwrap()
    });
    assert_eq!(rig.get("/").await.status, 200);
    cluster.publish([&other]);
    assert_eq!(pod.await.unwrap(), 0, "the end of the connection");
}

/// What the sidecars of this process told their operators.
fn diagnostics() -> &'static Mutex<Vec<u8>> {
    struct Sink;
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            TEXT.get().unwrap().lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static TEXT: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    TEXT.get_or_init(|| {
        tracing_subscriber::fmt().with_ansi(false).with_writer(|| Sink).init();
        Mutex::default()
    })
}

fn was_told(words: &[&str]) -> bool {
    let text = String::from_utf8_lossy(&diagnostics().lock().unwrap()).into_owned();
    text.lines().any(|line| words.iter().all(|word| line.contains(word)))
}

#[tokio::test]
async fn a_virtual_ip_in_the_way_is_noticed_and_the_remedy_is_named() {
    diagnostics();
    let cluster = Cluster::new(1).await;
    let pods = [cluster.pod(1).await, cluster.pod(2).await];
    let address = cluster.address(8);
    let _virtual_ip = VirtualIp::start(address, pods.iter().map(Backend::address).collect()).await.unwrap();
    let service = Service::new("trapped.default.svc.cluster.local").ttl(1);
    service.publish_virtual_ip(&cluster.zone, address);
    let target = format!("{}:{}", service.name(), cluster.port);
    let rig = cluster.sidecar_for(&target, json!({})).ready().await;
    let warned =
        || was_told(&["WARN", "trapped.default", "virtual IP", &address.ip().to_string(), "clusterIP: None"]);
    eventually("the operator is warned", warned).await;
    assert_eq!(rig.get("/").await.status, 200);
    let line = rig.line().await;
    assert_eq!((line.text("upstream_host"), line.text("upstream_pod")), (&*address.to_string(), "-"));
    let metrics = rig.metrics().await;
    assert!(metrics.contains("whichpod_virtual_ip_requests_total{upstream=\"backend\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_single_pod_is_not_taken_for_a_virtual_ip() {
    let cluster = Cluster::new(1).await;
    let _pods = cluster.pods(1).await;
    let target = format!("{}:{}", cluster.service.name(), cluster.port);
    let rig = cluster.sidecar_for(&target, json!({})).ready().await;
    for _ in 0..5 {
        assert_eq!(rig.get("/").await.status, 200);
    }
    assert!(rig.metrics().await.contains("whichpod_virtual_ip_requests_total{upstream=\"backend\"} 0\n"));
}

#[tokio::test]
async fn the_fallback_serves_until_the_target_is_there() {
    let cluster = Cluster::new(0).await;
    let hidden = cluster.pod(1).await;
    let virtual_ip = VirtualIp::start(cluster.address(8), vec![hidden.address()]).await.unwrap();
    let service = Service::new("plain.default.svc.cluster.local").ttl(0);
    service.publish_virtual_ip(&cluster.zone, virtual_ip.address());
    let settings = json!({"upstreams": [{
        "name": UPSTREAM, "listen": "127.0.0.1:0", "target": format!("{}:http", cluster.service.name()),
        "fallback": format!("{}:{}", service.name(), cluster.port), "headers": {"expose_upstream": true},
    }]});
    let rig = cluster.sidecar(settings).ready().await;
    until_header(&rig, "x-whichpod-upstream", &virtual_ip.address().to_string()).await;
    assert_eq!(rig.get("/").await.header("x-whichpod-pod"), None);
    cluster.publish([&hidden]);
    until_header(&rig, "x-whichpod-upstream", &hidden.address().to_string()).await;
    assert_eq!(rig.get("/").await.header("x-whichpod-pod"), Some("backend-1"));
    cluster.publish([]);
    until_header(&rig, "x-whichpod-upstream", &virtual_ip.address().to_string()).await;
}

#[tokio::test]
async fn an_upstream_that_nobody_calls_asks_nothing() {
    let cluster = Cluster::new(1).await;
    let _pods = cluster.pods(1).await;
    let settings = json!({"upstreams": [{
        "name": UPSTREAM, "listen": "127.0.0.1:0", "target": format!("{}:http", cluster.service.name()), "lazy": true,
    }]});
    let rig = cluster.sidecar(settings).ready().await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(cluster.zone.all_queries(), 0);
    assert_eq!(rig.get("/").await.status, 200, "the first request waits for the answer");
}
