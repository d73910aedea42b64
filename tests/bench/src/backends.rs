//! The pods: one cheap server for each protocol, on the load's cores, that answers at every loopback address; and the DNS
//! server that says which of these are pods.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};
use whichpod_testkit::backend::free_port;
use whichpod_testkit::dns::{DnsServer, Zone};

use crate::peer::Protocol;
use crate::process::Process;
use crate::programs::Programs;
use crate::row::{Body, Pods};

/// The name of all pods: absolute, so that nobody searches.
pub const NAME: &str = "pods.bench.test.";
/// The answer of a small request.
pub const SMALL: &str = "i am backend in a pod\n";
/// Seconds that an answer holds.
const TTL: u32 = 1;
const PATIENCE: Duration = Duration::from_secs(10);

/// Running backends; they end when this is dropped.
#[derive(Debug)]
pub struct Backends {
    http1: u16,
    http2: u16,
    tcp: u16,
    zone: Zone,
    dns: DnsServer,
    _runtime: Runtime,
    _processes: Vec<Process>,
}

impl Body {
    /// How many bytes it has.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Small => SMALL.len(),
            Self::Medium => 10_000,
            Self::Large => 1_000_000,
        }
    }

    /// The path that is answered with it.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Small => "/",
            Self::Medium => "/medium",
            Self::Large => "/large",
        }
    }
}

impl Backends {
    /// Starts them all; `folder` takes their files.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn start(programs: &Programs, cores: &[usize], folder: &Path) -> Result<Self> {
        let documents = folder.join("documents");
        fs::create_dir_all(&documents)?;
        fs::write(documents.join("small"), SMALL)?;
        for body in [Body::Medium, Body::Large] {
            fs::write(folder.join("documents").join(&body.path()[1..]), "x".repeat(body.size()))?;
        }
        let [http1, http2, tcp] = [port()?, port()?, port()?];
        fs::write(folder.join("backend.conf"), nginx(http1, &documents))?;
        let bench = std::env::current_exe().context("cannot tell where this program is")?;
        let start = |name: &str, program: &PathBuf, arguments: &[String], port: u16| {
            let command: Vec<_> = std::iter::once(program.as_os_str().to_owned())
                .chain(arguments.iter().map(Into::into))
                .collect();
            let mut process = Process::start(&programs.setpriv, name, &command, cores, folder, None)?;
            process.wait_until(PATIENCE, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
            anyhow::Ok(process)
        };
        let text = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let own = format!("{}/", folder.display());
        let processes = vec![
            start(
                "backend-nginx",
                &programs.nginx,
                &text(&["-p", &own, "-e", "stderr", "-c", "backend.conf"]),
                http1,
            )?,
            start(
                "backend-nghttpd",
                &programs.nghttpd,
                &text(&[
                    "--no-tls",
                    "--address=0.0.0.0",
                    "--echo-upload",
                    "--trailer=grpc-status: 0",
                    "--max-concurrent-streams=1000",
                    &format!("--htdocs={}", documents.display()),
                    &http2.to_string(),
                ]),
                http2,
            )?,
            start("backend-echo", &bench, &text(&["echo", &format!("0.0.0.0:{tcp}")]), tcp)?,
        ];
        // Threads inherit the cores of who starts them.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let zone = Zone::new();
        let dns = runtime.block_on(DnsServer::start(zone.clone()))?;
        Ok(Self { http1, http2, tcp, zone, dns, _runtime: runtime, _processes: processes })
    }

    /// The port of the pods that speak this.
    #[must_use]
    pub fn port(&self, protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Http1 => self.http1,
            Protocol::H2c | Protocol::Grpc => self.http2,
            Protocol::Tcp => self.tcp,
        }
    }

    /// Where to ask for [`NAME`].
    #[must_use]
    pub fn dns(&self) -> SocketAddr {
        self.dns.address()
    }

    /// Has DNS know these pods until the result is dropped; they change meanwhile if they are to.
    #[must_use]
    pub fn publish(&self, pods: Pods) -> Published {
        let zone = self.zone.clone();
        let set = move |turn| {
            let addresses: Vec<IpAddr> = addresses(pods, turn).into_iter().map(IpAddr::from).collect();
            zone.set_a(NAME, &addresses, TTL);
        };
        set(0);
        let (stop, stopped) = channel();
        let changing = (pods == Pods::Changing).then(|| {
            std::thread::spawn(move || {
                for turn in (0..6).cycle().skip(1) {
                    if stopped.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                    set(turn);
                }
            })
        });
        Published { stop: Some(stop), changing }
    }
}

/// What DNS knows for now.
#[derive(Debug)]
pub struct Published {
    /// Dropped, it stops the changes.
    stop: Option<Sender<()>>,
    changing: Option<JoinHandle<()>>,
}

impl Drop for Published {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.changing.take() {
            let _ = thread.join();
        }
    }
}

/// The pods at this turn.
#[must_use]
pub fn addresses(pods: Pods, turn: u8) -> Vec<Ipv4Addr> {
    match pods {
        Pods::Three => (1..=3).map(|last| Ipv4Addr::new(127, 90, 0, last)).collect(),
        Pods::Changing => (0..3).map(|n| Ipv4Addr::new(127, 90, 0, 1 + (turn % 6 + n) % 6)).collect(),
        Pods::Thousand => {
            (0..4).flat_map(|net| (1..=250).map(move |last| Ipv4Addr::new(127, 91, net, last))).collect()
        }
    }
}

fn port() -> Result<u16> {
    free_port(&[IpAddr::V4(Ipv4Addr::UNSPECIFIED)]).context("no port for a backend")
}

/// nginx answers at next to no cost; 1 worker, no log, connections kept.
fn nginx(port: u16, documents: &Path) -> String {
    format!(
        "daemon off;
user root;
pid backend.pid;
worker_processes 1;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_timeout 1h;
    keepalive_requests 100000000;
    open_file_cache max=10;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    client_body_temp_path backend-body;
    server {{
        listen 0.0.0.0:{port} backlog=4096;
        location = / {{ return 200 \"{SMALL}\"; }}
        location / {{ root {}; }}
    }}
}}
",
        documents.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_pods_have_a_thousand_addresses() {
        let mut pods = addresses(Pods::Thousand, 0);
        pods.sort_unstable();
        pods.dedup();
        assert_eq!(pods.len(), 1_000);
    }

    #[test]
    fn every_second_one_of_three_pods_is_another() {
        for turn in 0..20 {
            let (now, next) = (addresses(Pods::Changing, turn), addresses(Pods::Changing, turn + 1));
            assert_eq!(now.iter().filter(|pod| next.contains(pod)).count(), 2, "turn {turn}");
        }
    }
}
