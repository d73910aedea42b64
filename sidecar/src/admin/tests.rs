//! The router in process, over a small sidecar whose pods have literal addresses or come from a scripted answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::{Method, Request};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;
use whichpod_access_log::{Destination, Filter, Flags, Writer};
use whichpod_config::{Document, Outcome, load};
use whichpod_proxy::site::Site;
use whichpod_runtime::bind::bind;
use whichpod_runtime::diagnostics;
use whichpod_runtime::shutdown::Shutdown;
use whichpod_upstream::{
    Data, Discovery, Lookup, LookupError, Options, Question, Record, ResolvConf, Resolver, Response,
};

use super::*;
use crate::log_format;

const DOCUMENT: &str = r#"{
    "upstreams": [
        {"name": "backend", "listen": "127.77.0.1:10000", "target": "10.1.2.3:8080", "fallback": "10.96.0.7:10000"},
        {"name": "web:80", "listen": "[::1]:8081", "target": "[fd00::1]:80"},
        {"name": "never-called", "listen": "127.77.0.9:80", "target": "10.1.2.9:80", "lazy": true},
        {"name": "db", "listen": "127.77.0.2:5432", "target": "db.default.svc.cluster.local.:pg"}
    ],
    "access_log": {"path": "off"}
}"#;

struct Sidecar {
    admin: Arc<Admin>,
    shutdown: Shutdown,
    _writer: Writer,
}

/// A sidecar that has served two requests to `backend`.
fn sidecar(diagnostics: Option<Diagnostics>) -> Sidecar {
    let environment = BTreeMap::from([("WHICHPOD_CONFIG".to_owned(), DOCUMENT.to_owned())]);
    let config = match load(std::iter::empty::<std::ffi::OsString>(), &environment, &log_format::checks()) {
        Ok(Outcome::Run { config, .. }) => config,
        other => panic!("{other:?}"),
    };
    let discovery = Discovery::new(Arc::new(OneAnswer::default()), Options::default());
    let site = |upstream: &whichpod_config::Upstream| {
        Arc::new(Site::new(
            upstream.clone(),
            discovery.add(whichpod_proxy::translate::settings(upstream)),
            None,
        ))
    };
    let sites = config.upstreams.iter().map(site).collect();
    let format = log_format::compile("text").unwrap().format;
    let (log, writer) = Log::open(Destination::Off).unwrap();
    let (quit, shutdown) = Shutdown::new();
    let listeners =
        config.upstreams.iter().map(|upstream| (Arc::clone(&upstream.name), upstream.listen)).collect();
    let admin = Admin {
        listeners,
        workers: 1,
        shared: Arc::new(Shared::new(sites, format, Filter::default(), Default::default())),
        log,
        diagnostics,
        readiness: Readiness::new(),
        quit,
        started: (Instant::now(), SystemTime::now()),
        config,
    };
    serve_two(&admin.shared.sites[0]);
    Sidecar { admin: Arc::new(admin), shutdown, _writer: writer }
}

/// DNS that answers once, with a pod of a StatefulSet, and then fails for ever.
#[derive(Default)]
struct OneAnswer(AtomicBool);

impl Resolver for OneAnswer {
    fn lookup(&self, question: Question) -> Lookup<'_> {
        let pod: Arc<str> = "db-0.db.default.svc.cluster.local".into();
        let record = |name: &Arc<str>, data| Record { name: Arc::clone(name), ttl: 5, data };
        let response = if self.0.swap(true, Relaxed) {
            Err(LookupError("10.96.0.10: SERVFAIL\nbackend::forged::line".to_owned()))
        } else {
            let srv = Data::Srv { priority: 0, port: 5432, target: Arc::clone(&pod) };
            let address = Data::Address([10, 1, 2, 4].into());
            Ok(Response {
                nxdomain: false,
                answers: vec![record(&question.name, srv)],
                additionals: vec![record(&pod, address)],
            })
        };
        Box::pin(std::future::ready(response))
    }

    fn system(&self) -> Arc<ResolvConf> {
        Arc::default()
    }
}

