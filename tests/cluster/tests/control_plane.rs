//! The control plane itself, before anything of ours is tested on it.
#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, reason = "the helpers are part of a test too")]

use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use whichpod_cluster::{Authority, Component, ControlPlane, KUBECONFIG_VARIABLE, wait_for};

fn deployment(replicas: u32) -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "backend" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "backend" } },
            "template": {
                "metadata": { "labels": { "app": "backend" } },
                "spec": { "containers": [{ "name": "backend", "image": "example.test/backend" }] },
            },
        },
    })
    .to_string()
}

#[test]
fn a_deployment_becomes_pods_and_its_events_can_be_read() {
    let control_plane = ControlPlane::shared();
    let client = control_plane.client();
    let namespace = client.namespace("pods").unwrap();
    client.pipe(&["apply", "-n", namespace.name(), "-f", "-"], &deployment(2)).unwrap();

    let owner = client
        .wait_until(&["pods", "-n", namespace.name()], |pods| {
            let pods = pods["items"].as_array()?;
            (pods.len() == 2).then(|| pods[0]["metadata"]["ownerReferences"][0]["kind"].clone())
        })
        .unwrap();
    assert_eq!(owner, "ReplicaSet");
    let created = |events: &serde_json::Value| {
        let reasons = events["items"].as_array()?.iter().map(|event| event["reason"].clone());
        reasons.into_iter().any(|reason| reason == "SuccessfulCreate").then_some(())
    };
    client.wait_until(&["events", "-n", namespace.name()], created).unwrap();
}

#[test]
fn a_pod_whose_webhook_does_not_answer_is_refused() {
    let client = ControlPlane::shared().client();
    let namespace = client.namespace("webhook").unwrap();
    // Nobody is given this port, and nobody listens there.
    let url = "https://127.0.0.1:1/mutate";
    let authority = Authority::new().unwrap();
    client.register_pod_webhook("unanswered", namespace.name(), url, &authority).unwrap();

    let pod = ["run", "pod", "--image=example.test/pod", "--dry-run=server", "-n", namespace.name()];
    let refused = wait_for("a refusal", Duration::from_secs(60), || {
        let answer = client.kubectl(&pod)?;
        Ok((!answer.status.success()).then(|| String::from_utf8_lossy(&answer.stderr).into_owned()))
    });
    client.run(&["delete", "mutatingwebhookconfiguration", "unanswered"]).unwrap();
    let refused = refused.unwrap();
    assert!(refused.contains("failed calling webhook \"unanswered.whichpod.io\""), "{refused}");
    assert!(refused.contains("connection refused"), "{refused}");
}

#[test]
fn a_chart_is_installed_and_removed() {
    let client = ControlPlane::shared().client();
    let namespace = client.namespace("chart").unwrap();
    let chart = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| std::fs::write(chart.path().join(name), content).unwrap();
    write("Chart.yaml", "apiVersion: v2\nname: little\nversion: 0.1.0\n");
    std::fs::create_dir(chart.path().join("templates")).unwrap();
    let template = "{apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}'}}";
    write("templates/map.yaml", template);

    let (here, folder) = (["-n", namespace.name()], chart.path().to_str().unwrap());
    client.helm(&[&["install", "little", folder], here.as_slice()].concat()).unwrap();
    client.get(&[&["configmap", "little"], here.as_slice()].concat()).unwrap();
    client.helm(&[&["uninstall", "little"], here.as_slice()].concat()).unwrap();
    let gone =
        client.run(&[&["get", "configmap", "little"], here.as_slice()].concat()).unwrap_err().to_string();
    assert!(gone.contains("NotFound"), "{gone}");
}

#[test]
fn what_is_stored_survives_a_crash_of_every_program() {
    let mut control_plane = ControlPlane::start_own().unwrap();
    control_plane.client().run(&["create", "configmap", "kept", "--from-literal=a=b"]).unwrap();
    for component in [Component::Etcd, Component::ApiServer, Component::ControllerManager] {
        control_plane.restart(component).unwrap();
    }
    let kept = control_plane.client().get(&["configmap", "kept"]).unwrap();
    assert_eq!(kept["data"]["a"], "b");
    // The controller manager works again too, not only the store.
    control_plane.client().namespace("after").unwrap();
}

/// The command, run with its clusters below this folder.
fn command(place: &Path, words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_whichpod-cluster"))
        .args(words)
        .env("TMPDIR", place)
        .env_remove(KUBECONFIG_VARIABLE)
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn who_takes_down_all_clusters_of_a_place_leaves_those_of_others_standing() {
    let (somebodys, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for place in [&somebodys, &ours] {
        command(place.path(), &["up", "--control-plane"]);
    }
    let clusters = |place: &tempfile::TempDir| std::fs::read_dir(place.path()).unwrap().count();
    let removed = command(ours.path(), &["down", "--all"]);
    assert!(removed.contains(ours.path().to_str().unwrap()), "{removed}");
    assert_eq!((clusters(&somebodys), clusters(&ours)), (1, 0));
    assert!(processes_that_name(somebodys.path()) >= 3);
    command(somebodys.path(), &["down"]);
    assert_eq!((clusters(&somebodys), processes_that_name(somebodys.path())), (0, 0));
}

#[test]
fn nothing_is_left_of_a_dropped_control_plane() {
    let control_plane = ControlPlane::start_own().unwrap();
    let folder = control_plane.dir().unwrap().to_owned();
    let address = control_plane.api_url().trim_start_matches("https://").to_owned();
    assert_eq!(processes_that_name(&folder), 3);
    drop(control_plane);
    assert!(!folder.exists());
    assert_eq!(processes_that_name(&folder), 0);
    assert!(std::net::TcpStream::connect(address).is_err());
}

/// Processes with the folder in their command line.
fn processes_that_name(folder: &Path) -> usize {
    let name = folder.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .filter(|command| String::from_utf8_lossy(command).contains(&name))
        .count()
}
