//! A whole node: the control plane with scheduler, kubelet on containerd, kube-proxy and CoreDNS.
//!
//! All of it runs in namespaces of its own. Its addresses, packet filter, mounts and processes are invisible to the
//! machine, and go with the first process of those namespaces.

use crate::client::{Client, KUBECONFIG_VARIABLE};
use crate::control_plane::{Address, Component, ControlPlane, flag};
use crate::exit::{self, Failure};
use crate::folder::{self, Folder};
use crate::image::Image;
use crate::process::Programs;
use crate::{cgroup, programs, settings, wait_for};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs;
use std::io::{Seek, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The node's address; every NodePort is there.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The node's name.
pub const NODE_NAME: &str = "node1";
/// The addresses of pods.
pub const POD_RANGE: &str = "198.18.1.0/24";
/// The range for tests of networks (RFC 2544): node, pods and Services are in it.
const WHOLE_RANGE: &str = "198.18.0.0/15";
/// The Service that pods ask for names.
pub(crate) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 10);

const PAUSE_IMAGE: &str = "whichpod.test/pause:1";
/// Not below the working folder: a socket's path is limited to 107 bytes.
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const PATIENCE: Duration = Duration::from_secs(120);

/// What a node's CoreDNS does that clusters differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dns {
    /// A headless Service's pods have their own names (`endpoint_pod_names`) instead of ones made of their addresses.
    pub pod_names: bool,
    /// For how many seconds an answer holds.
    pub ttl: u32,
}

impl Default for Dns {
    /// As CoreDNS has it when its Corefile does not say.
    fn default() -> Self {
        Self { pod_names: false, ttl: 5 }
    }
}

/// A running node; everything of it goes when this is dropped, and all but its folder when this process is killed.
#[derive(Debug)]
pub struct Node {
    control_plane: ControlPlane,
}

impl Node {
    /// Starts one, or uses the one whose kubeconfig `WHICHPOD_TEST_KUBECONFIG` names.
    ///
    /// Needs root and the packages of `install-debian.sh`; the error says what is missing. Any number may run at the
    /// same time.
    pub fn start() -> Result<Self> {
        match named_node()? {
            Some(client) => Ok(Self { control_plane: ControlPlane::attach(client)? }),
            None => Self::launch(),
        }
    }

    /// Starts one even if the environment names one; an error if it names somebody's own cluster.
    pub fn start_own() -> Result<Self> {
        named_node()?;
        Self::launch()
    }

    pub(crate) fn launch() -> Result<Self> {
        let plugins = check_machine()?;
        let pause = Image::new(PAUSE_IMAGE).copy(&programs::pause()?, "/pause")?.entrypoint(&["/pause"]);
        let kubenode = programs::kubenode()?;
        let folder = Folder::create()?;
        let mut programs = Programs::new(folder.path().join("logs"))?;
        enter_namespaces(&kubenode, &folder, &mut programs)?;
        programs.start("containerd", containerd(&folder, &plugins)?)?;

        let control_plane = ControlPlane::launch(folder, programs, Address::usual(NODE_ADDRESS))?;
        let mut node = Self { control_plane };
        node.complete(&kubenode, &pause).inspect_err(|_| node.control_plane.keep())?;
        Ok(node)
    }

    fn complete(&mut self, kubenode: &Path, pause: &Image) -> Result<()> {
        self.wait_for_containerd()?;
        import(self.client().namespaces_of().context("no namespaces")?, pause)?;
        self.start_programs(kubenode)?;
        self.client().apply(&settings::dns_service().to_string())?;
        self.ready()
    }

    fn start_programs(&mut self, kubenode: &Path) -> Result<()> {
        let (folder, programs) = self.control_plane.parts()?;
        let kubeconfig = folder.path().join("kubeconfig");
        let scheduler = folder.write("scheduler.json", settings::scheduler(&kubeconfig).to_string())?;
        let proxy = folder.write("proxy.json", settings::proxy(&kubeconfig).to_string())?;
        let kubelet =
            folder.write("kubelet.json", settings::kubelet(folder, CONTAINERD_SOCKET)?.to_string())?;
        let corefile = folder.write("Corefile", settings::corefile(&kubeconfig, Dns::default()))?;
        // Pods get these servers too where they ask for the node's: none.
        folder.write("resolv.conf", "")?;

        let mut start = |component: Component, flags: &[OsString]| {
            let command = [kubenode.into(), OsString::from(component.program())];
            programs.start(component.program(), command.into_iter().chain(flags.iter().cloned()))
        };
        start(Component::Scheduler, &[flag("config", scheduler)])?;
        start(Component::Proxy, &[flag("config", proxy)])?;
        start(Component::Dns, &[OsString::from("-conf"), corefile.into()])?;
        start(
            Component::Kubelet,
            &[
                flag("config", kubelet),
                flag("kubeconfig", &kubeconfig),
                flag("hostname-override", NODE_NAME),
                flag("node-ip", NODE_ADDRESS.to_string()),
                flag("root-dir", folder.path().join("kubelet")),
            ],
        )
        .map(drop)
    }

