//! The way of somebody with kind or minikube, command by command as README.md tells it, on a cluster that is reached by its
//! kubeconfig alone. The cluster is a node of ours; `kind` and `minikube` are stand-ins that do on it what the real ones do on
//! theirs (no container engine runs here), and refuse what the real ones do not take.
#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, reason = "the helpers are part of a test too")]

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use whichpod_cluster::{Client, KUBECONFIG_VARIABLE, Node, programs};

const README: &str = include_str!("../README.md");
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Where README.md has the images written to.
const IMAGES: &str = "/tmp/images";
const ARCHIVES: usize = 4;

/// The commands below this heading.
fn commands(heading: &str) -> String {
    let (_, section) = README.split_once(heading).unwrap();
    let (_, block) = section.split_once("\n```\n").unwrap();
    block.split_once("\n```\n").unwrap().0.to_owned()
}

/// An address of this machine that leads to the API server, as a container's published port does.
fn published(client: &Client) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let query = ["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"];
    let server = client.run(&query).unwrap();
    let server: SocketAddr = server.trim_start_matches("https://").parse().unwrap();
    let client = client.clone();
    std::thread::spawn(move || {
        for ours in listener.incoming().flatten() {
            let Ok(Ok(theirs)) = client.inside(|| TcpStream::connect(server)) else { continue };
            for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    address
}

/// Somebody's machine: a home with a kubeconfig of several contexts, and what is in their PATH before everything else.
struct Somebody {
    home: tempfile::TempDir,
    asked: PathBuf,
}

impl Somebody {
    fn new(node: &Node) -> Self {
        let home = tempfile::tempdir().unwrap();
        let asked = home.path().join("asked");
        let somebody = Self { home, asked };
        for folder in [".kube", "bin"] {
            fs::create_dir(somebody.home.path().join(folder)).unwrap();
        }
        let own: Value = serde_json::from_slice(&fs::read(node.client().kubeconfig()).unwrap()).unwrap();
        let mut config = own;
        config["clusters"][0]["cluster"]["server"] = format!("https://{}", published(node.client())).into();
        let mut other = config["contexts"][0].clone();
        other["name"] = "production".into();
        other["context"]["cluster"] = "elsewhere".into();
        config["contexts"].as_array_mut().unwrap().insert(0, other);
        fs::write(somebody.home.path().join(".kube/config"), config.to_string()).unwrap();

        let kubenode = programs::kubenode().unwrap();
        somebody.program("kubectl", &format!("exec '{}' kubectl \"$@\"", kubenode.display()));
        // What a cluster of ours is reached by otherwise.
        somebody.program("nsenter", "exit 70");
        let node = fs::read_to_string(node.client().kubeconfig().with_file_name("namespaces-of")).unwrap();
        let ns = |kind: &str, name: &str| format!("--{kind}=/proc/{}/ns/{name}", node.trim());
        let enter = [ns("net", "net"), ns("mount", "mnt"), ns("pid", "pid_for_children")].join(" ");
        let nsenter = format!("exec \"$(PATH=${{PATH#*:}} command -v nsenter)\" {enter} --");
        // Both take an archive's path. kind pipes it to `ctr` in the node, minikube copies it there first.
        somebody.program(
            "kind",
            &format!(
                "[ $# = 3 ] && [ \"$1 $2\" = 'load image-archive' ] || exit 1\n\
                 {nsenter} ctr --namespace=k8s.io images import --all-platforms --digests --snapshotter=overlayfs - <\"$3\""
            ),
        );
        somebody.program(
            "minikube",
            &format!(
                "[ $# = 3 ] && [ \"$1 $2\" = 'image load' ] || exit 1\n{nsenter} ctr -n=k8s.io images import \"$3\""
            ),
        );
        somebody
    }

    /// A program that leaves a word about each call.
    fn program(&self, name: &str, script: &str) {
        let file = self.home.path().join("bin").join(name);
        let asked = self.asked.display();
        let script = format!("#!/bin/sh\necho \"{name} $*\" >>'{asked}'\n{script}\n");
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Types these commands in a clone of the sources; gives what they printed, which is seen meanwhile.
    #[expect(clippy::print_stderr, reason = "the output of the tests that are run")]
    fn types(&self, commands: &str) -> (bool, String) {
        let home = self.home.path();
        let inherited = |variable: &str, usual: &str| {
            let set = std::env::var_os(variable).map(PathBuf::from);
            set.unwrap_or_else(|| std::env::home_dir().unwrap().join(usual))
        };
        let mut path = home.join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let mut shell = Command::new("sh")
            .args(["-eu", "-c", &format!("exec 2>&1\n{}", commands.replace(IMAGES, &self.images()))])
            .current_dir(WORKSPACE)
            .env("CARGO_HOME", inherited("CARGO_HOME", ".cargo"))
            .env("RUSTUP_HOME", inherited("RUSTUP_HOME", ".rustup"))
            .env("WHICHPOD_CACHE", inherited("WHICHPOD_CACHE", ".cache/whichpod"))
            .env("HOME", home)
            .env("PATH", path)
            .env_remove(KUBECONFIG_VARIABLE)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut printed = String::new();
        for line in BufReader::new(shell.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            eprintln!("  | {line}");
            printed += &line;
            printed.push('\n');
        }
        (shell.wait().unwrap().success(), printed)
    }

    fn images(&self) -> String {
        self.home.path().join("images").display().to_string()
    }

    /// How often this was called.
    fn asked(&self, what: &str) -> usize {
        let asked = fs::read_to_string(&self.asked).unwrap_or_default();
        asked.lines().filter(|line| line.starts_with(what)).count()
    }
}

/// How many tests the files of a folder have.
fn written(folder: &Path) -> usize {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| fs::read_to_string(file).unwrap().matches("\n#[test]\n").count()).sum()
}

#[test]
fn who_has_a_cluster_of_their_own_runs_the_scenario_there_as_told_and_nothing_that_needs_a_node_of_ours() {
    let node = Node::start_own().unwrap();
    let somebody = Somebody::new(&node);
    let commands = commands("## On a cluster of your own");

    // minikube first: the tests below then have what kind has brought.
    let (load, minikube) = commands.lines().find_map(|line| line.split_once("# or: ")).unwrap();
    let kind = load.split_once("do ").unwrap().1.split_once(';').unwrap().0;
    let (write, _) = commands.split_once('\n').unwrap();
    let (loaded, printed) = somebody.types(&format!("{write}\n{}", load.replace(kind, minikube)));
    assert!(loaded, "{printed}");
    assert_eq!(somebody.asked("minikube image load /"), ARCHIVES);

    let (passed, printed) = somebody.types(&commands);
    assert!(passed, "{printed}");
    assert_eq!(somebody.asked("kind load image-archive /"), ARCHIVES);
    let tests = written(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenario"));
    assert!(printed.contains(&format!("test result: ok. {tests} passed; 0 failed; 0 ignored")), "{printed}");
    assert!(printed.contains("the first line showed a pod after "), "{printed}");
    assert!(somebody.asked("kubectl ") > 100);
    assert_eq!(somebody.asked("nsenter "), 0, "the node is nobody's to enter");
    let of_whichpod = ["-o", "name", "-l", "app.kubernetes.io/name=whichpod"];
    let everywhere = ["get", "mutatingwebhookconfigurations,clusterroles,clusterrolebindings"];
    let left = node.client().run(&[everywhere.as_slice(), &of_whichpod].concat()).unwrap();
    assert_eq!(left, "", "the tests leave nothing of whichpod there");

    // Whatever needs a node of ours says so and does not pass.
    let needs_node =
        commands.lines().last().unwrap().replace("--test scenario", "--test node --no-fail-fast");
    let (passed, printed) = somebody.types(&needs_node);
    let tests = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node.rs")).unwrap();
    let tests = tests.matches("\n#[test]\n").count();
    assert!(!passed && printed.contains(&format!("0 passed; {tests} failed")), "{printed}");
    assert!(
        printed.contains("this cannot run on the cluster that WHICHPOD_TEST_KUBECONFIG names"),
        "{printed}"
    );
}
