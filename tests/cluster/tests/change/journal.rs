//! The log of every container of a namespace, also of those that are gone.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use whichpod_cluster::Node;

/// A pod lives longer than this.
const LOOK: Duration = Duration::from_millis(100);

/// Holds on to every log file from its beginning: the kubelet's deletion takes only its own name for it.
pub struct Journal {
    held: Arc<Held>,
    done: Arc<AtomicBool>,
    watch: Option<JoinHandle<()>>,
}

struct Held {
    /// The kubelet's folder of logs, on the same file system as `links`.
    logs: PathBuf,
    links: PathBuf,
    namespace: String,
    /// By inode.
    files: Mutex<HashMap<u64, Source>>,
}

/// Where a log is from.
#[derive(Clone)]
struct Source {
    pod: String,
    container: String,
    link: PathBuf,
}

/// What one container has written.
pub struct Written {
    pub pod: String,
    pub container: String,
    pub lines: Vec<String>,
}

impl Journal {
    pub fn begin(node: &Node, namespace: &str) -> Result<Self> {
        let folder = node.control_plane().dir().context("the node has no folder")?;
        let links = folder.join("journal");
        std::fs::create_dir(&links)?;
        let held = Arc::new(Held {
            logs: folder.join("log/pods"),
            links,
            namespace: namespace.to_owned(),
            files: Mutex::default(),
        });
        held.look();
        let done = Arc::new(AtomicBool::new(false));
        let watch = {
            let (held, done) = (Arc::clone(&held), Arc::clone(&done));
            std::thread::spawn(move || {
                while !done.load(Relaxed) {
                    held.look();
                    #[expect(clippy::disallowed_methods, reason = "between two looks")]
                    std::thread::sleep(LOOK);
                }
            })
        };
        Ok(Self { held, done, watch: Some(watch) })
    }

    /// All that was written so far.
    pub fn read(&self) -> Result<Vec<Written>> {
        self.held.look();
        let files: Vec<_> = self.held.files.lock().unwrap().values().cloned().collect();
        files.into_iter().map(Source::read).collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.done.store(true, Relaxed);
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}

impl Held {
    /// `NAMESPACE_POD_UID/CONTAINER/NUMBER.log`; what goes away meanwhile is not new.
    fn look(&self) {
        for pod in entries(&self.logs) {
            let name = name(&pod);
            let Some(rest) = name.strip_prefix(&format!("{}_", self.namespace)) else { continue };
            let Some((pod_name, _)) = rest.split_once('_') else { continue };
            for container in entries(&pod) {
                for log in entries(&container) {
                    self.hold(pod_name, &container, &log);
                }
            }
        }
    }

    fn hold(&self, pod: &str, container: &Path, log: &Path) {
        let Ok(about) = std::fs::symlink_metadata(log) else { return };
        let mut files = self.files.lock().unwrap();
        if !about.is_file() || files.contains_key(&about.ino()) {
            return;
        }
        let link = self.links.join(about.ino().to_string());
        if std::fs::hard_link(log, &link).is_ok() {
            let source = Source { pod: pod.to_owned(), container: name(container), link };
            files.insert(about.ino(), source);
        }
    }
}

impl Source {
    fn read(self) -> Result<Written> {
        let text = std::fs::read(&self.link)?;
        // The runtime's form: time, stream, F for a full line.
        let line = |line: &str| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
        let lines = String::from_utf8_lossy(&text).lines().map(line).collect();
        Ok(Written { pod: self.pod, container: self.container, lines })
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
