//! What operators read: each trouble once, with its remedy. The clock is paused.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use support::*;
use tracing_subscriber::fmt::MakeWriter;
use whichpod_upstream::{Kind, Settings};

/// The lines that were logged in this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Everything logged since, as lines that contain `part`.
    fn with(&self, part: &str) -> Vec<String> {
        let text = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn record() -> (Lines, tracing::subscriber::DefaultGuard) {
    let lines = Lines::default();
    let subscriber =
        tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).without_time().finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

#[tokio::test(start_paused = true)]
async fn a_change_names_the_pods_that_came_and_went() {
    let (lines, _guard) = record();
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.0.0.1", "10.0.0.2"]);
    let _upstream = upstream(&fake, "web:80").await;
    fake.pods(HEADLESS, 5, &["10.0.0.2", "10.0.0.3"]);
    pass(60.0).await;
    let changes = lines.with("the pods changed");
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert!(changes[0].contains("whichpod::discovery") && changes[0].contains("10.0.0.1:80, 10.0.0.2:80"));
    for part in ["added=\"10.0.0.3:80\"", "removed=\"10.0.0.1:80\"", "upstream=\"web\"", "pods=2"] {
        assert!(changes[1].contains(part), "{part} in {}", changes[1]);
    }
    assert_eq!(lines.with(&format!("asked=\"{HEADLESS}\"")).len(), 1, "what the name was taken for");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_new_pods_are_one_short_line() {
    let (lines, _guard) = record();
    let fake = Fake::new();
    let ips: Vec<String> = (0..1_000).map(|i| format!("10.0.{}.{}", i / 250, i % 250 + 1)).collect();
    fake.pods(HEADLESS, 5, &ips.iter().map(|ip| &**ip).collect::<Vec<_>>());
    let _upstream = upstream(&fake, "web:80").await;
    let changes = lines.with("the pods changed");
    assert!(changes[0].contains("and 990 more") && changes[0].len() < 600, "{}", changes[0]);
}

#[tokio::test(start_paused = true)]
async fn dns_that_fails_is_warned_about_once_until_it_recovers() {
    let (lines, _guard) = record();
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.0.0.1"]);
    let _upstream = upstream(&fake, "web:80").await;
    for _ in 0..2 {
        fake.down(true);
        pass(60.0).await;
        fake.down(false);
        pass(10.0).await;
    }
    let warnings = lines.with("DNS fails");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].contains("WARN") && warnings[0].contains("SERVFAIL") && warnings[0].contains("web:80")
    );
    assert_eq!(lines.with("DNS answers again").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_virtual_ip_is_warned_about_once_with_the_remedy() {
    let (lines, _guard) = record();
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["10.96.0.7"]);
    fake.pointer([10, 96, 0, 7], HEADLESS);
    let _upstream = upstream(&fake, "web:80").await;
    pass(60.0).await;
    let warnings = lines.with("virtual IP");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for part in ["WARN", "10.96.0.7", "web:80", "clusterIP: None"] {
        assert!(warnings[0].contains(part), "{part} in {}", warnings[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fallback_is_warned_about_once_and_its_virtual_ip_not_again() {
    let (lines, _guard) = record();
    let fake = Fake::new();
    let vip = "web-vip.shop.svc.cluster.local";
    fake.pods(vip, 5, &["10.96.0.7"]);
    fake.pointer([10, 96, 0, 7], vip);
    let upstream =
        discovery(&fake).add(Settings { fallback: Some(target("web-vip:80")), ..settings("web:80") });
    pass(60.0).await;
    assert_eq!(lines.with("its fallback is used").len(), 1);
    assert_eq!(lines.with("virtual IP").len(), 0);
    assert!(upstream.snapshot().virtual_ip());
    fake.pods(HEADLESS, 5, &["10.0.0.1"]);
    pass(60.0).await;
    assert_eq!(lines.with("no longer used").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_empty_set_is_warned_about_once_with_what_to_check() {
    let (lines, _guard) = record();
    let _upstream = upstream(&Fake::new(), "web:80").await;
    pass(60.0).await;
    let warnings = lines.with("there are no pods");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(&format!("{HEADLESS} does not exist")) && warnings[0].contains("selector"));
}

#[tokio::test(start_paused = true)]
async fn refused_addresses_are_warned_about_once_with_the_remedy() {
    let (lines, _guard) = record();
    let fake = Fake::new();
    fake.pods(HEADLESS, 5, &["127.0.0.1", "10.0.0.1"]);
    let _upstream = upstream(&fake, "web:80").await;
    pass(60.0).await;
    let warnings = lines.with("refused");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("127.0.0.1") && warnings[0].contains("allow_loopback"));
}

#[tokio::test(start_paused = true)]
async fn names_from_the_dns_cannot_forge_a_line() {
    let (lines, _guard) = record();
    let fake = Fake::new();
    let name = format!("_http._tcp.{HEADLESS}");
    let evil = format!("web\n0 WARN forged.{HEADLESS}");
    fake.set(&name, Kind::Srv, services(&name, 30, &[(&evil, 80, Some("10.0.0.1"))]));
    let upstream = upstream(&fake, "web:http").await;
    assert_eq!(listed(&upstream), ["10.0.0.1:80"]);
    assert_eq!(lines.with("forged"), Vec::<String>::new());
}