/// One request that a pod answered, one that no pod took.
fn serve_two(site: &Site) {
    let stats = &site.stats;
    stats.downstream_total.fetch_add(1, Relaxed);
    stats.downstream_active.fetch_add(1, Relaxed);
    stats.ended(Some(StatusCode::OK), Flags::EMPTY, Duration::from_millis(7));
    stats.ended(Some(StatusCode::SERVICE_UNAVAILABLE), Flags::CONNECT_FAILED, Duration::from_secs(1));
    let set = site.upstream.snapshot();
    let counts = set.endpoints()[0].counts();
    counts.requests_total.fetch_add(1, Relaxed);
    counts.requests_success.fetch_add(1, Relaxed);
    stats.connects_total.fetch_add(2, Relaxed);
    stats.connects_failed.fetch_add(1, Relaxed);
    counts.connects_total.fetch_add(2, Relaxed);
    counts.connects_failed.fetch_add(1, Relaxed);
    counts.connections_active.fetch_add(1, Relaxed);
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        serde_json::from_str(&self.body).unwrap()
    }
}

async fn ask(admin: &Arc<Admin>, method: Method, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:9901");
    let response = router(Arc::clone(admin)).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().into()).unwrap();
    Answer { status: head.status.as_u16(), headers: head.headers, body }
}

async fn get(admin: &Arc<Admin>, path: &str) -> Answer {
    ask(admin, Method::GET, path).await
}

