//! What users and their tools do to objects with a sidecar, on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::{Value, json};
use whichpod_cluster::wait_for;
use whichpod_tests_admission::{Installation, Replica, User, asking, backend, deployment, sidecar};

const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "deployment/nginx-test";
/// As Argo CD applies where it is told to do so on the server, and Flux by another name.
const BY_ARGO: &[&str] = &["--server-side", "--field-manager=argocd-controller", "--force-conflicts"];

struct Scene {
    installation: Installation,
    replica: Replica,
    user: User,
}

fn scene(prefix: &str) -> Scene {
    let installation = Installation::new(prefix).unwrap();
    let replica = installation.start(&[]).unwrap();
    let user = User::new(&installation, prefix).unwrap();
    user.serve(&backend()).unwrap();
    Scene { installation, replica, user }
}

impl Scene {
    fn deployment(&self) -> Value {
        self.user.get(NAME).unwrap()
    }

    fn template(&self) -> Value {
        self.deployment()["spec"]["template"].clone()
    }

    fn patch(&self, patch: &Value) -> String {
        let ran = self.user.kubectl(&["patch", NAME, "--type=json", "-p", &patch.to_string()]).unwrap();
        ran.err
    }
}

#[test]
fn applying_twice_is_no_change_and_no_diff_however_it_is_applied() {
    no_diff_of(&scene("twice"), &asking(), &[&[], &["--server-side"], BY_ARGO]);
}

#[test]
fn applying_twice_is_no_diff_either_where_values_of_the_users_own_are_rewritten() {
    let mut object = asking();
    object["metadata"]["annotations"]["whichpod.io/redirect"] = json!("env");
    let value = json!([{ "name": "BACKEND", "value": "http://backend-service:10000/" }]);
    object["spec"]["template"]["spec"]["containers"][0]["env"] = value.clone();
    let scene = scene("rewritten");
    // Others than who applied it first would have to say that the value is to be theirs.
    no_diff_of(&scene, &object, &[&["--server-side"], BY_ARGO, &["--server-side", "--force-conflicts"]]);
    assert_ne!(scene.template()["spec"]["containers"][0]["env"], value, "it leads to the sidecar");
}

/// Applies the object in these ways, with no diff afterwards and no change by applying it again.
fn no_diff_of(scene: &Scene, object: &Value, ways: &[&[&str]]) {
    for flags in ways {
        scene.user.apply(object, flags).unwrap();
        let first = scene.deployment();
        assert!(sidecar(&first["spec"]["template"]["spec"]).is_some());
        let mut arguments = vec!["diff", "-f", "-"];
        arguments.extend(*flags);
        // Its controller writes the status meanwhile; what `apply` would change stays until somebody applies.
        let mut last = None;
        let same = wait_for("no diff", PATIENCE, || {
            let diff = scene.user.try_kubectl(&arguments, Some(object))?;
            let same = diff.ok && diff.out.is_empty();
            last = Some(diff);
            Ok(same.then_some(()))
        });
        assert!(same.is_ok(), "{flags:?}: {last:?}");
        let again = scene.user.apply(object, flags).unwrap();
        assert!(again.err.is_empty(), "{flags:?}: {}", again.err);
        let second = scene.deployment();
        assert_eq!(second["metadata"]["generation"], first["metadata"]["generation"], "{flags:?}");
        assert_eq!(second["spec"], first["spec"], "{flags:?}");
    }
    // As `kubectl replace` and `kubectl edit` do: the whole object as its owner has it.
    let before = scene.deployment();
    let replaced = scene.user.try_kubectl(&["replace", "-f", "-"], Some(object)).unwrap();
    assert!(replaced.ok, "{replaced:?}");
    assert_eq!(scene.deployment()["spec"], before["spec"]);
}

