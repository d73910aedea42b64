//! etcd, the API server and the controller manager: enough for everything that needs no running pod.

use crate::certificates::{Authority, key_pair};
use crate::client::Client;
use crate::folder::Folder;
use crate::process::Programs;
use crate::{programs, standing, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// The addresses of Services: the upper half of 198.18.0.0/15, the range for tests of networks (RFC 2544).
pub const SERVICE_RANGE: &str = "198.19.0.0/16";
/// The address of the Service `kubernetes`, always the first of the range.
const KUBERNETES_SERVICE: &str = "198.19.0.1";
/// Generous: a start takes three seconds on an idle machine, and many times that behind a compiler.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program of a cluster; a control plane alone has the first three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The store; what is in it survives a restart.
    Etcd,
    /// The API server.
    ApiServer,
    /// Deployments, endpoints, service accounts and so on.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// What makes Services' addresses work.
    Proxy,
    /// What runs pods.
    Kubelet,
    /// CoreDNS.
    Dns,
}

impl Component {
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Proxy => "kube-proxy",
            Self::Kubelet => "kubelet",
            Self::Dns => "coredns",
        }
    }
}

/// A running control plane; its processes and its folder go when this is dropped, and the processes also when this
/// process ends in any other way.
#[derive(Debug)]
pub struct ControlPlane {
    client: Client,
    api_url: String,
    /// `None` for a cluster that the environment named.
    own: Option<Own>,
}

/// What there is of a control plane that was started here. The order is that of dropping.
#[derive(Debug)]
struct Own {
    programs: Programs,
    address: Address,
    folder: Folder,
}

/// Where the control plane listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub(crate) ip: Ipv4Addr,
    api: u16,
    etcd: u16,
    etcd_peers: u16,
}

impl ControlPlane {
    /// Starts one, or uses the cluster that `WHICHPOD_TEST_KUBECONFIG` names.
    ///
    /// It listens on loopback only, needs no privilege, and any number may run at the same time.
    pub fn start() -> Result<Self> {
        Client::of_environment()?.map_or_else(Self::start_own, Self::attach)
    }

    /// Starts one whatever the environment says.
    pub fn start_own() -> Result<Self> {
        let folder = Folder::create()?;
        let programs = Programs::new(folder.path().join("logs"))?;
        Self::launch(folder, programs, Address::unique())
    }

    /// One for all tests of a process, started by the first that asks. Its folder stays for a look until the next start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ControlPlane> = OnceLock::new();
        #[expect(clippy::panic, reason = "only tests ask, and none of them can go on")]
        SHARED.get_or_init(|| Self::start().unwrap_or_else(|error| panic!("no control plane: {error:#}")))
    }

    pub(crate) fn attach(client: Client) -> Result<Self> {
        let query = ["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"];
        let api_url = client.run(&query)?;
        client
            .run(&["get", "--raw", "/readyz"])
            .context("the cluster that the environment names is not ready")?;
        Ok(Self { client, api_url, own: None })
    }

    pub(crate) fn launch(folder: Folder, mut programs: Programs, address: Address) -> Result<Self> {
        let kubenode = programs::kubenode()?;
        let authority = Authority::new()?;
        let token = random_token()?;
        let files = Files::write(&folder, &authority, &address, &token)?;
        let mut start = |component: Component, flags: Vec<OsString>| {
            let command = [kubenode.clone().into_os_string(), component.program().into()];
            programs.start(component.program(), command.into_iter().chain(flags))
        };
        start(Component::Etcd, etcd_flags(&folder, &address))?;
        start(Component::ApiServer, api_server_flags(&folder, &files, &address))?;
        start(Component::ControllerManager, controller_manager_flags(&files))?;
        let client = Client::new(files.kubeconfig)?;
        let api_url = format!("https://{}:{}", address.ip, address.api);
        let mut started = Self { client, api_url, own: Some(Own { programs, address, folder }) };
        started.ready().inspect_err(|_| started.keep())?;
        Ok(started)
    }

    /// Waits until pods can be created in the namespace `default`.
    fn ready(&mut self) -> Result<()> {
        let Some(own) = &mut self.own else { return Ok(()) };
        let client = &self.client;
        let address = SocketAddr::from((own.address.ip, own.address.api));
        // Cheap first: kubectl costs a tenth of a second of the processor that the API server starts on.
        wait_for("the API server to listen", PATIENCE, || {
            own.programs.check()?;
            client.inside(|| TcpStream::connect(address).ok().map(drop))
        })?;
        wait_for("the API server to be ready", PATIENCE, || {
            own.programs.check()?;
            Ok(client.kubectl(&["get", "--raw", "/readyz"])?.status.success().then_some(()))
        })?;
        wait_for("the service account of the default namespace", PATIENCE, || {
            own.programs.check()?;
            let created = ["wait", "--timeout=2s", "--for=create", "serviceaccount/default"];
            Ok(client.kubectl(&created)?.status.success().then_some(()))
        })
    }

    /// Somebody with all rights.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The file that says how to reach the API server, with all rights.
    pub fn kubeconfig_path(&self) -> &Path {
        self.client.kubeconfig()
    }

    /// `https://address:port` of the API server.
    pub fn api_url(&self) -> &str {
        &self.api_url
    }

    /// The working folder, with every program's log in `logs/`; none for a cluster that the environment named.
    pub fn dir(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.folder.path())
    }

    /// Ends a program at once, as a crash does, starts it again and waits until the control plane is ready.
    pub fn restart(&mut self, component: Component) -> Result<()> {
        self.own_mut()?.programs.restart(component.program())?;
        self.ready()
    }

    /// Ends a program at once; [`ControlPlane::restart`] needs it running.
    pub fn kill(&mut self, component: Component) -> Result<()> {
        self.own_mut()?.programs.kill(component.program())
    }

    /// An error if a program has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.own.as_mut().map_or(Ok(()), |own| own.programs.check())
    }

    /// Leaves the folder for a look.
    pub(crate) fn keep(&self) {
        // Nobody wants to see why a start failed that was interrupted.
        if let Some(own) = self.own.as_ref().filter(|_| !standing::is_abandoned()) {
            own.folder.keep();
        }
    }

    pub(crate) fn parts(&mut self) -> Result<(&Folder, &mut Programs)> {
        let own = self.own_mut()?;
        Ok((&own.folder, &mut own.programs))
    }

    fn own_mut(&mut self) -> Result<&mut Own> {
        self.own.as_mut().context("the cluster is one that the environment named, it was not started here")
    }
}

