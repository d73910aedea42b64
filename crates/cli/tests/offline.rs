//! Manifests in and out, as on a laptop without a cluster.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod command;

use std::path::Path;

use command::{run, whichpod, whichpod_with};
use serde_json::{Value, json};
use whichpod_injection::{Facts, Operation, Options, Reason, Request, admit};

const APP: &str = "\
# Source: shop/templates/service.yaml
apiVersion: v1
kind: Service
metadata: {name: backend-service, namespace: shop}   # aligned by   hand
spec:
  selector: {app: backend}
  ports: [{port: 10000}]
---
# The front.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: nginx-test
  namespace: shop
spec:
  replicas: 2 # two
  selector: {matchLabels: {app: nginx-test}}
  template:
    metadata: {labels: {app: nginx-test}}
    spec:
      volumes:
        - name: secret
          secret: {secretName: s, defaultMode: 0644}
      containers:
        - name: nginx
          image: nginx
          env:
            - {name: ANSWER, value: \"yes\"}
            - {name: NUMBER, value: '1e3'}
            - name: SCRIPT
              value: |
                #!/bin/sh
                echo \"on: off\"
# That was the front.
---
kind:   ConfigMap
apiVersion: v1
metadata: {name: c}
data: {y: 'no'}
";

const UPSTREAM: [&str; 2] = ["--upstream", "backend-service:10000"];

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn inject<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["inject", "--offline"], UPSTREAM.as_slice(), more].concat()
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web"}]}}}})
}

