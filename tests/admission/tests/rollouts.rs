//! No rollout that nobody asked for, with the real controllers at work.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::{Value, json};
use whichpod_cluster::wait_for;
use whichpod_tests_admission::{Installation, User, asking, backend, deployment, sidecar};

const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "deployment/nginx-test";
const NEXT: &str = "--image=whichpod-sidecar:next";

fn template(user: &User) -> Value {
    user.get(NAME).unwrap()["spec"]["template"].clone()
}

fn replica_sets(user: &User) -> usize {
    user.get("replicasets").unwrap()["items"].as_array().unwrap().len()
}

/// The Deployment's controller has seen its last change.
fn settled(user: &User) {
    wait_for("the Deployment's controller", PATIENCE, || {
        let deployment = user.get(NAME)?;
        let observed = &deployment["status"]["observedGeneration"];
        Ok((*observed == deployment["metadata"]["generation"]).then_some(()))
    })
    .unwrap();
}

/// Everything that people and controllers write all day without changing the template.
fn a_days_writes(user: &User, replicas: &str) {
    let scaled = format!(r#"{{"spec":{{"replicas":{replicas}}}}}"#);
    let progressed = r#"{"status":{"readyReplicas":0}}"#;
    for write in [
        ["scale", NAME, "--replicas", replicas].as_slice(),
        // As the horizontal autoscaler does, and as autoscalers do that know no subresource.
        &["patch", NAME, "--subresource=scale", "--type=merge", "-p", &scaled],
        &["patch", NAME, "--type=merge", "-p", &scaled],
        &["patch", NAME, "--subresource=status", "--type=merge", "-p", progressed],
        &["annotate", "--overwrite", NAME, &format!("example.test/note={replicas}")],
        &["label", "--overwrite", NAME, &format!("example.test/label={replicas}")],
        &["rollout", "pause", NAME],
        &["rollout", "resume", NAME],
        &["patch", NAME, "--type=merge", "-p", r#"{"spec":{"revisionHistoryLimit":5}}"#],
    ] {
        user.kubectl(write).unwrap();
    }
    user.apply(&asking(), &[]).unwrap();
    user.apply(&asking(), &["--server-side", "--force-conflicts", "--field-manager=gitops"]).unwrap();
    settled(user);
}

#[test]
fn a_days_writes_and_an_upgrade_of_whichpod_start_no_pod_anew() {
    let installation = Installation::new("constant").unwrap();
    let old = installation.start(&[]).unwrap();
    let user = User::new(&installation, "constant").unwrap();
    user.serve(&backend()).unwrap();
    user.apply(&asking(), &[]).unwrap();
    user.get_all("pods", 2).unwrap();
    let first = template(&user);
    assert!(sidecar(&first["spec"]).is_some());
    a_days_writes(&user, "3");
    old.stop();
    // While no webhook is there, too: what stands in the object stays in it.
    user.kubectl(&["scale", NAME, "--replicas=1"]).unwrap();
    let _new = installation.start(&[NEXT]).unwrap();
    a_days_writes(&user, "4");
    assert_eq!(template(&user).to_string(), first.to_string());
    assert_eq!(replica_sets(&user), 1);

    // The next change of the template brings the new version, with that change and nothing else.
    user.kubectl(&["set", "image", NAME, "nginx=example.test/nginx:2"]).unwrap();
    settled(&user);
    let mut second = template(&user);
    assert_eq!(sidecar(&second["spec"]).unwrap()["image"], "whichpod-sidecar:next");
    assert_eq!(second["spec"]["containers"][0]["image"], "example.test/nginx:2");
    second["spec"]["containers"][0]["image"] = first["spec"]["containers"][0]["image"].clone();
    second["spec"]["initContainers"][0]["image"] = first["spec"]["initContainers"][0]["image"].clone();
    second["metadata"]["annotations"] = first["metadata"]["annotations"].clone();
    assert_eq!(second, first);
    user.get_all("replicasets", 2).unwrap();

    // And back: the old ReplicaSet serves again, with the sidecar that it had.
    user.kubectl(&["rollout", "undo", NAME]).unwrap();
    settled(&user);
    assert_eq!(template(&user), first);
    assert_eq!(replica_sets(&user), 2, "an undo makes none");
    user.kubectl(&["rollout", "undo", NAME]).unwrap();
    settled(&user);
    assert_eq!(replica_sets(&user), 2);
    assert_eq!(sidecar(&template(&user)["spec"]).unwrap()["image"], "whichpod-sidecar:next");
}

#[test]
fn a_restart_brings_what_is_new_and_is_one_rollout() {
    let installation = Installation::new("restart").unwrap();
    let old = installation.start(&[]).unwrap();
    let user = User::new(&installation, "restart").unwrap();
    user.serve(&backend()).unwrap();
    user.create(&asking()).unwrap();
    user.get_all("replicasets", 1).unwrap();
    old.stop();
    let _new = installation.start(&[NEXT]).unwrap();
    user.kubectl(&["rollout", "restart", NAME]).unwrap();
    settled(&user);
    assert_eq!(sidecar(&template(&user)["spec"]).unwrap()["image"], "whichpod-sidecar:next");
    user.get_all("replicasets", 2).unwrap();
    a_days_writes(&user, "2");
    assert_eq!(replica_sets(&user), 2);
}

#[test]
fn an_annotation_that_is_added_or_removed_is_one_rollout_and_leaves_nothing_behind() {
    let installation = Installation::new("annotated").unwrap();
    let _replica = installation.start(&[]).unwrap();
    let user = User::new(&installation, "annotated").unwrap();
    user.serve(&backend()).unwrap();
    user.create(&deployment(&json!({}))).unwrap();
    user.get_all("replicasets", 1).unwrap();
    let plain = template(&user);
    user.kubectl(&["annotate", NAME, "whichpod.io/upstreams=backend-service:10000"]).unwrap();
    assert!(sidecar(&template(&user)["spec"]).is_some());
    user.get_all("replicasets", 2).unwrap();
    user.kubectl(&["annotate", NAME, "whichpod.io/upstreams-"]).unwrap();
    settled(&user);
    assert_eq!(template(&user).to_string(), plain.to_string());
    assert_eq!(replica_sets(&user), 2, "the one from before serves again");
}

#[test]
fn a_labelled_namespaces_replica_sets_stay_their_deployments() {
    let installation = Installation::new("owners").unwrap();
    let _replica = installation.start(&[]).unwrap();
    let user = User::labelled(&installation, "owners", "enabled").unwrap();
    user.serve(&backend()).unwrap();
    user.create(&deployment(&json!({}))).unwrap();
    wait_for("pods with a sidecar", PATIENCE, || {
        let pods = user.get("pods")?["items"].as_array().cloned().unwrap_or_default();
        Ok((pods.len() == 2 && pods.iter().all(|pod| sidecar(&pod["spec"]).is_some())).then_some(()))
    })
    .unwrap();
    for replicas in ["3", "1", "2"] {
        user.kubectl(&["scale", NAME, "--replicas", replicas]).unwrap();
        settled(&user);
    }
    assert_eq!(replica_sets(&user), 1);
    assert!(sidecar(&template(&user)["spec"]).is_none(), "the template stays its owner's");
    assert!(
        user.get("replicasets").unwrap()["items"][0]["spec"]["template"]["spec"]
            .get("initContainers")
            .is_none()
    );
}

#[test]
fn a_stateful_set_and_a_daemon_set_make_one_revision() {
    let installation = Installation::new("revisions").unwrap();
    let old = installation.start(&[]).unwrap();
    let user = User::new(&installation, "revisions").unwrap();
    user.serve(&backend()).unwrap();
    for kind in ["StatefulSet", "DaemonSet"] {
        let mut set = asking();
        set["kind"] = json!(kind);
        set["spec"].as_object_mut().unwrap().remove("replicas");
        if kind == "StatefulSet" {
            set["spec"]["serviceName"] = json!("backend-service");
        }
        user.create(&set).unwrap();
    }
    user.get_all("controllerrevisions", 2).unwrap();
    old.stop();
    let _new = installation.start(&[NEXT]).unwrap();
    user.kubectl(&["scale", "statefulset/nginx-test", "--replicas=2"]).unwrap();
    for kind in ["statefulset/nginx-test", "daemonset/nginx-test"] {
        user.kubectl(&["annotate", kind, "example.test/note=x"]).unwrap();
        user.kubectl(&["label", kind, "example.test/label=x"]).unwrap();
        wait_for("its controller", PATIENCE, || {
            let set = user.get(kind)?;
            Ok((set["status"]["observedGeneration"] == set["metadata"]["generation"]).then_some(()))
        })
        .unwrap();
    }
    assert_eq!(user.get("controllerrevisions").unwrap()["items"].as_array().unwrap().len(), 2);
}

#[test]
fn an_injected_job_runs_once_and_can_be_deleted_in_the_foreground() {
    let installation = Installation::new("jobs").unwrap();
    let _replica = installation.start(&[]).unwrap();
    let user = User::new(&installation, "jobs").unwrap();
    user.serve(&backend()).unwrap();
    let annotations = json!({ "whichpod.io/upstreams": "backend-service:10000" });
    let job = json!({ "template": {
        "spec": { "restartPolicy": "Never", "containers": [{ "name": "app", "image": "example.test/app" }] },
    } });
    user.create(&json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "cron", "annotations": annotations },
        "spec": { "schedule": "0 0 1 1 *", "jobTemplate": { "spec": job } },
    }))
    .unwrap();
    user.create(&json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "job", "annotations": annotations }, "spec": job,
    }))
    .unwrap();
    user.kubectl(&["create", "job", "from-cron", "--from=cronjob/cron"]).unwrap();
    let pods = user.get_all("pods", 2).unwrap();
    assert!(pods.iter().all(|pod| sidecar(&pod["spec"]).is_some()));
    user.kubectl(&["annotate", "job", "job", "whichpod.io/upstreams-"]).unwrap();
    user.kubectl(&["annotate", "job", "from-cron", "whichpod.io/redirect=env"]).unwrap();
    for job in ["job", "from-cron"] {
        user.kubectl(&["delete", "job", job, "--cascade=foreground", "--timeout=60s"]).unwrap();
    }
    user.get_all("jobs", 0).unwrap();
    // Its own webhook entry is not asked about what goes; neither is the Deployment's.
    user.create(&asking()).unwrap();
    user.kubectl(&["delete", NAME, "--cascade=foreground", "--timeout=60s"]).unwrap();
    user.get_all("replicasets", 0).unwrap();
}