impl Address {
    /// Loopback has 16 million addresses: each process takes one of its own, and counts its ports on it.
    /// 127.128.0.0/10 holds every process id (at most 2^22) and nothing that whichpod uses.
    fn unique() -> Self {
        static STARTED: AtomicU16 = AtomicU16::new(0);
        let base = 20_000 + STARTED.fetch_add(1, Ordering::Relaxed) % 1_000 * 10;
        let ip =
            Ipv4Addr::from_bits(Ipv4Addr::new(127, 128, 0, 0).to_bits() | (std::process::id() & 0x3f_ffff));
        Self { ip, api: base, etcd: base + 1, etcd_peers: base + 2 }
    }

    /// The usual ports on an address of the cluster's own network.
    pub(crate) const fn usual(ip: Ipv4Addr) -> Self {
        Self { ip, api: 6443, etcd: 2379, etcd_peers: 2380 }
    }
}

/// The files that the programs read.
struct Files {
    kubeconfig: PathBuf,
    authority: PathBuf,
    authority_key: PathBuf,
    server: PathBuf,
    server_key: PathBuf,
    kubelet_client: PathBuf,
    kubelet_client_key: PathBuf,
    account: PathBuf,
    account_key: PathBuf,
    tokens: PathBuf,
    audit: PathBuf,
}

impl Files {
    fn write(folder: &Folder, authority: &Authority, address: &Address, token: &str) -> Result<Self> {
        let ip = address.ip.to_string();
        let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let names =
            [&[ip.as_str(), KUBERNETES_SERVICE, "127.0.0.1", "localhost"], service.as_slice()].concat();
        let server = authority.server(&names)?;
        let kubelet_client = authority.client("kube-apiserver", "system:masters")?;
        let (account_key, account) = key_pair()?;
        let file = |name: &str, content: &str| folder.write(&format!("certificates/{name}"), content);
        Ok(Self {
            kubeconfig: folder.write("kubeconfig", kubeconfig(address, authority, token).to_string())?,
            authority: file("authority.crt", &authority.certificate())?,
            authority_key: file("authority.key", &authority.key())?,
            server: file("server.crt", &server.certificate)?,
            server_key: file("server.key", &server.key)?,
            kubelet_client: file("kubelet-client.crt", &kubelet_client.certificate)?,
            kubelet_client_key: file("kubelet-client.key", &kubelet_client.key)?,
            account: file("service-account.pub", &account)?,
            account_key: file("service-account.key", &account_key)?,
            tokens: file("tokens.csv", &format!("{token},admin,admin,\"system:masters\"\n"))?,
            audit: folder.write("audit-policy.json", audit_policy().to_string())?,
        })
    }
}

