//! What the process may use: open files, CPUs, memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit on open files, before and after [`raise_open_files`]; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// The soft limit that the process was started with.
    pub before: Option<u64>,
    /// The soft limit now.
    pub now: Option<u64>,
}

/// Raises the soft limit on open files (`RLIMIT_NOFILE`) to the hard one, which needs no privilege.
///
/// # Errors
/// What the operating system says; the limit stays as it was.
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(OpenFiles { before: current, now: getrlimit(Resource::Nofile).current })
}

/// How many worker threads to run when nobody said a number: 2 from two CPUs on, else 1.
pub fn worker_count(cpu_limit: Option<f64>) -> usize {
    if cpu_limit.is_some_and(|cpus| cpus >= 2.0) { 2 } else { 1 }
}

/// How many CPUs the control group grants (0.5 is half of one); `None` without a limit.
pub fn cpu_limit() -> Option<f64> {
    Cgroup::of_process("cpu", &read).cpu_limit(&read)
}

/// How many bytes of memory the control group grants; `None` without a limit.
pub fn memory_limit() -> Option<u64> {
    Cgroup::of_process("memory", &read).memory_limit(&read)
}

const MOUNT: &str = "/sys/fs/cgroup";

pub(crate) fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Where a controller's limits of this process are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    version: Version,
    /// The group's folder and those above it, up to the mount: a limit of any of them counts. A container often sees
    /// only the mount, and there its own limits, whatever path it is told.
    folders: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Cgroup {
    pub(crate) fn of_process(controller: &str, read: &impl Fn(&Path) -> Option<String>) -> Self {
        let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
        let (version, path) = parse_groups(&groups, controller);
        let mount = match version {
            Version::V1 => Path::new(MOUNT).join(controller),
            Version::V2 => PathBuf::from(MOUNT),
        };
        Self { version, folders: folders(&mount, path) }
    }

    fn cpu_limit(&self, read: &impl Fn(&Path) -> Option<String>) -> Option<f64> {
        let limit = |folder: &PathBuf| match self.version {
            Version::V1 => parse_cpu_v1(
                &read(&folder.join("cpu.cfs_quota_us"))?,
                &read(&folder.join("cpu.cfs_period_us"))?,
            ),
            Version::V2 => parse_cpu_v2(&read(&folder.join("cpu.max"))?),
        };
        self.folders.iter().filter_map(limit).reduce(f64::min)
    }

    fn memory_limit(&self, read: &impl Fn(&Path) -> Option<String>) -> Option<u64> {
        self.tightest_memory(read).map(|(limit, _)| limit)
    }

    /// The smallest limit in bytes, and the folder of the group that has it.
    pub(crate) fn tightest_memory(&self, read: &impl Fn(&Path) -> Option<String>) -> Option<(u64, PathBuf)> {
        let limit = |folder: &PathBuf| {
            let file = match self.version {
                Version::V1 => "memory.limit_in_bytes",
                Version::V2 => "memory.max",
            };
            Some((parse_memory(&read(&folder.join(file))?)?, folder.clone()))
        };
        self.folders.iter().filter_map(limit).min_by_key(|(limit, _)| *limit)
    }

    /// Bytes that a group uses, without file pages that the kernel would drop first: the kubelet's "working set".
    pub(crate) fn memory_used(&self, folder: &Path, read: &impl Fn(&Path) -> Option<String>) -> Option<u64> {
        let (usage, droppable) = match self.version {
            Version::V1 => ("memory.usage_in_bytes", "total_inactive_file "),
            Version::V2 => ("memory.current", "inactive_file "),
        };
        let used = parse_memory(&read(&folder.join(usage))?)?;
        let stat = read(&folder.join("memory.stat")).unwrap_or_default();
        let droppable = stat.lines().find_map(|line| line.strip_prefix(droppable)).and_then(parse_memory);
        Some(used.saturating_sub(droppable.unwrap_or(0)))
    }
}

