//! A steady load, and what became of it: each request, its answer, its line and the pod that served it, by request id.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use whichpod_cluster::{Client, http_send, wait_for};

use super::common::PATIENCE;
use super::common::whichpod::Line;
use super::journal::Written;

/// Requests that a caller may have at the same time.
const AT_A_TIME: u32 = 6;
/// How many failures and wrong lines are printed.
const SHOWN: usize = 30;

/// One request and what came back: the pod that the answer names, or what went wrong.
pub struct Sent {
    caller: usize,
    id: String,
    post: bool,
    at: Instant,
    answer: Result<String, String>,
}

/// Threads that ask until they are told to stop.
pub struct Load {
    callers: Vec<(String, Arc<AtomicUsize>)>,
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Sent>>>,
}

impl Load {
    /// `rate` requests a second to the Service of each caller, half of them POST, each over a connection of its own.
    pub fn start(client: &Client, namespace: &str, callers: &[&str], rate: u32) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let pause = Duration::from_secs(1) * AT_A_TIME / rate;
        let mut load = Self { callers: Vec::new(), done: Arc::clone(&done), threads: Vec::new() };
        for (caller, name) in callers.iter().enumerate() {
            let service = client.get(&["service", name, "-n", namespace]).unwrap();
            let address: SocketAddr =
                format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap()).parse().unwrap();
            // kube-proxy hears of ready pods a moment later, and refuses connections until then.
            wait_for("kube-proxy to know the caller's pods", PATIENCE, || {
                Ok(client.inside(|| TcpStream::connect(address).is_ok())?.then_some(()))
            })
            .unwrap();
            let count = Arc::new(AtomicUsize::new(0));
            for _ in 0..AT_A_TIME {
                let (client, count, done) = (client.clone(), Arc::clone(&count), Arc::clone(&done));
                let ask = move || {
                    let mut sent = Vec::new();
                    let mut due = Instant::now();
                    while !done.load(Relaxed) {
                        let number = count.fetch_add(1, Relaxed);
                        sent.push(Sent::new(caller, number, address));
                        due += pause;
                        #[expect(
                            clippy::disallowed_methods,
                            reason = "a steady rate is what is wanted here"
                        )]
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    }
                    sent
                };
                load.threads.push(std::thread::spawn(move || client.inside(ask).unwrap()));
            }
            load.callers.push(((*name).to_owned(), count));
        }
        load
    }

    /// How many requests these callers have got so far.
    pub fn sent(&self, callers: &[&str]) -> usize {
        let counted = self.callers.iter().filter(|(name, _)| callers.contains(&name.as_str()));
        counted.map(|(_, count)| count.load(Relaxed)).sum()
    }

    /// Every request, by caller, once the last is answered.
    pub fn stop(self) -> HashMap<String, Vec<Sent>> {
        self.done.store(true, Relaxed);
        let all = self.threads.into_iter().flat_map(|thread| thread.join().unwrap());
        let mut by_caller: HashMap<String, Vec<Sent>> = HashMap::new();
        for sent in all {
            by_caller.entry(self.callers[sent.caller].0.clone()).or_default().push(sent);
        }
        by_caller
    }
}

impl Sent {
    fn new(caller: usize, number: usize, address: SocketAddr) -> Self {
        let (id, post) = (format!("{caller}-{number}"), number % 2 == 1);
        let (method, body) = if post { ("POST", "x".repeat(number % 4096)) } else { ("GET", String::new()) };
        let length = if post { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        let request = format!(
            "{method} /test HTTP/1.1\r\nHost: test\r\nConnection: close\r\nX-Request-Id: {id}\r\n{length}\r\n{body}"
        );
        let at = Instant::now();
        let answer = match http_send(address, &request) {
            Ok(answer) if answer.status == 200 => match answer.body.split_once("i am backend in ") {
                Some((_, pod)) => Ok(pod.split_whitespace().next().unwrap_or_default().to_owned()),
                None => Err(format!("200 without a pod: {}", answer.body)),
            },
            Ok(answer) => Err(format!("{} {}", answer.status, answer.body.trim())),
            Err(error) => Err(format!("{error:#}")),
        };
        Self { caller, id, post, at, answer }
    }
}

/// What was done to the cluster that requests and lines may show.
pub struct Done {
    /// When the load began.
    pub started: Instant,
    /// Pods that were deleted by force: what was inside them is lost.
    pub forced: BTreeSet<String>,
    /// While nobody tells names.
    pub without_dns: Range<Instant>,
}

/// What the comparison of requests, lines and the backends' own logs gives.
#[derive(Default)]
pub struct Tally {
    requests: usize,
    lines: usize,
    /// In a pod that was deleted by force.
    lost_by_force: usize,
    unnamed_without_dns: usize,
    unnamed: usize,
    served_again: usize,
    failures: Vec<String>,
    wrong: Vec<String>,
    missing: Vec<String>,
}

/// By request id: lines of sidecars, and the pods that served it with the address they were called at.
struct Told<'a> {
    lines: HashMap<String, Vec<Line>>,
    served: HashMap<&'a str, Vec<(&'a str, &'a str)>>,
}

