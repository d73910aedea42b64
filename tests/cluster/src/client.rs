//! Talking to a cluster: `kubectl`, and threads that enter the cluster's network.

use crate::{Image, certificates::Authority, folder, node, programs, wait_for};
use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Names the kubeconfig of a cluster that tests are to use instead of starting their own.
///
/// It is not `KUBECONFIG`: tests create and delete things, so the cluster must be meant for them.
pub const KUBECONFIG_VARIABLE: &str = "WHICHPOD_TEST_KUBECONFIG";

/// Next to the kubeconfig of a cluster of ours: the process whose network namespace the cluster is in.
const NAMESPACE_FILE: &str = "namespaces-of";
/// How long Kubernetes may take for what it does within a second when nothing else runs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody with all rights on a cluster.
#[derive(Debug, Clone)]
pub struct Client {
    /// `kubectl`, as a command line; never empty.
    kubectl: Vec<PathBuf>,
    kubeconfig: PathBuf,
    /// The process whose network namespace reaches the cluster, if that is not this one's.
    namespaces_of: Option<u32>,
}

impl Client {
    /// The cluster that the environment tells tests to use, if it does.
    pub fn of_environment() -> Result<Option<Self>> {
        let chosen = std::env::var_os(KUBECONFIG_VARIABLE).filter(|value| !value.is_empty());
        let Some(path) = chosen else { return Ok(None) };
        let path = PathBuf::from(path);
        let of_ours = path.with_file_name(NAMESPACE_FILE).exists();
        match programs::in_path("kubectl").filter(|_| !of_ours) {
            // Somebody's own cluster comes with somebody's own kubectl.
            Some(kubectl) => Self::with_kubectl(path, || Ok(vec![kubectl])).map(Some),
            None => Self::new(path).map(Some),
        }
    }

    /// For the cluster that this kubeconfig names.
    pub fn new(kubeconfig: PathBuf) -> Result<Self> {
        Self::with_kubectl(kubeconfig, || Ok(vec![programs::kubenode()?, "kubectl".into()]))
    }

    /// `kubectl` may have to be built, which nobody should wait for in vain.
    fn with_kubectl(kubeconfig: PathBuf, kubectl: impl FnOnce() -> Result<Vec<PathBuf>>) -> Result<Self> {
        ensure!(kubeconfig.is_file(), "there is no kubeconfig {}", kubeconfig.display());
        let namespaces_of = match std::fs::read_to_string(kubeconfig.with_file_name(NAMESPACE_FILE)) {
            Ok(process) => Some(process.trim().parse().context("not a process id")?),
            Err(_) => None,
        };
        Ok(Self { kubectl: kubectl()?, kubeconfig, namespaces_of })
    }

    /// Makes every client of the kubeconfig in `folder` enter the namespaces of this process.
    pub(crate) fn tell_namespaces(folder: &Path, process: u32) -> Result<()> {
        Ok(std::fs::write(folder.join(NAMESPACE_FILE), process.to_string())?)
    }