    /// Waits until pods are scheduled, Services reach them and names are answered.
    fn ready(&mut self) -> Result<()> {
        self.healthy("the kubelet to be healthy", settings::KUBELET_PORT, "/healthz")?;
        self.healthy("kube-proxy to be healthy", settings::PROXY_PORT, "/healthz")?;
        let node = format!("node/{NODE_NAME}");
        self.wait("the node to be ready", |client| {
            let wait = ["wait", "--timeout=2s", "--for=condition=Ready", &node];
            Ok(client.kubectl(&wait)?.status.success().then_some(()))
        })?;
        self.wait("the node to accept pods", |client| {
            Ok(client.get(&[&node])?["spec"]["taints"].is_null().then_some(()))
        })?;
        self.dns_ready()
    }

    fn dns_ready(&mut self) -> Result<()> {
        self.healthy("CoreDNS to be ready", settings::DNS_PORT, "/ready")
    }

    fn healthy(&mut self, what: &str, port: u16, path: &str) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        self.wait(what, |client| {
            let answer = client.inside(|| crate::http_get(address, path))?;
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })
    }

    fn wait_for_containerd(&mut self) -> Result<()> {
        let namespaces = self.client().namespaces_of().context("no namespaces")?;
        self.wait("containerd to listen", |_| {
            let mut version = ctr(namespaces);
            Ok(version.arg("version").output()?.status.success().then_some(()))
        })
    }

    /// Waits, but no longer than every program runs.
    fn wait(&mut self, what: &str, mut probe: impl FnMut(&Client) -> Result<Option<()>>) -> Result<()> {
        wait_for(what, PATIENCE, || {
            self.control_plane.check()?;
            probe(self.control_plane.client())
        })
    }

    /// Somebody with all rights.
    pub fn client(&self) -> &Client {
        self.control_plane.client()
    }

    /// What the node shares with a control plane alone.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// Runs `work` while this program is away, and starts it again.
    pub fn without<T>(&mut self, component: Component, work: impl FnOnce(&Client) -> T) -> Result<T> {
        let client = self.client().clone();
        let (_, programs) = self.control_plane.parts()?;
        let stopped = programs.stop(component.program())?;
        let result = work(&client);
        let (_, programs) = self.control_plane.parts()?;
        programs.start_again(stopped)?;
        self.ready()?;
        Ok(result)
    }

    /// Ends a program at once, as a crash does, starts it again and waits until the node is ready.
    pub fn restart(&mut self, component: Component) -> Result<()> {
        self.control_plane.restart(component)?;
        self.ready()
    }

    /// Makes CoreDNS start again with these settings.
    pub fn set_dns(&mut self, dns: Dns) -> Result<()> {
        let (folder, programs) = self.control_plane.parts()?;
        let kubeconfig = folder.path().join("kubeconfig");
        folder.write("Corefile", settings::corefile(&kubeconfig, dns))?;
        programs.restart(Component::Dns.program())?;
        self.dns_ready()
    }
}

/// The node of ours that the environment names. What needs one must not seem to have run on somebody's own cluster.
fn named_node() -> Result<Option<Client>> {
    let named = Client::of_environment()?;
    if let Some(client) = named.as_ref().filter(|client| client.is_foreign()) {
        bail!(
            "this cannot run on the cluster that {KUBECONFIG_VARIABLE} names ({}): it needs a node of its own, whose \
             programs it stops and sets up. Run it without that variable (on Linux, as root); `--test scenario` has \
             what runs on any cluster",
            client.kubeconfig().display()
        );
    }
    Ok(named)
}

