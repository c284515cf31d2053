//! What the kernel says of a process and its threads.

use std::fs;
use std::path::PathBuf;

/// A thread, by the lines of `/proc/PID/task/TID/status` (proc_pid_status(5)).
#[derive(Clone, Debug)]
pub(super) struct Thread {
    pub(super) name: String,
    status: String,
}

/// All threads of a process that has several.
#[track_caller]
pub(super) fn threads(pid: u32) -> Vec<Thread> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let paths = entries.map(|entry| entry.expect("a thread").path());
    // Those that end meanwhile are none.
    let threads: Vec<_> = paths.filter_map(thread).collect();
    assert!(threads.len() > 3, "{threads:?}");
    threads
}

fn thread(path: PathBuf) -> Option<Thread> {
    let status = fs::read_to_string(path.join("status")).ok()?;
    let name = status.lines().next()?.trim_start_matches("Name:").trim();
    Some(Thread {
        name: name.to_owned(),
        status,
    })
}

impl Thread {
    /// The value of a line.
    #[track_caller]
    pub(super) fn value(&self, name: &str) -> &str {
        let mut lines = self.status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value
            .unwrap_or_else(|| panic!("no {name} in {}", self.status))
            .trim()
    }

    /// A set of capabilities: `CapPrm`, `CapBnd`.
    #[track_caller]
    pub(super) fn set(&self, name: &str) -> u64 {
        u64::from_str_radix(self.value(name), 16).expect("a set is a hexadecimal number")
    }
}