    /// The file that says how to reach the cluster and as whom.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub(crate) fn namespaces_of(&self) -> Option<u32> {
        self.namespaces_of
    }

    /// Makes an image and brings it to the cluster, if that is a node of ours; others must have it already (see
    /// README.md). Pods must say `imagePullPolicy: Never` or `IfNotPresent`.
    pub fn import(&self, make: impl FnOnce() -> Result<Image>) -> Result<()> {
        self.namespaces_of.map_or(Ok(()), |process| node::import(process, &make()?))
    }

    /// Whether the cluster is somebody's own, and only what `kubectl` reaches of it is there for tests.
    pub fn is_foreign(&self) -> bool {
        self.namespaces_of.is_none()
    }

    /// Leaves the folder of the cluster, if it is one of ours, for a look when the cluster has ended.
    pub fn keep_logs(&self) -> Result<()> {
        if self.namespaces_of.is_none() {
            return Ok(());
        }
        Ok(std::fs::write(self.kubeconfig.with_file_name(folder::FAILED_FILE), "")?)
    }

    /// The last so many lines of the log of every program of the node, by the program's name; of a node of ours only.
    pub fn last_words(&self, lines: usize) -> Vec<(String, String)> {
        let logs = self.kubeconfig.with_file_name("logs");
        let folder = std::fs::read_dir(logs).ok().filter(|_| !self.is_foreign());
        let files = folder.into_iter().flatten().flatten().map(|entry| entry.path());
        let programs = files.filter(|file| file.file_stem().is_some_and(|name| name != "audit"));
        let last = |file: PathBuf| {
            let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
            let all: Vec<_> = text.lines().collect();
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (name, all[all.len().saturating_sub(lines)..].join("\n"))
        };
        let mut words: Vec<_> = programs.map(last).filter(|(_, text)| !text.is_empty()).collect();
        words.sort();
        words
    }

    /// What goes before a command line to run it where the cluster's addresses are reachable; nothing for here.
    pub fn entering(&self) -> Vec<String> {
        let network =
            |process| vec!["nsenter".to_owned(), format!("--net=/proc/{process}/ns/net"), "--".to_owned()];
        self.namespaces_of.map(network).unwrap_or_default()
    }

    /// A command that runs where the cluster's addresses are reachable.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let entering = self.entering();
        let Some((first, rest)) = entering.split_first() else { return Command::new(program) };
        let mut command = Command::new(first);
        command.args(rest).arg(program);
        command
    }

    /// Runs `work` where the cluster's addresses are reachable: on a thread of its own, inside the cluster's network.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let Some(process) = self.namespaces_of else { return Ok(work()) };
        let path = format!("/proc/{process}/ns/net");
        let namespace = File::open(&path).with_context(|| format!("the cluster is gone: no {path}"))?;
        std::thread::scope(|scope| {
            let inner = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("cannot enter the cluster's network")?;
                Ok(work())
            });
            inner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `kubectl` with these arguments, not yet run.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.kubectl[0]);
        command.args(&self.kubectl[1..]).arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        // Every cluster has the same address, so what one has learned of its API must not be kept for the next.
        command.env("KUBECACHEDIR", format!("{}-cache", self.kubeconfig.display()));
        command.env("KUBECTL_KUBERC", "false").stdin(Stdio::null());
        command
    }

    /// Runs `kubectl` with these arguments, whatever comes of it.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_command(arguments).output().context("cannot run kubectl")
    }

    /// Runs `kubectl` with these arguments and gives what it printed; an error if it failed.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        succeeded("kubectl", &arguments.join(" "), &self.kubectl(arguments)?)
    }

    /// Runs the pinned `helm` with these arguments and gives what it printed; an error if it failed.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(programs::helm()?);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        succeeded("helm", &arguments.join(" "), &command.output().context("cannot run helm")?)
    }

    /// Runs the command `whichpod` with these arguments, whatever comes of it.
    pub fn whichpod(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(&programs::ours()?.command);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        command.output().context("cannot run whichpod")
    }

    /// `kubectl get` with these arguments, as JSON.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let all = [&["get", "-o", "json"], arguments].concat();
        Ok(serde_json::from_str(&self.run(&all)?)?)
    }

    /// Makes these objects be as told: `manifest` is JSON or YAML.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.pipe(&["apply", "-f", "-"], manifest)
    }

    /// Creates these objects: `manifest` is JSON or YAML.
    pub fn create(&self, manifest: &str) -> Result<String> {
        self.pipe(&["create", "-f", "-"], manifest)
    }

    /// Runs `kubectl` with these arguments and this input.
    pub fn pipe(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.kubectl_command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("no pipe to kubectl")?;
        let output = std::thread::scope(|scope| {
            // Whether kubectl read everything shows in its answer.
            scope.spawn(move || {
                let _ = stdin.write_all(input.as_bytes());
            });
            child.wait_with_output()
        })?;
        succeeded("kubectl", &arguments.join(" "), &output)
    }

    /// Waits until `kubectl wait` with these arguments is content, a minute at most.
    pub fn wait(&self, arguments: &[&str]) -> Result<String> {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        self.run(&[&["wait", &limit], arguments].concat())
    }

    /// Waits until a Deployment has rolled out, a minute at most.
    pub fn rolled_out(&self, namespace: &str, deployment: &str) -> Result<String> {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        self.run(&["rollout", "status", "-n", namespace, &format!("deployment/{deployment}"), &limit])
    }

    /// Waits until `kubectl get` with these arguments gives something that `accept` finds an answer in.
    pub fn wait_until<T>(
        &self,
        arguments: &[&str],
        mut accept: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        let mut last = Value::Null;
        let found = wait_for(&arguments.join(" "), PATIENCE, || {
            last = self.get(arguments)?;
            Ok(accept(&last))
        });
        found.with_context(|| format!("the last answer was {last:#}"))
    }

    /// A namespace that nobody else uses; `prefix` begins its name. Pods can be created in it at once.
    pub fn namespace(&self, prefix: &str) -> Result<Namespace> {
        let wanted = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "generateName": format!("{prefix}-") },
        });
        let created = self.pipe(&["create", "-o", "json", "-f", "-"], &wanted.to_string())?;
        let created: Value = serde_json::from_str(&created)?;
        let name = created["metadata"]["name"].as_str().context("a namespace without a name")?.to_owned();
        let namespace = Namespace { client: self.clone(), name };
        self.wait(&["-n", &namespace.name, "--for=create", "serviceaccount/default"])?;
        Ok(namespace)
    }

    /// Makes the API server ask `url` about every pod that is created in this namespace. It takes up to a second
    /// before the first one is asked about.
    pub fn register_pod_webhook(
        &self,
        name: &str,
        namespace: &str,
        url: &str,
        authority: &Authority,
    ) -> Result<String> {
        self.apply(&pod_webhook(name, namespace, url, &authority.certificate()).to_string())
    }
}