impl<'a> Told<'a> {
    fn by(written: &'a [Written]) -> Self {
        let mut told = Self { lines: HashMap::new(), served: HashMap::new() };
        for log in written {
            for line in &log.lines {
                if log.container == "whichpod" {
                    if let Some(line) = Line::parse(line) {
                        told.lines.entry(line.id.clone()).or_default().push(line);
                    }
                } else if log.container == "backend" {
                    // Pod, method, path, version, id, address.
                    let words: Vec<&str> = line.split(' ').collect();
                    if let [_, _, _, _, id, address] = words[..] {
                        told.served.entry(id).or_default().push((&log.pod, address));
                    }
                }
            }
        }
        told
    }
}

impl Tally {
    pub fn of(sent: &HashMap<String, Vec<Sent>>, callers: &[&str], written: &[Written], done: &Done) -> Self {
        let told = Told::by(written);
        let mut tally = Self::default();
        for caller in callers {
            for request in sent.get(*caller).into_iter().flatten() {
                tally.add(caller, request, &told, done);
            }
        }
        tally
    }

    fn add(&mut self, caller: &str, request: &Sent, told: &Told<'_>, done: &Done) {
        self.requests += 1;
        let lines = told.lines.get(&request.id).map_or([].as_slice(), Vec::as_slice);
        let served = told.served.get(request.id.as_str()).map_or([].as_slice(), Vec::as_slice);
        let after = request.at.duration_since(done.started);
        let about = || format!("{caller}, request {} after {after:.1?}: ", request.id);
        self.lines += lines.len();
        match &request.answer {
            Err(why) => {
                // The connection to a pod names that pod, whatever became of the pod.
                if lines.iter().any(|line| done.forced.contains(&line.pod)) {
                    self.lost_by_force += 1;
                } else {
                    self.failures.push(format!("{}{why}; {lines:?}, served by {served:?}", about()));
                }
            }
            Ok(pod) => {
                let Some((_, address)) = served.iter().find(|(server, _)| server == pod) else {
                    self.missing.push(format!("{}{pod} answered and has no line about it", about()));
                    return;
                };
                match lines {
                    [] => self.missing.push(format!("{}{pod} answered and no sidecar has a line", about())),
                    [line] if line.upstream == *address && (line.pod == *pod || line.pod == "-") => {
                        let nobody_tells = done.without_dns.contains(&request.at);
                        self.unnamed_without_dns += usize::from(line.pod == "-" && nobody_tells);
                        self.unnamed += usize::from(line.pod == "-" && !nobody_tells);
                    }
                    _ => self.wrong.push(format!("{}{pod} at {address} answered; {lines:?}", about())),
                }
            }
        }
        if request.post && served.len() > 1 {
            self.wrong.push(format!("{}a POST was served {} times: {served:?}", about(), served.len()));
        }
        self.served_again += usize::from(!request.post && served.len() > 1);
    }

    /// Whether every answer has the lines that belong to it; they take a moment.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// The same for who has no sidecar, and so no lines.
    pub fn failed(&self) -> usize {
        self.failures.len() + self.lost_by_force
    }

    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Nothing failed, every line names the right pod, and hardly one has only the address of it although DNS tells.
    pub fn is_flawless(&self) -> bool {
        let right = self.failures.is_empty() && self.wrong.is_empty() && self.missing.is_empty();
        right && self.unnamed * 100 < self.lines
    }

    /// Everything that is wrong.
    pub fn details(&self) -> String {
        let all = self.failures.iter().chain(&self.wrong).chain(&self.missing);
        all.take(SHOWN).cloned().collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} failed and {} lost with a pod deleted by force, {} lines, {} wrong, {} missing, {} without a \
             name while DNS was away and {} at other times, {} GETs served again",
            self.requests,
            self.failures.len(),
            self.lost_by_force,
            self.lines,
            self.wrong.len(),
            self.missing.len(),
            self.unnamed_without_dns,
            self.unnamed,
            self.served_again
        )
    }
}
