//! A node leaves nothing behind, whatever way its owner ends, and while it runs it changes nothing of the machine.
#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, reason = "the helpers are part of a test too")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use whichpod_cluster::{Client, KUBECONFIG_VARIABLE, clear, images, wait_for};

/// Killed processes are taken down one after the other.
const LAST_BREATHS: Duration = Duration::from_secs(30);

/// What everybody on the machine sees: its mounts and its network devices.
fn machine() -> (BTreeSet<String>, BTreeSet<PathBuf>) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned).collect();
    let devices = fs::read_dir("/sys/class/net").unwrap().map(|device| device.unwrap().path()).collect();
    (mounts, devices)
}

/// Everything that runs in the process namespace that this process made: the node's programs, containers and all.
fn processes_of(owner: &str) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_in =
        |process: &PathBuf| fs::read_link(process.join("ns/pid")).is_ok_and(|name| name == Path::new(owner));
    processes.filter(is_in).collect()
}

fn control_groups(name: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let roots = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
    roots.map(|root| root.join(name)).filter(|group| group.exists()).collect()
}

fn left_by(signal: Signal) {
    let before = machine();
    // A shell has what it starts in the background ignore an interruption, and so does everything below it.
    let mut owner = Command::new("env")
        .args(["--default-signal=INT", env!("CARGO_BIN_EXE_whichpod-cluster"), "hold"])
        .env_remove(KUBECONFIG_VARIABLE)
        // Its end would be the cluster's.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut kubeconfig = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut kubeconfig).unwrap();
    let kubeconfig = PathBuf::from(kubeconfig.trim_end());
    let folder = kubeconfig.parent().unwrap();
    let name = folder.file_name().unwrap().to_str().unwrap();

    let client = Client::new(kubeconfig.clone()).unwrap();
    client.import(images::app).unwrap();
    let container = json!({ "name": "app", "image": images::APP, "imagePullPolicy": "Never" });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "app" }, "spec": { "containers": [container] },
    });
    client.create(&pod.to_string()).unwrap();
    client.wait(&["--for=condition=Ready", "pod/app"]).unwrap();
    let namespaces = fs::read_to_string(folder.join("namespaces-of")).unwrap();
    let inner = fs::read_link(format!("/proc/{}/ns/pid_for_children", namespaces.trim())).unwrap();
    let inner = inner.to_str().unwrap();
    assert!(processes_of(inner).len() >= 8, "{:?}", processes_of(inner));
    assert!(!control_groups(name).is_empty());
    assert_eq!(machine(), before, "a running node changes nothing of the machine");

    kill_process(Pid::from_child(&owner), signal).unwrap();
    owner.wait().unwrap();
    wait_for("the end of every process", LAST_BREATHS, || Ok(processes_of(inner).is_empty().then_some(())))
        .unwrap();
    assert_eq!(machine(), before);
    clear();
    assert!(!folder.exists(), "{}", folder.display());
    assert_eq!(control_groups(name), Vec::<PathBuf>::new());
}

/// The command, with its clusters below this folder.
fn command(place: &Path, script: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_whichpod-cluster")]);
    command.arg(place).env("TMPDIR", place).env_remove(KUBECONFIG_VARIABLE);
    command
}

#[test]
fn nothing_is_left_of_an_up_that_is_interrupted_or_killed_before_it_is_done() {
    for signal in [Signal::INT, Signal::KILL] {
        let (before, place) = (machine(), tempfile::tempdir().unwrap());
        let mut up = command(place.path(), "exec \"$1\" up").stdout(Stdio::null()).spawn().unwrap();
        let folders = || fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path());
        let folder = wait_for("the API server's start", LAST_BREATHS.saturating_mul(20), || {
            assert!(up.try_wait().unwrap().is_none(), "it is still starting");
            Ok(folders().find(|folder| folder.join("logs/kube-apiserver.log").exists()))
        })
        .unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(!control_groups(name).is_empty());
        kill_process(Pid::from_child(&up), signal).unwrap();
        assert!(!up.wait().unwrap().success());
        wait_for("an empty folder", LAST_BREATHS, || Ok((folders().count() == 0).then_some(()))).unwrap();
        assert_eq!((machine(), control_groups(name)), (before, Vec::new()));
    }
}

#[test]
fn an_up_that_is_killed_can_be_taken_down_at_once() {
    let place = tempfile::tempdir().unwrap();
    let mut up = command(place.path(), "exec \"$1\" up").stdout(Stdio::null()).spawn().unwrap();
    let folders = || fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path());
    wait_for("a folder with its holder's name", LAST_BREATHS.saturating_mul(20), || {
        Ok(folders().find(|folder| folder.join("holder").exists()).map(drop))
    })
    .unwrap();
    up.kill().unwrap();
    up.wait().unwrap();
    for _ in 0..2 {
        assert!(command(place.path(), "exec \"$1\" down").output().unwrap().status.success());
        assert_eq!(folders().count(), 0);
    }
}

#[test]
fn what_the_machine_lacks_is_told_at_once_with_a_remedy_and_an_exit_code_that_says_of_what_kind_it_is() {
    let mount = "mount -t tmpfs -o";
    let cases = [
        (
            format!("{mount} size=8m none \"$2\"; exec \"$1\" up"),
            73,
            "8 MiB are free, 512 are needed: set TMPDIR",
        ),
        (format!("{mount} ro none \"$2\"; exec \"$1\" up"), 73, "it is read-only: set TMPDIR"),
        ("TMPDIR=/no/such exec \"$1\" up".to_owned(), 74, "a cluster cannot run in /no/such"),
        ("TMPDIR=/run exec \"$1\" up".to_owned(), 64, "set TMPDIR to another folder"),
        ("exec unshare --user -- \"$1\" up".to_owned(), 77, "run as root"),
        (
            "mount --bind /dev/null /usr/sbin/nginx; exec \"$1\" images \"$2\"/out".to_owned(),
            69,
            "missing: /usr/sbin/nginx",
        ),
        ("PATH= exec \"$1\" up".to_owned(), 69, "missing: the program containerd"),
        ("exec \"$1\" sideways".to_owned(), 64, "unrecognized subcommand 'sideways'"),
        (
            "WHICHPOD_TEST_KUBECONFIG=/etc/hosts exec \"$1\" down".to_owned(),
            64,
            "of no cluster that `up` left",
        ),
    ];
    for (script, code, told) in cases {
        let place = tempfile::tempdir().unwrap();
        let script = format!("set -e; {script}");
        // What is mounted goes with the namespace.
        let ran = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_whichpod-cluster")])
            .arg(place.path())
            .env("TMPDIR", place.path())
            .env_remove(KUBECONFIG_VARIABLE)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{script}: {text}");
        assert!(text.starts_with("whichpod-cluster: ") && text.contains(told), "{script}: {text}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "{script}");
    }
}

#[test]
fn nothing_is_left_of_a_node_whose_owner_is_killed() {
    left_by(Signal::KILL);
}

#[test]
fn nothing_is_left_of_a_node_whose_owner_is_interrupted() {
    left_by(Signal::INT);
}
