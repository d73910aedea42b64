//! Starting a program, waiting until it listens, and running a client to its end.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take that should take a second or two.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Databases refuse to run as root.
const NOBODY: u32 = 65_534;

/// A program that serves; it is killed when this is dropped.
pub struct Server {
    _child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it keeps.
    pub folder: TempDir,
}

/// What a program has said to its end.
#[derive(Debug)]
pub struct Output {
    /// It was content.
    pub success: bool,
    /// What it wrote to stdout and stderr.
    pub text: String,
}

/// A folder that [`as_nobody`] may write to.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    if is_root() {
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("the folder can be given away");
    }
    folder
}

/// A loopback address of this process and of nothing else in it, so that its ports stay free until a program takes them.
pub(crate) fn own_address(port: u16) -> SocketAddr {
    static TAKEN: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let number = TAKEN.fetch_add(1, Relaxed);
    SocketAddr::from((Ipv4Addr::new(127, 60 + number, high, low), port))
}

/// The command, run by somebody who is not root.
pub(crate) fn as_nobody(program: &Path, arguments: &[&str]) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(arguments).env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent");
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Starts it, and waits until it accepts connections.
pub(crate) async fn serve(mut command: Command, address: SocketAddr, folder: TempDir) -> Server {
    let log = std::fs::File::create(folder.path().join("log")).expect("a log");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).kill_on_drop(true);
    let child = command.spawn();
    let mut child = child.expect("the program is installed: see install-debian.sh");
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).await.is_err() {
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        let running = child.try_wait().is_ok_and(|ended| ended.is_none());
        assert!(running && Instant::now() < deadline, "{command:?} does not listen:\n{}", log());
        sleep(Duration::from_millis(50)).await;
    }
    Server { _child: child, address, folder }
}

/// Runs a client to its end.
pub async fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(command).await
}

/// Runs it to its end.
pub(crate) async fn finish(mut command: Command) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await;
    let output = output.expect("it ends").expect("the program is installed: see install-debian.sh");
    let text = [output.stdout, output.stderr].concat();
    Output { success: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() }
}
