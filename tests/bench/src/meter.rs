//! What a process has used, as the kernel counts it.

use std::fs;
use std::ops::Sub;

use anyhow::{Context, Result};

/// Time on a core, of all threads of a process and of its children.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// Microseconds.
    pub total: f64,
    /// Ticks outside of the kernel.
    user: f64,
    /// Ticks in the kernel.
    system: f64,
}

impl Cpu {
    /// The share of it outside of the kernel, in microseconds; ticks are coarse, so only long runs tell.
    #[must_use]
    pub fn user(&self) -> f64 {
        self.total * self.user / (self.user + self.system)
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            total: self.total - before.total,
            user: self.user - before.user,
            system: self.system - before.system,
        }
    }
}

/// A process and its descendants: nginx works in children.
#[derive(Debug, Clone)]
pub struct Family(Vec<u32>);

impl Family {
    /// Of this process, as it is now.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn of(root: u32) -> Result<Self> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
            // Others end at any time.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            if let Some(stat) = parse_stat(&stat) {
                parents.push((pid, stat.parent));
            }
        }
        Ok(Self(descendants(root, &parents)))
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn cpu(&self) -> Result<Cpu> {
        let mut cpu = Cpu::default();
        for pid in &self.0 {
            let gone = || format!("process {pid} has ended within a measurement");
            for thread in fs::read_dir(format!("/proc/{pid}/task")).with_context(gone)? {
                let path = thread?.path();
                let run = fs::read_to_string(path.join("schedstat")).with_context(gone)?;
                let run: f64 = run.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
                cpu.total += run / 1_000.0;
                let stat = fs::read_to_string(path.join("stat")).with_context(gone)?;
                let stat = parse_stat(&stat).context("an unknown form of /proc/PID/stat")?;
                cpu.user += stat.user;
                cpu.system += stat.system;
            }
        }
        Ok(cpu)
    }

    /// Memory that is its own, and its part of what it shares (PSS), in KiB.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn pss(&self) -> Result<f64> {
        let mut sum = 0.0;
        for pid in &self.0 {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            sum += parse_pss(&text).context("an unknown form of /proc/PID/smaps_rollup")?;
        }
        Ok(sum)
    }
}

#[derive(Debug, PartialEq)]
struct Stat {
    parent: u32,
    user: f64,
    system: f64,
}

/// proc(5); the name in parentheses can hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(") ")?;
    let field = |index: usize| rest.split(' ').nth(index);
    Some(Stat {
        parent: field(1)?.parse().ok()?,
        user: field(11)?.parse().ok()?,
        system: field(12)?.parse().ok()?,
    })
}

fn parse_pss(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

fn descendants(root: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut family = vec![root];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
        next += 1;
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_forge_its_figures_by_its_name() {
        let text = "7 (a) R 1 (b)) S 42 7 7 0 -1 4194560 109 0 0 0 30 10 0 0 20 0 1 0 100 2703360 265";
        assert_eq!(parse_stat(text), Some(Stat { parent: 42, user: 30.0, system: 10.0 }));
        assert_eq!(parse_stat("nothing"), None);
    }

    #[test]
    fn memory_is_read_from_the_roll_up() {
        let text = "aa-bb ---p 0 00:00 0 [rollup]\nRss:  2412 kB\nPss:   713 kB\nPss_Dirty: 100 kB\n";
        assert_eq!(parse_pss(text), Some(713.0));
    }

    #[test]
    fn children_of_children_are_counted() {
        assert_eq!(descendants(2, &[(3, 2), (4, 3), (5, 1), (2, 1)]), [2, 3, 4]);
    }

    #[test]
    fn this_process_can_be_measured() {
        let family = Family::of(std::process::id()).unwrap();
        assert!(family.pss().unwrap() > 100.0);
        let before = family.cpu().unwrap();
        let mut sum = 0_u64;
        while (family.cpu().unwrap() - before).total < 2_000.0 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
