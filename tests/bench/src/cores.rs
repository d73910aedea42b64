//! Which cores the proxy has, and which the load and the backends.

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The machine, divided: whoever makes the load must not take time from the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// The proxy's.
    pub proxy: Vec<usize>,
    /// The load generators' and the backends'.
    pub load: Vec<usize>,
}

/// One core for each worker as long as at least as many are left for load and backends.
///
/// # Errors
/// With fewer than two cores.
pub fn divide(available: &[usize], workers: usize) -> Result<Cores> {
    ensure!(available.len() >= 2, "the benchmark needs two cores, one for the proxy and one for its load");
    let (proxy, load) = available.split_at(workers.clamp(1, available.len() / 2));
    Ok(Cores { proxy: proxy.to_vec(), load: load.to_vec() })
}

/// The cores that this thread may run on.
///
/// # Errors
/// When the operating system does not say.
pub fn available() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("cannot tell which cores may be used")?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Binds this thread, and what it starts from now on, to these cores.
///
/// # Errors
/// When the operating system refuses.
pub fn bind_to(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on the cores {cores:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_and_proxy_never_share_a_core() {
        for (available, workers, proxy) in [(2, 1, 1), (2, 2, 1), (4, 2, 2), (8, 2, 2), (3, 2, 1)] {
            let cores = divide(&(0..available).collect::<Vec<_>>(), workers).unwrap();
            assert_eq!(cores.proxy.len(), proxy, "{available} cores, {workers} workers");
            assert!(cores.load.iter().all(|core| !cores.proxy.contains(core)));
        }
        assert!(divide(&[0], 1).is_err());
    }
}