#[test]
fn what_a_user_edits_in_the_additions_survives_taking_out() {
    let scene = scene("edited");
    scene.user.apply(&asking(), &[]).unwrap();
    // While the webhook is away, which else would write its own parts anew: another name at our address, an alias of the
    // user's own, a variable for our container.
    let Scene { installation, replica, user } = scene;
    replica.kill();
    let patch = json!([
        { "op": "add", "path": "/spec/template/spec/hostAliases/0/hostnames/-", "value": "mine.example.test" },
        { "op": "add", "path": "/spec/template/spec/hostAliases/-", "value": { "ip": "198.51.100.7", "hostnames": ["other"] } },
        { "op": "add", "path": "/spec/template/spec/initContainers/0/env/-", "value": { "name": "MINE", "value": "x" } },
    ]);
    user.kubectl(&["patch", NAME, "--type=json", "-p", &patch.to_string()]).unwrap();
    let replica = installation.start(&[]).unwrap();
    let scene = Scene { installation, replica, user };
    let removed = scene.user.kubectl(&["annotate", NAME, "whichpod.io/upstreams-"]).unwrap();
    let pod = scene.template();
    assert_eq!(
        pod["spec"]["hostAliases"],
        json!([
            { "ip": pod["spec"]["hostAliases"][0]["ip"], "hostnames": ["mine.example.test"] },
            { "ip": "198.51.100.7", "hostnames": ["other"] },
        ])
    );
    assert_eq!(pod["spec"]["initContainers"][0]["env"][1]["name"], "MINE", "the container is the user's now");
    assert!(pod["metadata"]["annotations"].get("whichpod.io/status").is_none());
    for kept in ["hostAliases", "initContainers/whichpod"] {
        assert!(removed.err.contains("Warning") && removed.err.contains(kept), "{kept}: {}", removed.err);
    }
}

#[test]
fn an_image_that_somebody_sets_for_the_sidecar_stays_and_is_theirs() {
    let scene = scene("image");
    scene.user.apply(&asking(), &[]).unwrap();
    scene.user.kubectl(&["set", "image", NAME, "whichpod=mirror.example.test/whichpod-sidecar:7"]).unwrap();
    scene.user.kubectl(&["scale", NAME, "--replicas=1"]).unwrap();
    let image = |pod: &Value| sidecar(&pod["spec"]).unwrap()["image"].clone();
    assert_eq!(image(&scene.template()), "mirror.example.test/whichpod-sidecar:7");
    let removed = scene.user.kubectl(&["annotate", NAME, "whichpod.io/upstreams-"]).unwrap();
    assert!(removed.err.contains("initContainers/whichpod was changed"), "{}", removed.err);
    assert_eq!(image(&scene.template()), "mirror.example.test/whichpod-sidecar:7");
    assert!(scene.template()["spec"].get("hostAliases").is_none(), "nothing leads there any more");
}

#[test]
fn a_new_template_replaces_what_whichpod_added_and_nothing_else() {
    let scene = scene("replaced");
    scene.user.apply(&asking(), &[]).unwrap();
    let told = scene.patch(&json!([
        { "op": "add", "path": "/spec/template/spec/initContainers/0/env/-", "value": { "name": "MINE", "value": "x" } },
        { "op": "add", "path": "/spec/template/spec/initContainers/-", "value": { "name": "first", "image": "example.test/first" } },
        { "op": "add", "path": "/spec/template/spec/containers/0/env", "value": [{ "name": "A", "value": "b" }] },
    ]));
    let pod = scene.template();
    assert!(told.contains("written anew"), "{told}");
    let names: Vec<_> =
        pod["spec"]["initContainers"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, [json!("whichpod"), json!("first")]);
    assert_eq!(sidecar(&pod["spec"]).unwrap()["env"].as_array().unwrap().len(), 1);
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "A");
}