async fn text(admin: &Arc<Admin>, path: &str) -> String {
    let answer = get(admin, path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body
}

#[tokio::test]
async fn clusters_reads_as_envoys_does() {
    let sidecar = sidecar(None);
    let expected = "\
backend::added_via_api::false
backend::target::10.1.2.3:8080
backend::fallback::10.96.0.7:10000
backend::state::ready
backend::source::target
backend::virtual_ip::false
backend::endpoints::1
backend::aside::0
backend::ejected::0
backend::failed_active_hc::0
backend::panic::false
backend::dns_age_ms::-
backend::last_error::-
backend::10.1.2.3:8080::cx_active::1
backend::10.1.2.3:8080::cx_connect_fail::1
backend::10.1.2.3:8080::cx_total::2
backend::10.1.2.3:8080::rq_active::0
backend::10.1.2.3:8080::rq_error::0
backend::10.1.2.3:8080::rq_success::1
backend::10.1.2.3:8080::rq_total::1
backend::10.1.2.3:8080::hostname::10.1.2.3
backend::10.1.2.3:8080::health_flags::healthy
backend::10.1.2.3:8080::weight::1
backend::10.1.2.3:8080::zone::
backend::10.1.2.3:8080::pod::-
backend::10.1.2.3:8080::node::-
backend::10.1.2.3:8080::aside::false
web:80::added_via_api::false
web:80::target::[fd00::1]:80
web:80::fallback::-
";
    let body = text(&sidecar.admin, "/clusters").await;
    assert!(body.starts_with(expected), "{body}");
    assert!(body.contains("web:80::[fd00::1]:80::rq_total::0\n"), "{body}");
    assert_eq!(text(&sidecar.admin, "/clusters?format=text").await, body);
}

#[tokio::test(start_paused = true)]
async fn clusters_says_who_a_pod_is_and_how_old_and_why_the_answer_is() {
    let sidecar = sidecar(None);
    sidecar.admin.shared.sites[3].upstream.until_settled().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let body = text(&sidecar.admin, "/clusters").await;
    for line in [
        "db::target::db.default.svc.cluster.local.:pg",
        "db::state::ready",
        "db::dns_age_ms::60000",
        "db::10.1.2.4:5432::hostname::db.default.svc.cluster.local.",
        "db::10.1.2.4:5432::pod::db-0",
    ] {
        assert!(body.lines().any(|found| found == line), "{line} is not in\n{body}");
    }
    let error = body.lines().find(|line| line.starts_with("db::last_error::")).unwrap();
    assert!(error.contains("10.96.0.10: SERVFAIL\\nbackend::forged::line"), "{error}");
    let answer = get(&sidecar.admin, "/clusters?format=json").await.json();
    assert_eq!(answer["cluster_statuses"][3]["host_statuses"][0]["whichpod"]["pod"], "db-0");
    let samples = openmetrics(&get(&sidecar.admin, "/stats/prometheus").await.body);
    assert_eq!(samples["whichpod_dns_answer_age_seconds{upstream=\"db\"}"], "60.0");
    assert_eq!(samples["whichpod_dns_answers_total{upstream=\"db\"}"], "1");
    assert_ne!(samples["whichpod_dns_failures_total{upstream=\"db\"}"], "0");
}

#[tokio::test]
async fn a_pod_that_takes_no_connection_is_seen_to_be_aside() {
    let sidecar = sidecar(None);
    let upstream = &sidecar.admin.shared.sites[0].upstream;
    upstream.connect_failed(&upstream.snapshot().endpoints()[0]);
    let body = text(&sidecar.admin, "/clusters").await;
    assert!(body.contains("backend::aside::1\n"), "{body}");
    assert!(body.contains("backend::10.1.2.3:8080::health_flags::/failed_outlier_check\n"), "{body}");
    assert!(body.contains("backend::10.1.2.3:8080::aside::true\n"), "{body}");
    upstream.checked(&upstream.snapshot().endpoints()[0], false);
    let both = text(&sidecar.admin, "/clusters").await;
    assert!(both.contains("::health_flags::/failed_active_hc/failed_outlier_check\n"), "{both}");
    assert!(both.contains("backend::failed_active_hc::1\n"), "{both}");
    let body = text(&sidecar.admin, "/stats?filter=membership").await;
    assert!(
        body.contains("cluster.backend.membership_healthy: 0\ncluster.backend.membership_total: 1\n"),
        "{body}"
    );
    let body = text(&sidecar.admin, "/stats/prometheus").await;
    assert!(body.contains("whichpod_endpoints{upstream=\"backend\",state=\"aside\"} 1\n"), "{body}");
}

#[tokio::test]
async fn clusters_as_json_has_the_fields_of_envoys_message() {
    let sidecar = sidecar(None);
    let answer = get(&sidecar.admin, "/clusters?format=json").await.json();
    let backend = &answer["cluster_statuses"][0];
    assert_eq!(backend["name"], "backend");
    let host = &backend["host_statuses"][0];
    assert_eq!(host["address"], json!({"socket_address": {"address": "10.1.2.3", "port_value": 8080}}));
    assert_eq!(host["stats"][2], json!({"name": "cx_total", "value": "2", "type": "COUNTER"}));
    assert_eq!(host["stats"][0], json!({"name": "cx_active", "value": "1", "type": "GAUGE"}));
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    assert_eq!(host["whichpod"], json!({"pod": null, "node": null, "aside": false}));
    assert_eq!(backend["whichpod"]["state"], "ready");
    assert_eq!(backend["whichpod"]["dns_age_ms"], Value::Null);
    assert_eq!(answer["cluster_statuses"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn stats_has_envoys_names_in_order() {
    let sidecar = sidecar(None);
    let body = text(&sidecar.admin, "/stats").await;
    let lines: Vec<_> = body.lines().collect();
    assert!(lines.is_sorted(), "{body}");
    for line in [
        "cluster.backend.membership_total: 1",
        "cluster.backend.response_flags.UF: 1",
        "cluster.backend.upstream_cx_active: 1",
        "cluster.backend.upstream_rq_2xx: 1",
        "cluster.backend.upstream_rq_5xx: 1",
        "cluster.backend.upstream_rq_completed: 2",
        "cluster.backend.upstream_rq_total: 2",
        "cluster.web_80.upstream_rq_total: 0",
        "listener.127.77.0.1_10000.downstream_cx_total: 1",
        "listener.[__1]_8081.downstream_cx_active: 0",
        "access_log.dropped: 0",
        "server.concurrency: 1",
        "server.live: 1",
        "server.state: 0",
    ] {
        assert!(lines.contains(&line), "{line} is not in\n{body}");
    }
}

#[tokio::test]
async fn stats_can_be_narrowed_down() {
    let sidecar = sidecar(None);
    let body = text(&sidecar.admin, "/stats?filter=backend.upstream_rq_&usedonly").await;
    let expected = "\
cluster.backend.upstream_rq_2xx: 1
cluster.backend.upstream_rq_5xx: 1
cluster.backend.upstream_rq_completed: 2
cluster.backend.upstream_rq_total: 2
";
    assert_eq!(body, expected);
    let answer = get(&sidecar.admin, "/stats?format=json&filter=backend.upstream_rq_5").await.json();
    assert_eq!(answer, json!({"stats": [{"name": "cluster.backend.upstream_rq_5xx", "value": 1}]}));
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_a_remedy_rather_than_answered_with_nothing() {
    let sidecar = sidecar(None);
    for (path, why) in [
        (
            "/stats?filter=%5Ecluster.*rq",
            "filter=^cluster.*rq: a filter is a part of a name, not a regular expression",
        ),
        ("/stats?format=html", "format=html: unknown; use one of text, json, prometheus\n"),
        ("/stats?format=prometheus&filter=rq", "filter: the Prometheus form is always whole"),
        ("/clusters?format=yaml", "format=yaml: unknown; use one of text, json\n"),
        ("/listeners?format=", "format=: unknown; use one of text, json\n"),
    ] {
        let answer = get(&sidecar.admin, path).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.body.starts_with(why), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn listeners_shows_where_to_connect() {
    let sidecar = sidecar(None);
    let expected =
        "backend::127.77.0.1:10000\nweb:80::[::1]:8081\nnever-called::127.77.0.9:80\ndb::127.77.0.2:5432\n";
    assert_eq!(text(&sidecar.admin, "/listeners").await, expected);
    let answer = get(&sidecar.admin, "/listeners?format=json").await.json();
    let address = json!({"socket_address": {"address": "::1", "port_value": 8081}});
    assert_eq!(answer["listener_statuses"][1], json!({"name": "web:80", "local_address": address}));
}

#[tokio::test(start_paused = true)]
async fn server_info_and_ready_follow_the_life_of_the_process() {
    let Sidecar { admin, .. } = &sidecar(None);
    let pending = admin.readiness.pending("an answer for upstream backend");
    tokio::time::advance(Duration::from_secs(123)).await;
    let info = get(admin, "/server_info").await.json();
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"), "state": "PRE_INITIALIZING", "uptime_current_epoch": "123s",
        "workers": 1, "waiting_for": ["an answer for upstream backend"],
    });
    assert_eq!(info, expected);
    let ready = get(admin, "/ready").await;
    assert_eq!(
        (ready.status, &*ready.body),
        (503, "not ready: waiting for an answer for upstream backend\n")
    );

    pending.done();
    assert_eq!(get(admin, "/server_info").await.json()["state"], "LIVE");
    let ready = get(admin, "/ready").await;
    assert_eq!((ready.status, &*ready.body), (200, "ready\n"));

    admin.readiness.not_ready();
    assert_eq!(get(admin, "/server_info").await.json()["state"], "DRAINING");
    assert_eq!(get(admin, "/ready").await.status, 503);
    assert_eq!(text(admin, "/stats?filter=server.state").await, "server.state: 1\n");
}

#[tokio::test]
async fn a_dumped_configuration_starts_the_same_sidecar() {
    let Sidecar { admin, .. } = &sidecar(None);
    let dump = get(admin, "/config_dump").await;
    let document: Document = serde_json::from_value(dump.json()).unwrap();
    assert_eq!(document, admin.config.to_document());
    let environment = BTreeMap::from([("WHICHPOD_CONFIG".to_owned(), dump.body)]);
    match load(std::iter::empty::<std::ffi::OsString>(), &environment, &log_format::checks()) {
        Ok(Outcome::Run { config, .. }) => assert_eq!(config, admin.config),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_listed_path_is_there_and_takes_its_method_only() {
    let Sidecar { admin, .. } = &sidecar(None);
    let (help, index) = (text(admin, "/help").await, text(admin, "/").await);
    for page in pages::PAGES {
        let posted = !page.posts.is_empty();
        let method = if posted { " (POST)" } else { "" };
        assert!(help.contains(&format!("  {}{method}: {}\n", page.path, page.what)), "{help}");
        let control = if posted { "formaction" } else { "href" };
        assert!(index.contains(&format!("{control}=\"{}", page.path)), "{index}");

        let (right, wrong) = if posted { (Method::POST, Method::GET) } else { (Method::GET, Method::POST) };
        let answer = ask(admin, wrong, page.path).await;
        assert_eq!(answer.status, 405, "{}", page.path);
        assert!(answer.header("allow").contains(right.as_str()), "{}", answer.header("allow"));
        assert!(answer.body.contains(&format!("takes {right} only")), "{}", answer.body);
        let answer = ask(admin, right, page.path).await;
        assert!(matches!(answer.status, 200 | 409), "{}: {}", page.path, answer.status);
    }
    assert!(!index.contains("http://") && !index.contains("https://") && !index.contains("src="), "{index}");
}

#[tokio::test]
async fn get_changes_nothing() {
    let Sidecar { admin, shutdown, .. } = &sidecar(None);
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
        assert_eq!(ask(admin, method, "/quitquitquit").await.status, 405);
    }
    assert!(!shutdown.is_started());
    let answer = ask(admin, Method::POST, "/quitquitquit").await;
    assert_eq!((answer.status, &*answer.body), (200, "OK\n"));
    assert!(shutdown.is_started());
}

#[tokio::test]
async fn a_mistyped_path_is_answered_with_those_there_are() {
    let answer = get(&sidecar(None).admin, "/cluster").await;
    assert_eq!(answer.status, 404);
    assert!(
        answer.body.starts_with("/cluster: there is no such path; admin commands are:\n"),
        "{}",
        answer.body
    );
    assert!(answer.body.contains("  /clusters: "), "{}", answer.body);
}

#[tokio::test]
async fn a_page_elsewhere_can_neither_read_nor_stop_nor_frame_the_sidecar() {
    let Sidecar { admin, shutdown, .. } = &sidecar(None);
    for (method, path, name, value) in [
        (Method::GET, "/config_dump", "host", "evil.example"),
        (Method::GET, "/no-such-path", "host", "evil.example"),
        (Method::POST, "/quitquitquit", "origin", "https://evil.example"),
    ] {
        let request =
            Request::builder().method(method).uri(path).header(name, value).body(Body::empty()).unwrap();
        let response = router(Arc::clone(admin)).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
    }
    assert!(!shutdown.is_started());
    let answer = get(admin, "/").await;
    assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"));
    assert_eq!(answer.header("cache-control"), "no-store");
}

#[tokio::test]
async fn the_log_level_changes_while_the_sidecar_runs() {
    // The only test that sets this process's diagnostics up.
    let Sidecar { admin, .. } = &sidecar(Some(diagnostics::init("error").unwrap()));
    let post = async |path: &str| {
        let answer = ask(admin, Method::POST, path).await;
        (answer.status, answer.body)
    };
    assert_eq!(post("/logging").await, (200, "level: error\n".to_owned()));
    assert_eq!(post("/logging?level=warning").await, (200, "level: warn\n".to_owned()));
    let (status, body) = post("/logging?level=loud").await;
    assert_eq!(status, 400);
    assert!(body.contains("\"loud\"") && body.contains("use off, error, warn"), "{body}");
    let (status, body) = post("/logging?paths=dns:debug").await;
    assert_eq!(status, 400);
    assert!(body.starts_with("parameter \"paths\" is unknown; usage: "), "{body}");
    assert_eq!(post("/logging?level=off").await, (200, "level: off\n".to_owned()));
}

#[tokio::test]
async fn a_sidecar_inside_another_program_says_whose_the_log_level_is() {
    let answer = ask(&sidecar(None).admin, Method::POST, "/logging?level=debug").await;
    assert_eq!(answer.status, 409);
    assert!(answer.body.contains("belongs to the program"), "{}", answer.body);
}

#[tokio::test]
async fn both_ports_answer_over_a_socket() {
    let Sidecar { admin, .. } = &sidecar(None);
    let bound = || bind("127.0.0.1:0".parse().unwrap(), "a test").unwrap();
    let (first, second) = (bound(), bound());
    let addresses = [first.local_addr().unwrap(), second.local_addr().unwrap()];
    tokio::spawn(serve(first, Arc::clone(admin)));
    tokio::spawn(serve_health(second, Arc::clone(admin)));
    for (address, path, expected) in [
        (addresses[0], "/listeners", "backend::127.77.0.1:10000\n"),
        (addresses[1], "/ready", "ready\n"),
        (addresses[1], "/metrics", "# EOF\n"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(expected), "{answer}");
    }
}

#[tokio::test]
async fn prometheus_accepts_every_line_and_finds_every_number() {
    let Sidecar { admin, .. } = &sidecar(None);
    let answer = get(admin, "/stats/prometheus").await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    let samples = openmetrics(&answer.body);
    for (series, value) in [
        ("whichpod_requests_total{upstream=\"backend\",class=\"5xx\"}", "1"),
        ("whichpod_requests_flagged_total{upstream=\"backend\",flag=\"UF\"}", "1"),
        ("whichpod_requests_flagged_total{upstream=\"web:80\",flag=\"UF\"}", "0"),
        ("http_server_request_duration_seconds_count{upstream=\"backend\"}", "2"),
        ("http_server_request_duration_seconds_bucket{le=\"0.01\",upstream=\"backend\"}", "1"),
        ("whichpod_endpoints{upstream=\"backend\",state=\"available\"}", "1"),
        ("whichpod_endpoints{upstream=\"backend\",state=\"ejected\"}", "0"),
        ("whichpod_ejections_total{upstream=\"backend\"}", "0"),
        ("whichpod_panic{upstream=\"backend\"}", "0"),
        ("whichpod_health_checks_total{upstream=\"backend\"}", "0"),
        ("whichpod_overflows_total{upstream=\"backend\",limit=\"max_requests\"}", "0"),
        ("whichpod_discovery_state{upstream=\"backend\",state=\"ready\"}", "1"),
        ("whichpod_discovery_state{upstream=\"backend\",state=\"failed\"}", "0"),
        ("whichpod_fallback_in_use{upstream=\"backend\"}", "0"),
        ("whichpod_virtual_ip_requests_total{upstream=\"backend\"}", "0"),
        ("whichpod_upstream_connects_failed_total{upstream=\"backend\"}", "1"),
        ("whichpod_connections_total{upstream=\"backend\"}", "1"),
        ("whichpod_retries_total{upstream=\"backend\"}", "0"),
        ("whichpod_dns_failures_total{upstream=\"backend\"}", "0"),
        ("whichpod_access_log_dropped_total", "0"),
        (concat!("whichpod_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), "1"),
    ] {
        assert_eq!(samples.get(series).map(String::as_str), Some(value), "{series} in\n{}", answer.body);
    }
    assert!(!answer.body.contains("never-called"), "an upstream of \"*\" costs nothing until it is called");
    assert!(!answer.body.contains("10.1.2.3"), "no series is labelled by pod");
    assert_eq!(text(admin, "/stats?format=prometheus").await.lines().count(), answer.body.lines().count());
}

/// Reads OpenMetrics text as strictly as a scraper, and returns the samples by series.
fn openmetrics(text: &str) -> BTreeMap<String, String> {
    let body = text.strip_suffix("# EOF\n").expect("the end mark");
    let mut samples = BTreeMap::new();
    let (mut families, mut family, mut kind) = (Vec::new(), "", "");
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(words.ends_with('.') && !words.contains(['\\', '"']), "{line}");
            assert!(!families.contains(&name), "{name} comes twice");
            families.push(name);
            (family, kind) = (name, "");
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, word) = described.split_once(' ').unwrap();
            assert_eq!(name, family, "{line}");
            kind = word;
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_sum", "_count", "_bucket"],
                other => panic!("{other:?} is no type: {line}"),
            };
            assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line}");
            assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
            let before = samples.insert(series.to_owned(), value.to_owned());
            assert!(before.is_none(), "{series} comes twice");
        }
    }
    assert!(families.iter().all(|name| name.starts_with("whichpod_") || NAMES_OF_OTHERS.contains(name)));
    samples
}

const NAMES_OF_OTHERS: [&str; 2] = ["http_server_request_duration_seconds", "process_start_time_seconds"];