#[test]
fn only_the_workload_is_changed_and_everything_else_stays_byte_for_byte() {
    let folder = folder(&[("app.yaml", APP)]);
    let ran = whichpod(folder.path(), &inject(&["-f", "app.yaml"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("deployment/nginx-test in shop: injected\n"), "{}", ran.err);
    let (before, rest) = APP.split_once("---\n").unwrap();
    let (_, after) = rest.split_once("---\n").unwrap();
    assert!(ran.out.starts_with(&format!("{before}---\n# The front.\napiVersion: apps/v1\n")), "{}", ran.out);
    assert!(ran.out.ends_with(&format!("# That was the front.\n---\n{after}")), "{}", ran.out);
    for kept in [
        "          defaultMode: 420\n",
        "value: \"yes\"\n",
        "value: \"1e3\"\n",
        "value: |\n            #!/bin/sh\n            echo \"on: off\"\n",
    ] {
        assert!(ran.out.contains(kept), "{kept} in\n{}", ran.out);
    }
    assert!(ran.out.contains("whichpod.io/upstreams: backend-service:10000"), "{}", ran.out);
    assert!(ran.out.contains("      - name: whichpod\n"), "{}", ran.out);
}

#[test]
fn injecting_twice_gives_the_same_bytes_and_taking_out_gives_back_the_manifest() {
    let folder = folder(&[]);
    let once = whichpod_with(folder.path(), &inject(&["-f", "-"]), APP);
    let twice = whichpod_with(folder.path(), &inject(&["-f", "-"]), &once.out);
    assert_eq!(twice.out, once.out);
    assert!(twice.err.contains("deployment/nginx-test in shop: unchanged"), "{}", twice.err);
    let json = |text: &str| whichpod_with(folder.path(), &["uninject", "-f", "-", "-o", "json"], text);
    let freed = json(&once.out);
    assert!(freed.err.contains("deployment/nginx-test in shop: removed"), "{}", freed.err);
    assert_eq!(freed.out, json(APP).out);
}

#[test]
fn an_installed_webhook_agrees_with_what_was_done_by_hand() {
    let folder = folder(&[]);
    let text = deployment().to_string();
    let ran = whichpod_with(
        folder.path(),
        &inject(&["-f", "-", "--balance", "least_request", "-n", "shop"]),
        &text,
    );
    let object = ran.json();
    assert_eq!(object["metadata"]["annotations"]["whichpod.io/balance"], "least_request");
    for facts in [Facts::unknown(), Facts::complete()] {
        let request = Request {
            operation: Operation::Create,
            namespace: "shop",
            object: &object,
            old_object: None,
            subresource: None,
            recompute: false,
        };
        let outcome = admit(&request, &facts, &Options::default());
        assert_eq!((outcome.reason, outcome.patch.len()), (Reason::Unchanged, 0));
    }
}

#[test]
fn files_directories_and_lists_in_yaml_and_json_come_out_as_one_stream() {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [deployment(), {"kind": "Secret", "apiVersion": "v1"}]});
    let pretty = serde_json::to_string_pretty(&list).unwrap();
    let folder = folder(&[
        ("a.json", &pretty),
        ("b.yml", "kind: ConfigMap\napiVersion: v1\n"),
        ("c.txt", "not: [yaml"),
    ]);
    std::fs::write(folder.path().join("last.yaml"), "kind: Namespace\napiVersion: v1").unwrap();
    let ran = whichpod(folder.path(), &inject(&["-f", ".", "-f", "last.yaml", "-n", "shop"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.err.lines().filter(|line| line.ends_with(": injected")).count(), 1, "{}", ran.err);
    let documents: Vec<&str> = ran.out.split("\n---\n").collect();
    assert_eq!(documents.len(), 4, "{}", ran.out);
    let list: Value = serde_json::from_str(documents[0]).unwrap();
    assert_eq!(list["items"][0]["spec"]["template"]["spec"]["initContainers"][0]["name"], "whichpod");
    assert_eq!(
        documents[1..],
        [
            "kind: ConfigMap\napiVersion: v1",
            "kind: Namespace\napiVersion: v1",
            "kind: Namespace\napiVersion: v1"
        ]
    );
}

#[test]
fn json_stays_json_with_its_layout() {
    let folder = folder(&[]);
    for text in [deployment().to_string(), serde_json::to_string_pretty(&deployment()).unwrap() + "\n"] {
        let ran = whichpod_with(folder.path(), &inject(&["-f", "-", "-n", "shop"]), &text);
        assert_eq!(ran.out.lines().count() > 1, text.lines().count() > 1);
        assert_eq!(ran.out.ends_with('\n'), text.ends_with('\n'));
        let freed = whichpod_with(folder.path(), &["uninject", "-f", "-"], &ran.out);
        assert_eq!(freed.out, text);
    }
}

#[test]
fn every_format_says_the_same() {
    let folder = folder(&[("web.json", &deployment().to_string())]);
    let output = |format: &str| {
        let ran = whichpod(folder.path(), &inject(&["-f", "web.json", "-o", format]));
        assert_eq!(ran.code, 0, "{ran:?}");
        ran
    };
    let object = output("json").json();
    let mut patched = deployment();
    let patch: json_patch::Patch = serde_json::from_value(output("patch").json()).unwrap();
    json_patch::patch(&mut patched, &patch).unwrap();
    assert_eq!(patched, object);
    let yaml = output("yaml").out;
    let back = whichpod_with(folder.path(), &["uninject", "-f", "-", "-o", "json"], &yaml);
    assert_eq!(back.json(), deployment());
    let by_name = whichpod(
        folder.path(),
        &[&["patch", "deploy/web", "-f", "web.json", "--offline"], UPSTREAM.as_slice()].concat(),
    );
    assert_eq!(by_name.json(), output("patch").json());
}

#[test]
fn several_patches_are_told_apart() {
    let mut other = deployment();
    other["metadata"]["name"] = json!("other");
    let folder = folder(&[("a.json", &deployment().to_string()), ("b.json", &other.to_string())]);
    let ran = whichpod(folder.path(), &inject(&["-f", ".", "-o", "patch"]));
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["name"], "other");
    assert_eq!((&lines[0]["kind"], &lines[0]["namespace"]), (&json!("Deployment"), &json!("shop")));
}

#[test]
fn headless_services_are_printed_for_who_has_no_webhook() {
    let folder = folder(&[("app.yaml", APP)]);
    let without = whichpod(folder.path(), &inject(&["-f", "app.yaml"]));
    assert!(
        without.err.contains("backend-service-whichpod") && without.err.contains("--twins"),
        "{}",
        without.err
    );
    let with = whichpod(folder.path(), &inject(&["-f", "app.yaml", "--twins"]));
    let twin = with.out.rsplit("---\n").next().unwrap();
    assert!(twin.contains("name: backend-service-whichpod") && twin.contains("clusterIP: None"), "{twin}");
    assert!(with.out.starts_with(&without.out));
    let again = whichpod_with(folder.path(), &inject(&["-f", "-", "--twins"]), &with.out);
    assert_eq!(again.out, with.out, "the twin is there now");
}

#[test]
fn a_malformed_manifest_is_named_with_its_place_and_nothing_is_printed() {
    let folder = folder(&[("good.yaml", APP), ("bad.yaml", "a: 1\n---\nb: 2\nc: d: e\n")]);
    let ran = whichpod(folder.path(), &inject(&["-f", "good.yaml", "-f", "bad.yaml"]));
    assert_eq!((ran.code, ran.out.as_str()), (65, ""));
    assert!(ran.err.starts_with("whichpod: bad.yaml: document 2, line 4, column 5: "), "{}", ran.err);
    let ran = whichpod_with(folder.path(), &["uninject", "-f", "-"], "{\"a\": ]");
    assert_eq!((ran.code, ran.out.as_str()), (65, ""));
    assert!(ran.err.starts_with("whichpod: standard input: document 1, line 1, column 7: "), "{}", ran.err);
}

#[test]
fn a_missing_file_is_named() {
    let folder = folder(&[("good.yaml", APP)]);
    for file in ["none.yaml", "https://example.test/app.yaml"] {
        let ran = whichpod(folder.path(), &inject(&["-f", "good.yaml", "-f", file]));
        assert_eq!((ran.code, ran.out.as_str()), (66, ""));
        assert!(ran.err.contains(&format!("{file} cannot be read")), "{}", ran.err);
    }
    let ran = whichpod(folder.path(), &["patch", "deploy/nope", "-f", "good.yaml", "--offline"]);
    assert_eq!(ran.code, 66);
    assert!(ran.err.contains("deployment/nope"), "{}", ran.err);
}

#[test]
fn without_a_cluster_the_remedy_is_named() {
    let kubeconfig = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}, {name: d, context: {cluster: l, user: u}}], \
         users: [{name: u, user: {}}], clusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}, {name: l, cluster: {server: 'http://127.0.0.1:2'}}]}";
    let folder = folder(&[("app.yaml", APP), ("kubeconfig", kubeconfig)]);
    let online = [&["inject", "-f", "app.yaml"], UPSTREAM.as_slice()].concat();
    let ran = whichpod(folder.path(), &online);
    assert_eq!((ran.code, ran.out.as_str()), (69, ""));
    for named in ["no cluster is configured", ".kube/config", "--kubeconfig", "--offline"] {
        assert!(ran.err.contains(named), "{named} in {}", ran.err);
    }
    let ran = whichpod(folder.path(), &[&online[..], &["--kubeconfig", "kubeconfig"]].concat());
    assert_eq!((ran.code, ran.out.as_str()), (69, ""));
    for named in ["http://127.0.0.1:1", "refused", "--kubeconfig", "--offline"] {
        assert!(ran.err.contains(named), "{named} in {}", ran.err);
    }
    let ran =
        whichpod(folder.path(), &[&online[..], &["--kubeconfig", "kubeconfig", "--context", "d"]].concat());
    assert!(ran.code == 69 && ran.err.contains("http://127.0.0.1:2"), "{}", ran.err);
    let ran =
        whichpod(folder.path(), &[&online[..], &["--kubeconfig", "kubeconfig", "--context", "e"]].concat());
    assert!(ran.code == 69 && ran.err.contains("context: e") && ran.err.contains("--context"), "{}", ran.err);
    let ran = whichpod(folder.path(), &["upgrade", "deploy/web", "--kubeconfig", "kubeconfig"]);
    assert_eq!(ran.code, 69);
    assert!(!ran.err.contains("--offline"), "{}", ran.err);
    let ran = whichpod_with(folder.path(), &["inject", "-f", "-"], "kind: ConfigMap\napiVersion: v1\n");
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "kind: ConfigMap\napiVersion: v1\n"),
        "nothing to ask about"
    );
}