/// A MutatingWebhookConfiguration that asks `url` about the pods of one namespace and refuses them without an answer.
/// Change the fields it is about, then [`Client::apply`] it. `authority` is the PEM of who signed the server.
pub fn pod_webhook(name: &str, namespace: &str, url: &str, authority: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": name },
        "webhooks": [{
            "name": format!("{name}.whichpod.io"),
            "admissionReviewVersions": ["v1"],
            "clientConfig": { "url": url, "caBundle": BASE64.encode(authority) },
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "timeoutSeconds": 5,
            "reinvocationPolicy": "IfNeeded",
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
            }],
        }],
    })
}

/// A namespace that is deleted, with everything in it, when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    client: Client,
    name: String,
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cluster may be gone already, and everything with it.
        let _ = self.client.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

fn succeeded(program: &str, arguments: &str, output: &Output) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "{program} {arguments} failed ({}): {}{out}", output.status, err);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_asked_about_one_namespace_only() {
        let configuration = pod_webhook("inject", "mine", "https://127.0.0.1:8443/mutate", "CA");
        let webhook = &configuration["webhooks"][0];
        assert_eq!(webhook["clientConfig"]["caBundle"], "Q0E=");
        assert_eq!(webhook["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], "mine");
    }

    #[test]
    fn a_missing_kubeconfig_is_named() {
        let error = Client::new("/no/such/kubeconfig".into()).unwrap_err().to_string();
        assert_eq!(error, "there is no kubeconfig /no/such/kubeconfig");
    }

    #[test]
    fn a_failed_kubectl_says_what_was_asked_and_why_not() {
        use std::os::unix::process::ExitStatusExt;
        let output = |code: i32| Output {
            status: std::process::ExitStatus::from_raw(code << 8),
            stdout: b"done\n".to_vec(),
            stderr: b"Error: not found\n".to_vec(),
        };
        assert_eq!(succeeded("kubectl", "get pods", &output(0)).unwrap(), "done\n");
        let error = succeeded("kubectl", "get pods", &output(1)).unwrap_err().to_string();
        assert!(error.starts_with("kubectl get pods failed (exit status: 1): Error: not found"), "{error}");
    }
}
