//! The processes below a job's keeper: found, measured, ended.
//!
//! On Linux the keeper is the reaper of all that is below it, so whatever a program does (fork twice, begin a session of
//! its own, let its parent die), `/proc` has it below the keeper. Elsewhere there is only the process group: what leaves
//! it is not found.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// What a job's processes use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    /// How many there are.
    pub(super) processes: usize,
    /// Memory that is theirs and not a file's, in bytes.
    pub(super) memory: u64,
}

/// The processes below one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    /// Whose descendants they are; on Linux they are looked for below it.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only /proc tells descendants"))]
    root: Pid,
    /// The group that the program was started in.
    group: Option<Pid>,
}

impl Tree {
    /// Names the processes below `root`, of which the program leads `group`.
    pub(super) fn new(root: Pid, group: Option<Pid>) -> Self {
        Self { root, group }
    }

    /// Sends a signal to all of them that are there now.
    pub(super) fn signal(self, signal: Signal) {
        #[cfg(target_os = "linux")]
        {
            let found = linux::below(self.root);
            // A group without processes is a number that another program may get.
            let group = self.group.filter(|group| {
                found
                    .iter()
                    .any(|process| process.group == group.as_raw_nonzero().get())
            });
            // The group at once, so that a program that forks quickly cannot slip through; then who left it.
            if let Some(group) = group {
                _ = rustix::process::kill_process_group(group, signal);
            }
            for process in found {
                if group.is_none_or(|group| group.as_raw_nonzero().get() != process.group) {
                    linux::kill(process.pid, signal);
                }
            }
        }
        #[cfg(not(target_os = "linux"))]
        if let Some(group) = self.group {
            _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Ends all of them and calls `reap` between, until none is left or `patience` is over. Says whether none is left.
    ///
    /// They are stopped first: a stopped process does not fork, so those that fork faster than they can be ended come to
    /// an end as well.
    #[cfg(target_os = "linux")]
    pub(super) fn kill(self, patience: Duration, mut reap: impl FnMut()) -> bool {
        let until = Instant::now() + patience;
        let mut pause = Duration::from_micros(200);
        loop {
            let mut known = Vec::new();
            for _ in 0..20 {
                self.signal(Signal::STOP);
                let found: Vec<i32> = linux::below(self.root).into_iter().map(|process| process.pid).collect();
                let grew = found.iter().any(|pid| !known.contains(pid));
                known = found;
                if !grew {
                    break;
                }
            }
            self.signal(Signal::KILL);
            reap();
            if linux::below(self.root).is_empty() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
            reap();
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn kill(self, patience: Duration, mut reap: impl FnMut()) -> bool {
        let until = Instant::now() + patience;
        loop {
            self.signal(Signal::KILL);
            reap();
            let gone = self
                .group
                .is_none_or(|group| rustix::process::test_kill_process_group(group).is_err());
            if gone || Instant::now() >= until {
                return gone;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns what they use; nothing at all where that cannot be known.
    ///
    /// What parent and child share counts for both, as counting it once takes longer: [`Tree::memory`] does.
    pub(super) fn usage(self) -> Usage {
        #[cfg(target_os = "linux")]
        return linux::usage(self.root);
        #[cfg(not(target_os = "linux"))]
        return Usage::default();
    }

    /// Returns how much memory they use, where what several share counts once; in bytes.
    pub(super) fn memory(self) -> u64 {
        #[cfg(target_os = "linux")]
        return linux::proportional(self.root);
        #[cfg(not(target_os = "linux"))]
        return 0;
    }
}

/// Ends what a keeper that was killed left behind: its session, whatever carries its job's id in its environment, and
/// what is below those. Says how many processes there were.
#[cfg(target_os = "linux")]
pub(super) fn sweep(keeper: Option<i32>, job: &str) -> usize {
    linux::sweep(keeper, job)
}

/// Ends what a keeper that was killed left behind, as far as that can be found: nothing, on this system.
#[cfg(not(target_os = "linux"))]
pub(super) fn sweep(_keeper: Option<i32>, _job: &str) -> usize {
    0
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::time::{Duration, Instant};

    use rustix::process::{Pid, Signal, kill_process};

    use super::Usage;

    /// A process, as its line in `/proc/PID/stat` has it (proc_pid_stat(5)).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Process {
        pub(super) pid: i32,
        pub(super) parent: i32,
        pub(super) group: i32,
        pub(super) session: i32,
        pub(super) zombie: bool,
    }

    pub(super) fn parse(stat: &str) -> Option<Process> {
        let (pid, rest) = stat.split_once(" (")?;
        // A program's name may have blanks and brackets in it; the last one ends it.
        let (_, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let zombie = matches!(fields.next()?, "Z" | "X");
        let mut number = || fields.next()?.parse().ok();
        Some(Process {
            pid: pid.parse().ok()?,
            parent: number()?,
            group: number()?,
            session: number()?,
            zombie,
        })
    }

    fn process(pid: i32) -> Option<Process> {
        parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn everyone() -> Vec<Process> {
        let names = fs::read_dir("/proc").into_iter().flatten().flatten();
        names
            .filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?))
            .collect()
    }

    /// Returns the children of a process, of all its threads; nothing where the kernel does not tell
    /// (CONFIG_PROC_CHILDREN).
    fn children(pid: i32) -> Option<Vec<i32>> {
        let mut out = Vec::new();
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return Some(out);
        };
        for thread in threads.flatten() {
            match fs::read_to_string(thread.path().join("children")) {
                Ok(text) => out.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
                // A thread that is gone has no children; one that is there and no such file means an old kernel.
                Err(_) if thread.path().join("stat").exists() => return None,
                Err(_) => {}
            }
        }
        Some(out)
    }

    /// Returns all processes below one that still are something; those that wait to be reaped are not.
    pub(super) fn below(root: Pid) -> Vec<Process> {
        let root = root.as_raw_nonzero().get();
        walk(root).unwrap_or_else(|| search(&BTreeSet::from([root]), everyone()))
    }

    fn walk(root: i32) -> Option<Vec<Process>> {
        let mut out = Vec::new();
        let mut left = children(root)?;
        while let Some(pid) = left.pop() {
            left.extend(children(pid)?);
            out.extend(process(pid).filter(|process| !process.zombie));
        }
        Some(out)
    }

    /// Returns those of `all` that are below one of the roots.
    fn search(roots: &BTreeSet<i32>, all: Vec<Process>) -> Vec<Process> {
        let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
        for process in all {
            children.entry(process.parent).or_default().push(process);
        }
        let mut out = Vec::new();
        let mut left: Vec<i32> = roots.iter().copied().collect();
        while let Some(pid) = left.pop() {
            for process in children.remove(&pid).unwrap_or_default() {
                left.push(process.pid);
                if !process.zombie {
                    out.push(process);
                }
            }
        }
        out
    }

    pub(super) fn kill(pid: i32, signal: Signal) {
        if let Some(pid) = Pid::from_raw(pid) {
            _ = kill_process(pid, signal);
        }
    }

    pub(super) fn usage(root: Pid) -> Usage {
        let processes = below(root);
        Usage {
            processes: processes.len(),
            memory: processes.iter().map(|process| memory(process.pid)).sum(),
        }
    }

    /// Returns how much memory of a process is its own: anonymous and shared, not mapped files.
    fn memory(pid: i32) -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        fields(&status, &["RssAnon:", "RssShmem:"])
    }

    /// Returns the same for all of them, where a page that n of them share counts as an n-th for each
    /// (`smaps_rollup`, proc_pid_smaps(5)).
    pub(super) fn proportional(root: Pid) -> u64 {
        let processes = below(root);
        let one = |pid: i32| {
            let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
                return memory(pid);
            };
            fields(&text, &["Pss_Anon:", "Pss_Shmem:"])
        };
        processes.iter().map(|process| one(process.pid)).sum()
    }

    /// Returns the sum of some fields that are given in kB.
    fn fields(text: &str, names: &[&str]) -> u64 {
        let one = |line: &str| {
            let rest = names.iter().find_map(|name| line.strip_prefix(name))?;
            rest.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        text.lines().filter_map(one).sum::<u64>() << 10
    }

    pub(super) fn sweep(keeper: Option<i32>, job: &str) -> usize {
        let mark = format!("LABCTL_JOB_ID={job}");
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let marked = |process: &Process| {
            if keeper == Some(process.session) {
                return true;
            }
            let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
        };
        let until = Instant::now() + Duration::from_secs(5);
        let mut ended = BTreeSet::new();
        loop {
            let all = everyone();
            let mut found: Vec<Process> = all
                .iter()
                .copied()
                .filter(|process| !process.zombie && marked(process))
                .collect();
            let roots = found.iter().map(|process| process.pid).collect();
            found.extend(search(&roots, all));
            found.retain(|process| process.pid != own);
            for process in &found {
                kill(process.pid, Signal::STOP);
                kill(process.pid, Signal::KILL);
                ended.insert(process.pid);
            }
            if found.is_empty() || Instant::now() >= until {
                return ended.len();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_name_with_brackets_does_not_confuse() {
            let process = parse("12 (a) b (c)) S 3 4 5 0 -1").expect("a process");
            assert_eq!(
                (
                    process.pid,
                    process.parent,
                    process.group,
                    process.session,
                    process.zombie
                ),
                (12, 3, 4, 5, false)
            );
            assert!(parse("13 (x) Z 1 1 1 0").expect("a process").zombie);
            assert_eq!(parse(""), None);
        }

        #[test]
        fn both_ways_find_the_same_processes() {
            #[expect(clippy::disallowed_methods, reason = "a test of what is below this very process")]
            let mut child = std::process::Command::new("/bin/sh")
                .args(["-c", "sleep 20 & setsid sleep 20 & wait"])
                .spawn()
                .expect("started");
            let pid = i32::try_from(child.id()).expect("a pid");
            let until = Instant::now() + Duration::from_secs(5);
            let pids = |mut found: Vec<Process>| {
                found.sort_by_key(|process| process.pid);
                found.into_iter().map(|process| process.pid).collect::<Vec<_>>()
            };
            let mut walked = Vec::new();
            while walked.len() < 2 && Instant::now() < until {
                walked = pids(walk(pid).unwrap_or_default());
            }
            let searched = pids(search(&BTreeSet::from([pid]), everyone()));
            let used = usage(Pid::from_raw(pid).expect("a pid"));
            for pid in walked.iter().copied().chain([pid]) {
                kill(pid, Signal::KILL);
            }
            child.wait().expect("ended");
            assert_eq!(walked.len(), 2);
            assert_eq!(walked, searched);
            assert_eq!(used.processes, 2);
            assert!((1..100 << 20).contains(&used.memory), "{used:?}");
        }
    }
}