#[test]
fn a_wrong_command_line_is_refused_before_anything_is_done() {
    let folder = folder(&[("app.yaml", APP)]);
    for (arguments, named) in [
        (&["inject"][..], "-f FILE"),
        (&["inject", "-f", "-", "-f", "-"], "standard input"),
        (
            &["inject", "-f", "app.yaml", "--offline", "--redirect", "host"],
            "--redirect is \"host\"; accepted: hosts",
        ),
        (&["inject", "-f", "app.yaml", "--offline", "--upstream", "a b"], "--upstream is \"a b\""),
        (&["inject", "-f", "app.yaml", "--offline", "--image", ""], "image is empty"),
        (&["inject", "-f", "app.yaml", "-o", "xml"], "xml"),
        (&["uninject"], "KIND/NAME"),
        (&["uninject", "--all", "-n", "shop"], "--namespace"),
        (&["uninject", "-f", "app.yaml", "--apply"], "--apply"),
        (&["uninject", "pod/x", "--apply"], "cannot be changed"),
        (&["patch", "service/x"], "no kind with pods"),
        (&["patch", "nginx"], "KIND/NAME"),
        (&["patch", "job/x"], "cannot be changed"),
        (&["patch", "deploy/x", "--offline"], "--filename"),
        (&["upgrade"], "KIND/NAME"),
        (&["cleanup"], "-n NAMESPACE"),
        (&["man", "nope"], "there are demo"),
        (&["nope"], "nope"),
        (&[], "Usage"),
    ] {
        let ran = whichpod(folder.path(), arguments);
        assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(named), "{named} in {}", ran.err);
    }
}