/// The group's path from the lines of `/proc/self/cgroup` (cgroups(7)): `hierarchy:controllers:path`. A controller that
/// has a hierarchy of its own is not in version 2.
fn parse_groups<'a>(groups: &'a str, controller: &str) -> (Version, &'a str) {
    let mut unified = "/";
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if controllers.split(',').any(|name| name == controller) {
            return (Version::V1, path);
        }
        if controllers.is_empty() {
            unified = path;
        }
    }
    (Version::V2, unified)
}

/// The folders from the group's own up to the mount. A path that leads out of the mount (`/..`: the group lies outside
/// this namespace) is cut to the mount.
fn folders(mount: &Path, path: &str) -> Vec<PathBuf> {
    let inside = !path.split('/').any(|part| part == "..");
    let own = if inside { mount.join(path.trim_matches('/')) } else { mount.to_owned() };
    own.ancestors().take_while(|folder| folder.starts_with(mount)).map(Path::to_owned).collect()
}

/// `max 100000` or `50000 100000`: microseconds of CPU per microseconds of time.
fn parse_cpu_v2(text: &str) -> Option<f64> {
    let mut fields = text.split_ascii_whitespace();
    parse_cpu_v1(fields.next()?, fields.next()?)
}

/// A quota of -1 (version 1) or `max` (version 2) is no limit.
fn parse_cpu_v1(quota: &str, period: &str) -> Option<f64> {
    let quota: u32 = quota.trim().parse().ok().filter(|quota| *quota > 0)?;
    let period: u32 = period.trim().parse().ok().filter(|period| *period > 0)?;
    Some(f64::from(quota) / f64::from(period))
}

