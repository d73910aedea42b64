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
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut kubeconfig = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut kubeconfig).unwrap();
    let kubeconfig = PathBuf::from(kubeconfig.trim_end());
    let folder = kubeconfig.parent().unwrap();
    let name = folder.file_name().unwrap().to_str().unwrap();

    let client = Client::new(kubeconfig.clone()).unwrap();
    client.import(&images::app().unwrap()).unwrap();
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

#[test]
fn nothing_is_left_of_a_node_whose_owner_is_killed() {
    left_by(Signal::KILL);
}

#[test]
fn nothing_is_left_of_a_node_whose_owner_is_interrupted() {
    left_by(Signal::INT);
}