#[test]
fn a_workload_that_cannot_have_a_sidecar_passes_through_and_a_patch_of_it_fails() {
    let mut object = deployment();
    object["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    let folder = folder(&[("web.json", &object.to_string())]);
    let ran = whichpod(folder.path(), &inject(&["-f", "web.json", "-n", "shop"]));
    assert_eq!((ran.code, ran.json()), (0, object));
    assert!(ran.err.contains("deployment/web: skipped: host network\n  warning: "), "{}", ran.err);
    let patch = [&["patch", "deploy/web", "-f", "web.json", "--offline"], UPSTREAM.as_slice()].concat();
    let ran = whichpod(folder.path(), &patch);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
}

#[test]
fn a_workload_can_be_kept_out_for_good() {
    let folder = folder(&[]);
    let injected = whichpod_with(folder.path(), &inject(&["-f", "-"]), &deployment().to_string());
    let kept_out = whichpod_with(folder.path(), &["uninject", "-f", "-", "--keep-out"], &injected.out).json();
    assert_eq!(kept_out["metadata"]["annotations"], json!({"whichpod.io/inject": "false"}));
}

#[test]
fn the_operators_options_are_the_webhooks() {
    let options =
        "{\"image\": \"example.test/mirror/whichpod-sidecar:7\", \"defaults\": {\"upstreams\": \"db:80\"}}";
    let folder = folder(&[
        ("options.json", options),
        ("web.json", &deployment().to_string()),
        ("bad.yaml", "immage: x\n"),
    ]);
    let with = |options: &str| {
        whichpod(folder.path(), &["inject", "--offline", "-f", "web.json", "--options", options])
    };
    let ran = with("options.json");
    let container = &ran.json()["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!(container["image"], "example.test/mirror/whichpod-sidecar:7");
    assert!(container["env"][0]["value"].as_str().unwrap().contains("db.shop"), "{container}");
    let ran = with("bad.yaml");
    assert_eq!(ran.code, 65);
    assert!(ran.err.contains("bad.yaml: unknown field `immage`"), "{}", ran.err);
    assert_eq!(with("none.json").code, 66);
}

#[test]
fn as_a_kubectl_plugin_it_names_itself_as_one() {
    let folder = folder(&[]);
    let plugin = folder.path().join("kubectl-whichpod");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_whichpod"), &plugin).unwrap();
    let ran = run(&plugin, folder.path(), &["patch", "--help"], "");
    assert!(ran.code == 0 && ran.out.contains("Usage: kubectl whichpod patch"), "{ran:?}");
}

#[test]
fn shells_and_packages_get_what_they_ask_for() {
    let folder = folder(&[]);
    for (shell, named) in
        [("bash", "complete -F _whichpod"), ("zsh", "#compdef whichpod"), ("fish", "complete -c whichpod")]
    {
        let ran = whichpod(folder.path(), &["completions", shell]);
        assert!(ran.code == 0 && ran.out.contains(named) && ran.out.contains("uninject"), "{shell}");
    }
    let page = whichpod(folder.path(), &["man"]).out;
    assert!(page.contains(".TH whichpod 1") && page.contains("whichpod\\-inject"), "{page}");
    let page = whichpod(folder.path(), &["man", "inject"]).out;
    assert!(page.contains("whichpod inject") && page.contains("\\-\\-upstream"), "{page}");
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let folder = folder(&[("app.yaml", APP)]);
    let script = format!(
        "exec '{}' inject --offline -f app.yaml --upstream b:1 >/dev/full",
        env!("CARGO_BIN_EXE_whichpod")
    );
    let ran = run(Path::new("/bin/sh"), folder.path(), &["-c", &script], "");
    assert_eq!(ran.code, 74);
    assert!(ran.err.contains("standard output cannot be written"), "{}", ran.err);
}