fn kubeconfig(address: &Address, authority: &Authority, token: &str) -> Value {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let server = format!("https://{}:{}", address.ip, address.api);
    let data = STANDARD.encode(authority.certificate());
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": server, "certificate-authority-data": data } }],
        "users": [{ "name": "admin", "user": { "token": token } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin", "namespace": "default" } }],
    })
}

/// Only writes of what admission changes, so that a test can read a webhook's annotations.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
            {
                "level": "Metadata", "verbs": ["create", "update", "patch"],
                "resources": [{ "group": "", "resources": ["pods"] }, { "group": "apps" }, { "group": "batch" }],
            },
            { "level": "None" },
        ],
    })
}

fn etcd_flags(folder: &Folder, address: &Address) -> Vec<OsString> {
    let clients = format!("http://{}:{}", address.ip, address.etcd);
    let peers = format!("http://{}:{}", address.ip, address.etcd_peers);
    vec![
        flag("data-dir", folder.path().join("etcd")),
        flag("listen-client-urls", &clients),
        flag("advertise-client-urls", &clients),
        flag("listen-peer-urls", &peers),
        flag("initial-advertise-peer-urls", &peers),
        flag("initial-cluster", format!("default={peers}")),
        flag("log-level", "warn"),
        // The data need not survive this machine's power.
        "--unsafe-no-fsync".into(),
    ]
}

fn api_server_flags(folder: &Folder, files: &Files, address: &Address) -> Vec<OsString> {
    let ip = address.ip.to_string();
    let mut flags = vec![
        flag("etcd-servers", format!("http://{ip}:{}", address.etcd)),
        flag("bind-address", &ip),
        flag("secure-port", address.api.to_string()),
        flag("service-cluster-ip-range", SERVICE_RANGE),
        flag("tls-cert-file", &files.server),
        flag("tls-private-key-file", &files.server_key),
        flag("client-ca-file", &files.authority),
        flag("token-auth-file", &files.tokens),
        flag("authorization-mode", "RBAC"),
        flag("service-account-issuer", "https://kubernetes.default.svc"),
        flag("service-account-key-file", &files.account),
        flag("service-account-signing-key-file", &files.account_key),
        flag("kubelet-client-certificate", &files.kubelet_client),
        flag("kubelet-client-key", &files.kubelet_client_key),
        // The node's name is in nobody's DNS.
        flag("kubelet-preferred-address-types", "InternalIP"),
        flag("audit-policy-file", &files.audit),
        flag("audit-log-path", folder.path().join("logs/audit.log")),
        flag("allow-privileged", "true"),
        flag("profiling", "false"),
    ];
    if address.ip.is_loopback() {
        // An endpoint may not be a loopback address, and without nodes nobody uses the Service `kubernetes`.
        flags.extend([
            flag("endpoint-reconciler-type", "none"),
            flag("advertise-address", KUBERNETES_SERVICE),
        ]);
    }
    flags
}

fn controller_manager_flags(files: &Files) -> Vec<OsString> {
    vec![
        flag("kubeconfig", &files.kubeconfig),
        flag("service-account-private-key-file", &files.account_key),
        flag("root-ca-file", &files.authority),
        flag("cluster-signing-cert-file", &files.authority),
        flag("cluster-signing-key-file", &files.authority_key),
        flag("leader-elect", "false"),
        // Tests wait for it: the default of 20 requests a second is for clusters with many.
        flag("kube-api-qps", "200"),
        flag("kube-api-burst", "400"),
        flag("secure-port", "0"),
    ]
}

pub(crate) fn flag(name: &str, value: impl Into<OsString>) -> OsString {
    let mut flag = OsString::from(format!("--{name}="));
    flag.push(value.into());
    flag
}

fn random_token() -> Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let token = programs::hex(&bytes);
    ensure!(token.len() == 32, "no randomness");
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_control_planes_of_one_process_share_no_port() {
        let (first, second) = (Address::unique(), Address::unique());
        assert!(first.ip.is_loopback() && first.ip == second.ip);
        let ports = |address: Address| [address.api, address.etcd, address.etcd_peers];
        assert!(ports(first).iter().all(|port| !ports(second).contains(port)));
    }

    #[test]
    fn an_own_loopback_address_stays_clear_of_those_that_injection_gives_out() {
        assert_ne!(Address::unique().ip.octets()[1], 77);
        assert!((128..192).contains(&Address::unique().ip.octets()[1]));
    }
}
