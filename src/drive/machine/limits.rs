//! What the kernel allows: capabilities, memory, control groups.

use std::path::{Path, PathBuf};

use super::{number, text};

pub(super) fn capabilities() -> Option<(u64, u32)> {
    let last = number("/proc/sys/kernel/cap_last_cap").and_then(|last| u32::try_from(last).ok())?;
    Some((parse_bounding(&text("/proc/self/status"))?, last))
}

fn parse_bounding(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

pub(super) fn memory(meminfo: &str) -> Option<(u64, u64)> {
    let kib = |key: &str| {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("MemTotal:")? * 1024, kib("MemAvailable:")? * 1024))
}

pub(super) fn cgroup() -> Option<u8> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        Some(2)
    } else {
        root.join("memory").exists().then_some(1)
    }
}

/// Returns the directories of this process's control group for a controller, the most specific first.
fn cgroup_dirs(controller: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for line in text("/proc/self/cgroup").lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let root = if controllers.is_empty() {
            PathBuf::from("/sys/fs/cgroup")
        } else if controllers.split(',').any(|name| name == controller) {
            Path::new("/sys/fs/cgroup").join(controller)
        } else {
            continue;
        };
        for dir in Path::new(path.trim_start_matches('/')).ancestors() {
            dirs.push(root.join(dir));
        }
    }
    dirs
}

pub(super) fn cpu() -> Option<u64> {
    cgroup_dirs("cpu").iter().filter_map(|dir| cpu_limit_in(dir)).min()
}

fn cpu_limit_in(dir: &Path) -> Option<u64> {
    let v2 = text(dir.join("cpu.max"));
    let (quota, period): (u64, u64) = match v2.split_once(' ') {
        Some((quota, period)) => (quota.parse().ok()?, period.trim().parse().ok()?),
        None => (
            number(dir.join("cpu.cfs_quota_us"))?,
            number(dir.join("cpu.cfs_period_us"))?,
        ),
    };
    (quota * 1000).checked_div(period)
}

pub(super) fn memory_limit() -> Option<u64> {
    cgroup_dirs("memory")
        .iter()
        .filter_map(|dir| number(dir.join("memory.max")).or_else(|| number(dir.join("memory.limit_in_bytes"))))
        // cgroup v1 says "no limit" with a number near 2^63.
        .filter(|&limit| limit < 1 << 60)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::files;

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(
            parse_bounding("Name:\tx\nCapBnd:\t000001fffeffffff\n"),
            Some(0x1ff_feff_ffff)
        );
        assert_eq!(parse_bounding("Name:\tx\n"), None);
        assert_eq!(
            memory("MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\n"),
            Some((1_024_000, 614_400))
        );
    }

    #[test]
    fn limits_of_both_control_group_versions_are_read() {
        let dir = tempfile::tempdir().expect("temporary directory");
        files::write(&dir.path().join("cpu.max"), "150000 100000\n").expect("written");
        assert_eq!(cpu_limit_in(dir.path()), Some(1500));
        files::write(&dir.path().join("cpu.max"), "max 100000\n").expect("written");
        assert_eq!(cpu_limit_in(dir.path()), None);
        let dir = tempfile::tempdir().expect("temporary directory");
        files::write(&dir.path().join("cpu.cfs_quota_us"), "50000\n").expect("written");
        files::write(&dir.path().join("cpu.cfs_period_us"), "100000\n").expect("written");
        assert_eq!(cpu_limit_in(dir.path()), Some(500));
        files::write(&dir.path().join("cpu.cfs_quota_us"), "-1\n").expect("written");
        assert_eq!(cpu_limit_in(dir.path()), None);
    }
}
