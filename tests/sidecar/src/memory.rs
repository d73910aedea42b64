//! What the process of a test, the sidecar in it, holds.

/// Bytes of memory that this process occupies now: the sidecar, the pods and the clients.
///
/// # Panics
/// Where the kernel does not tell (proc_pid_status(5)).
#[must_use]
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.trim().strip_suffix(" kB").and_then(|kib| kib.parse().ok()).expect("a number of kB");
    kib * 1024
}