#[test]
fn fields_that_this_build_does_not_know_survive() {
    let scene = scene("unknown");
    let mut object = asking();
    // Both are newer than the types that the webhook is built with.
    object["spec"]["template"]["spec"]["hostnameOverride"] = json!("front.example.test");
    object["spec"]["template"]["spec"]["containers"][0]["restartPolicy"] = json!("Never");
    object["spec"]["template"]["spec"]["containers"][0]["restartPolicyRules"] =
        json!([{ "action": "Restart", "exitCodes": { "operator": "In", "values": [42] } }]);
    let mut plain = object.clone();
    plain["metadata"]["annotations"] = json!({});
    let (without, _) = scene.user.dry_run(&plain).unwrap();
    let (with, told) = scene.user.dry_run(&object).unwrap();
    assert!(sidecar(&with["spec"]["template"]["spec"]).is_some(), "{told}");
    let known: Vec<_> = ["/hostnameOverride", "/containers/0/restartPolicyRules"]
        .into_iter()
        .filter(|field| without.pointer(&format!("/spec/template/spec{field}")).is_some())
        .collect();
    assert!(!known.is_empty(), "this API server knows neither: choose newer fields");
    let app = |object: &Value| object["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!(app(&with), app(&without));
    assert_eq!(
        with["spec"]["template"]["spec"]["hostnameOverride"],
        without["spec"]["template"]["spec"]["hostnameOverride"]
    );
}

#[test]
fn a_dry_run_shows_the_sidecar_and_leaves_no_trace() {
    let scene = scene("dry");
    let before = scene.installation.configuration().unwrap();
    for _ in 0..3 {
        let (stored, _) = scene.user.dry_run(&asking()).unwrap();
        assert!(sidecar(&stored["spec"]["template"]["spec"]).is_some());
    }
    scene.user.create(&deployment(&json!({}))).unwrap();
    let annotate =
        ["annotate", NAME, "--dry-run=server", "-o", "json", "whichpod.io/upstreams=backend-service:10000"];
    let shown: Value = serde_json::from_str(&scene.user.kubectl(&annotate).unwrap().out).unwrap();
    assert!(sidecar(&shown["spec"]["template"]["spec"]).is_some());
    assert!(sidecar(&scene.template()["spec"]).is_none());
    // The controller of the twins goes by what is stored.
    scene.user.get_all("services", 1).unwrap();
    assert_eq!(scene.installation.configuration().unwrap(), before);
}

#[test]
fn odd_manifests_get_their_sidecar_or_a_reason_and_never_an_error() {
    let scene = scene("odd");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut object = asking();
        change(&mut object);
        object
    };
    let template = "/spec/template";
    let spec = "/spec/template/spec";
    let odd: [(Value, bool); 10] = [
        (with(&|o| o.pointer_mut(template).unwrap()["metadata"]["annotations"] = json!(null)), true),
        (with(&|o| o.pointer_mut(template).unwrap()["metadata"]["annotations"] = json!({})), true),
        (with(&|o| o.pointer_mut(spec).unwrap()["initContainers"] = json!(null)), true),
        (with(&|o| o.pointer_mut(spec).unwrap()["hostAliases"] = json!([])), true),
        (with(&|o| o.pointer_mut(spec).unwrap()["securityContext"] = json!(null)), true),
        (with(&|o| o["metadata"]["annotations"]["weiß/ñ~0"] = json!("☃ \u{0} \"quoted\" \\ $(HOME)")), false),
        (with(&|o| o["metadata"]["annotations"]["example.test/~1a~0b"] = json!("")), false),
        (
            with(&|o| {
                o["metadata"]["annotations"]["whichpod.io/upstreams"] = json!("☃:80, backend-service:10000");
            }),
            false,
        ),
        (
            with(&|o| {
                o["metadata"]["annotations"]["whichpod.io/upstreams"] =
                    json!("backend-service:10000 backend-service:10000,\n BACKEND-SERVICE.:10000");
            }),
            true,
        ),
        // Half a megabyte: two of these in one review, for an update.
        (
            with(&|o| {
                let env: Vec<_> =
                    (0..500).map(|n| json!({ "name": format!("V{n}"), "value": "x".repeat(1000) })).collect();
                o.pointer_mut(spec).unwrap()["containers"][0]["env"] = json!(env);
            }),
            true,
        ),
    ];
    for (number, (object, injected)) in odd.into_iter().enumerate() {
        let arguments = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
        let ran = scene.user.try_kubectl(&arguments, Some(&object)).unwrap();
        assert!(!ran.err.contains("webhook") && !ran.err.contains("internal error"), "{number}: {}", ran.err);
        if !ran.ok {
            assert!(!injected, "{number}: {}", ran.err);
            continue;
        }
        let stored: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(sidecar(&stored["spec"]["template"]["spec"]).is_some(), injected, "{number}: {}", ran.err);
        assert!(injected || ran.err.contains("Warning"), "{number}: {}", ran.err);
    }
}
