//! How much memory is in use, and how much there may be.

use std::path::PathBuf;

use crate::limits::{self, Cgroup};

/// Memory in use, against a limit.
#[derive(Debug)]
pub struct Usage {
    limit: u64,
    of: Of,
}

#[derive(Debug)]
enum Of {
    /// This process, against a limit that somebody named.
    Process,
    /// A control group, whose kernel kills at its own limit; the folder of the group.
    Group(Cgroup, PathBuf),
}

impl Usage {
    /// Against this limit in bytes, else the control group's; `None` if there is none.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Option<Self> {
        if let Some(limit) = limit {
            return Some(Self { limit, of: Of::Process });
        }
        let group = Cgroup::of_process("memory", &limits::read);
        let (limit, folder) = group.tightest_memory(&limits::read)?;
        Some(Self { limit, of: Of::Group(group, folder) })
    }

    /// Bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes in use that the kernel could not take back at once; `None` if it does not say.
    #[must_use]
    pub fn now(&self) -> Option<u64> {
        match &self.of {
            Of::Process => resident(&limits::read("/proc/self/status".as_ref())?),
            Of::Group(group, folder) => group.memory_used(folder, &limits::read),
        }
    }
}

/// `VmRSS:     1234 kB` (proc_pid_status(5)).
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_holds() {
        let usage = Usage::new(Some(1 << 30)).unwrap();
        let before = usage.now().unwrap();
        let block = vec![1_u8; 64 << 20];
        let after = usage.now().unwrap();
        assert!(after >= before + (48 << 20), "{before} {after} {}", block.len());
        assert_eq!(usage.limit(), 1 << 30);
    }

    #[test]
    fn what_is_no_status_is_no_number() {
        for text in ["", "VmRSS:", "VmRSS: x kB", "VmRSS: 5 MB", "VmRSS: 99999999999999999999 kB"] {
            assert_eq!(resident(text), None, "{text}");
        }
        assert_eq!(resident("VmPeak: 9 kB\nVmRSS:\t   12 kB\n"), Some(12 * 1024));
    }
}