/// Bytes, or `max` (version 2), or a number near 2^63 (version 1) for no limit.
fn parse_memory(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 62)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The limits of a process that sees these files.
    fn limits(files: &[(&str, &str)]) -> (Option<f64>, Option<u64>) {
        let files: BTreeMap<&Path, &str> =
            files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
        let read = |path: &Path| files.get(path).map(ToString::to_string);
        (
            Cgroup::of_process("cpu", &read).cpu_limit(&read),
            Cgroup::of_process("memory", &read).memory_limit(&read),
        )
    }

    #[test]
    fn a_container_in_a_namespace_of_its_own_sees_its_limits_at_the_mount() {
        let files = [
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/cpu.max", "150000 100000\n"),
            ("/sys/fs/cgroup/memory.max", "67108864\n"),
        ];
        assert_eq!(limits(&files), (Some(1.5), Some(64 << 20)));
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let files = [
            ("/proc/self/cgroup", "0::/kubepods/pod1/app\n"),
            ("/sys/fs/cgroup/kubepods/pod1/app/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/kubepods/pod1/app/memory.max", "max\n"),
            ("/sys/fs/cgroup/kubepods/pod1/cpu.max", "50000 100000\n"),
            ("/sys/fs/cgroup/kubepods/cpu.max", "200000 100000\n"),
            ("/sys/fs/cgroup/kubepods/memory.max", "1000000\n"),
        ];
        assert_eq!(limits(&files), (Some(0.5), Some(1_000_000)));
    }

    #[test]
    fn pages_that_the_kernel_would_drop_are_not_in_use() {
        let used = |files: &[(&str, &str)]| {
            let files: BTreeMap<&Path, &str> =
                files.iter().map(|(path, text)| (Path::new(path), *text)).collect();
            let read = |path: &Path| files.get(path).map(|text| (*text).to_owned());
            let group = Cgroup::of_process("memory", &read);
            let (limit, folder) = group.tightest_memory(&read)?;
            Some((limit, group.memory_used(&folder, &read)?))
        };
        let v2 = [
            ("/proc/self/cgroup", "0::/pod/app\n"),
            ("/sys/fs/cgroup/pod/app/memory.max", "max\n"),
            ("/sys/fs/cgroup/pod/memory.max", "1000\n"),
            ("/sys/fs/cgroup/pod/memory.current", "900\n"),
            ("/sys/fs/cgroup/pod/memory.stat", "anon 500\ninactive_file 300\nactive_file 100\n"),
        ];
        assert_eq!(used(&v2), Some((1000, 600)), "of the group that has the limit");
        let v1 = [
            ("/proc/self/cgroup", "9:memory:/pod\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "700\n"),
        ];
        assert_eq!(used(&v1), Some((1000, 700)));
        assert_eq!(used(&v2[..3]), None, "a limit without a usage is no reason to shed");
    }

    #[test]
    fn version_1_has_a_hierarchy_per_controller() {
        let files = [
            ("/proc/self/cgroup", "9:memory:/pod/app\n4:cpu,cpuacct:/pod/app\n0::/\n"),
            ("/sys/fs/cgroup/cpu/pod/app/cpu.cfs_quota_us", "200000\n"),
            ("/sys/fs/cgroup/cpu/pod/app/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/memory/pod/app/memory.limit_in_bytes", "268435456\n"),
        ];
        assert_eq!(limits(&files), (Some(2.0), Some(256 << 20)));
    }

    #[test]
    fn a_version_1_container_finds_its_limits_at_the_mount_although_its_path_is_the_hosts() {
        let files = [
            ("/proc/self/cgroup", "9:memory:/kubepods/pod/app\n4:cpu,cpuacct:/kubepods/pod/app\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "25000\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n"),
        ];
        assert_eq!(limits(&files), (Some(0.25), Some(1 << 20)));
    }

    #[test]
    fn no_limit_is_none_and_not_a_huge_number() {
        let v1 = [
            ("/proc/self/cgroup", "2:memory:/\n1:cpu:/\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(limits(&v1), (None, None));
        let v2 = [
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/memory.max", "max\n"),
        ];
        assert_eq!(limits(&v2), (None, None));
        assert_eq!(limits(&[]), (None, None), "no control groups at all");
    }

    #[test]
    fn a_group_outside_the_namespace_does_not_lead_out_of_the_mount() {
        let files = [("/proc/self/cgroup", "0::/../../etc\n"), ("/sys/fs/cgroup/memory.max", "4096\n")];
        assert_eq!(limits(&files), (None, Some(4096)));
    }

    #[test]
    fn workers_are_one_unless_there_are_two_cpus() {
        let counts = [None, Some(0.1), Some(1.0), Some(1.99), Some(2.0), Some(64.0)].map(worker_count);
        assert_eq!(counts, [1, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn the_soft_limit_on_open_files_becomes_the_hard_one() {
        let limits = raise_open_files().unwrap();
        assert_eq!(limits.now, getrlimit(Resource::Nofile).maximum);
        assert_eq!(raise_open_files().unwrap().before, limits.now, "asking twice changes nothing");
    }

    proptest! {
        #[test]
        fn no_file_content_panics_or_gives_a_senseless_limit(
            groups in "([0-9]{0,2}:(cpu|memory|,|:){0,3}:/?[a-z./]{0,12}\n){0,4}",
            max in "(max|-?[0-9]{1,20}|[a-z ]{0,5})[ \n]?(-?[0-9]{1,20})?\n?",
        ) {
            let read = |path: &Path| Some(if path.starts_with("/proc") { groups.clone() } else { max.clone() });
            let cpu = Cgroup::of_process("cpu", &read).cpu_limit(&read);
            prop_assert!(cpu.is_none_or(|cpus| cpus.is_finite() && cpus > 0.0), "{:?}", cpu);
            let memory = Cgroup::of_process("memory", &read).memory_limit(&read);
            prop_assert!(memory.is_none_or(|bytes| bytes < 1 << 62), "{:?}", memory);
        }

        #[test]
        fn no_path_leads_out_of_the_mount(path in "[a-z./]{0,30}") {
            let folders = folders(Path::new(MOUNT), &path);
            prop_assert!(!folders.is_empty());
            for folder in &folders {
                prop_assert!(folder.starts_with(MOUNT) && !folder.components().any(|c| c.as_os_str() == ".."));
            }
        }
    }
}
