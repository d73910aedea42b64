//! The real sidecar with one upstream.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use whichpod_testkit::client::{Client, Response};
use whichpod_testkit::sidecar::Sidecar;

use crate::line::Line;
use crate::wait::PATIENCE;

/// A loopback address on which the kernel chooses a free port.
pub const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The upstream's name: what error bodies must say.
pub const UPSTREAM: &str = "backend";

/// A sidecar whose only upstream is [`UPSTREAM`].
pub struct Rig {
    sidecar: Sidecar,
    /// Where the app would connect to.
    pub address: SocketAddr,
}

impl Rig {
    /// In front of this target (`IP:PORT`, `NAME:PORT` or `NAME:PORTNAME`), with these settings laid over a document of
    /// one worker that leaves as soon as no request runs.
    #[must_use]
    pub fn new(target: impl Display, settings: Value) -> Self {
        let mut document = json!({
            "upstreams": [{"name": UPSTREAM, "listen": "127.0.0.1:0", "target": target.to_string()}],
            // Nobody is asked about a literal address; the machine's own servers never are.
            "dns": {"servers": ["127.0.0.1:9"], "allow_loopback": true},
            "workers": 1,
            "shutdown": {"native_sidecar": true},
        });
        lay_over(&mut document, settings);
        let sidecar = Sidecar::start(document).expect("the sidecar starts");
        let address = sidecar.address(UPSTREAM).expect("the upstream has a listener");
        Self { sidecar, address }
    }

    /// Waits until the sidecar is ready.
    #[must_use]
    pub async fn ready(self) -> Self {
        assert!(self.sidecar.ready().await, "the sidecar is not ready");
        self
    }

    /// A new connection to the upstream's listener.
    pub async fn client(&self) -> Client {
        Client::connect(self.address).await.expect("the sidecar accepts")
    }

    /// `GET path` on a connection of its own.
    pub async fn get(&self, path: &str) -> Response {
        self.client().await.get(path).await.expect("the sidecar answers")
    }

    /// Sends these bytes on a connection of their own, and reads one response.
    pub async fn exchange(&self, request: impl AsRef<[u8]>) -> Response {
        let mut client = self.client().await;
        client.send(request).await.expect("the sidecar reads");
        client.response().await.expect("the sidecar answers")
    }

    /// The text of a page of the admin server, as from the machine itself.
    pub async fn admin_page(&self, path: &str) -> String {
        let address = self.sidecar.admin().expect("the sidecar runs");
        let mut client = Client::connect(address).await.expect("the admin server accepts");
        client.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await.expect("it reads");
        client.response().await.expect("it answers").text()
    }

    /// What Prometheus would read.
    pub async fn metrics(&self) -> String {
        let address = self.sidecar.health().expect("the sidecar runs");
        let mut client = Client::connect(address).await.expect("the health server accepts");
        client.get("/metrics").await.expect("it answers").text()
    }

    /// All lines, once there are so many; panics if there are more or less.
    pub async fn lines(&self, count: usize) -> Vec<Line> {
        let records = self.sidecar.records(count).await.expect("the log is JSON");
        assert_eq!(records.len(), count, "{records:#?}");
        records.into_iter().map(Line::new).collect()
    }

    /// All lines there are, once one of them is like this.
    pub async fn lines_with(&self, what: &str, is_it: impl Fn(&Line) -> bool) -> Vec<Line> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let records = self.sidecar.records(0).await.expect("the log is JSON");
            let lines: Vec<_> = records.into_iter().map(Line::new).collect();
            if lines.iter().any(&is_it) {
                return lines;
            }
            assert!(Instant::now() < deadline, "no line within {PATIENCE:?}: {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The only line there is.
    pub async fn line(&self) -> Line {
        self.lines(1).await.remove(0)
    }

    /// The line of the last of so many requests.
    pub async fn last_line(&self, count: usize) -> Line {
        self.lines(count).await.remove(count - 1)
    }

    /// Stops as a signal would and waits for the end; returns how long that took.
    pub async fn stop(&mut self) -> Duration {
        self.sidecar.stop().await
    }
}

impl Deref for Rig {
    type Target = Sidecar;

    fn deref(&self) -> &Sidecar {
        &self.sidecar
    }
}

/// What `over` says wins, at every level.
pub(crate) fn lay_over(value: &mut Value, over: Value) {
    match (value, over) {
        (Value::Object(value), Value::Object(over)) => {
            for (key, member) in over {
                lay_over(value.entry(key).or_insert(Value::Null), member);
            }
        }
        (value, over) => *value = over,
    }
}