/// Starts the first process of the namespaces, and makes every later one start in them.
fn enter_namespaces(kubenode: &Path, folder: &Folder, programs: &mut Programs) -> Result<()> {
    let name = folder.path().file_name().context("the folder has no name")?.to_string_lossy().into_owned();
    cgroup::create(&name).context("cannot make a control group")?;
    let unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let command = unshare.into_iter().map(OsString::from).chain([kubenode.into(), "init".into()]);
    let process = programs.start("init", command)?;
    let log = programs.log_path("init");
    wait_for("the node's first process", PATIENCE, || {
        programs.check()?;
        Ok(fs::read_to_string(&log)?.contains("ready").then_some(()))
    })?;
    Client::tell_namespaces(folder.path(), process)?;
    programs.enter(entering(process));

    let script = folder.write("node-setup.sh", include_str!("../config/node-setup.sh"))?;
    let arguments: [OsString; 5] = [
        "sh".into(),
        script.into(),
        folder.path().into(),
        NODE_ADDRESS.to_string().into(),
        WHOLE_RANGE.into(),
    ];
    programs.run("setup", arguments)
}

/// The command line to go before another that is to run on the node: in its network, with its mounts and processes.
///
/// `process` is the `unshare`: it has entered the first two itself and started the third's first process.
fn entering(process: u32) -> Vec<OsString> {
    let namespace =
        |option: &str, name: &str| OsString::from(format!("--{option}=/proc/{process}/ns/{name}"));
    vec![
        "nsenter".into(),
        namespace("net", "net"),
        namespace("mount", "mnt"),
        namespace("pid", "pid_for_children"),
        "--".into(),
    ]
}

fn ctr(namespaces: u32) -> Command {
    let prefix = entering(namespaces);
    let mut command = Command::new(&prefix[0]);
    command.args(&prefix[1..]).args(["ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"]);
    command
}

/// Brings an image to the node in the namespaces of this process.
pub(crate) fn import(namespaces: u32, image: &Image) -> Result<()> {
    let mut archive = tempfile::tempfile().context("cannot write an image to a temporary file")?;
    archive.write_all(&image.archive()?)?;
    archive.rewind()?;
    let output = ctr(namespaces).args(["images", "import", "-"]).stdin(archive).output()?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "containerd did not take the image {}: {}",
        image.name(),
        message.trim()
    );
    Ok(())
}

fn containerd(folder: &Folder, plugins: &Path) -> Result<[OsString; 3]> {
    folder.write("cni/10-pods.conflist", settings::network().to_string())?;
    let text = include_str!("../config/containerd.toml")
        .replace("{folder}", &folder.path().to_string_lossy())
        .replace("{socket}", CONTAINERD_SOCKET)
        .replace("{pause}", PAUSE_IMAGE)
        .replace("{plugins}", &plugins.to_string_lossy());
    Ok(["containerd".into(), "--config".into(), folder.write("containerd.toml", text)?.into()])
}

/// Says everything that is missing at once; gives the folder of the network plugins.
pub(crate) fn check_machine() -> Result<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        let why = "a node cannot run here: it makes namespaces and mounts, run as root; `up --control-plane` needs no root, \
                   and runs no pods";
        return Err(Failure::new(exit::NO_PERMISSION, why).into());
    }
    let temporary = std::env::temp_dir();
    if ["/run", "/var/log", "/var/lib/cni"].iter().any(|hidden| temporary.starts_with(hidden)) {
        let why = format!(
            "a node cannot run in {}, where it mounts something of its own: set TMPDIR to another folder",
            temporary.display()
        );
        return Err(Failure::new(exit::USAGE, why).into());
    }
    folder::check_room()?;
    let mut missing = Vec::new();
    let needed =
        ["containerd", "ctr", "runc", "ip", "iptables", "conntrack", "mount", "unshare", "nsenter", "sh"];
    let programs = needed.iter().filter(|name| programs::in_path(name).is_none());
    missing.extend(programs.map(|name| format!("the program {name}")));
    let plugins = ["/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from).into_iter().find(|folder| {
        ["bridge", "host-local", "portmap", "loopback"].iter().all(|plugin| folder.join(plugin).is_file())
    });
    if plugins.is_none() {
        missing.push("the network plugins in /usr/lib/cni or /opt/cni/bin".to_owned());
    }
    match plugins {
        Some(plugins) if missing.is_empty() => Ok(plugins),
        _ => {
            let why = format!(
                "a node cannot run here, missing: {}. On Debian: tests/cluster/install-debian.sh, or apt-get install \
                 containerd runc containernetworking-plugins iproute2 iptables conntrack busybox-static nginx-light \
                 util-linux",
                missing.join(", ")
            );
            Err(Failure::new(exit::UNAVAILABLE, why).into())
        }
    }
}
