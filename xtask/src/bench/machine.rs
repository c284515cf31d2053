//! The machine: what it is, and what it is busy with.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::setting::Congestion;
use crate::command::{output, workspace};

/// Raises the limit of open files for everything that is started; what it is.
pub fn raise_open_files() -> Result<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// What somebody who compares numbers must know.
pub fn describe(congestion: &Congestion, open_files: u64) -> Result<Value> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let commit = output(Command::new("git").arg("-C").arg(workspace()).args([
        "-c",
        "safe.directory=*",
        "describe",
        "--always",
        "--dirty",
    ]));
    Ok(json!({
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "cpu": model.map(|model| model.trim_matches([' ', '\t', ':'])),
        "cpus": thread::available_parallelism()?.get(),
        "congestion_control": congestion.used(),
        "congestion_control_before": congestion.before(),
        "open_files": open_files,
        "commit": commit.ok().map(|commit| commit.trim().to_owned()),
    }))
}

/// The part of the CPUs that others are using: measured while nothing of ours runs.
pub fn noise() -> Result<f64> {
    let before = ticks()?;
    thread::sleep(Duration::from_millis(500));
    let after = ticks()?;
    let (busy, all) = (after.0 - before.0, after.1 - before.1);
    Ok(busy as f64 / all.max(1) as f64)
}

/// Busy and all ticks of /proc/stat so far.
fn ticks() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let all: u64 = ticks.iter().sum();
    // The fourth and fifth are idle and iowait (proc(5)).
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

/// The memory that all TCP sockets of the machine occupy: objects of the kernel's caches for
/// sockets, with their inodes and files, and their buffers.
pub fn socket_memory() -> Result<u64> {
    let slabs = fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
    let sockstat = fs::read_to_string("/proc/net/sockstat")?;
    Ok(slab_bytes(&slabs) + buffer_pages(&sockstat) * rustix::param::page_size() as u64)
}

/// `TCP 65 117 2368 …`: name, objects in use, objects, bytes of one.
fn slab_bytes(slabs: &str) -> u64 {
    let of_line = |line: &str| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        let active: u64 = fields.next()?.parse().ok()?;
        let size: u64 = fields.nth(1)?.parse().ok()?;
        SOCKET_SLABS.contains(&name).then_some(active * size)
    };
    slabs.lines().filter_map(of_line).sum()
}

/// `TCP: inuse 1 orphan 0 tw 0 alloc 28 mem 21346`: the last is of all namespaces together.
fn buffer_pages(sockstat: &str) -> u64 {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"));
    let pages = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    pages.unwrap_or(0)
}

/// A socket is one object of each.
const SOCKET_SLABS: [&str; 3] = ["TCP", "sock_inode_cache", "filp"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_count_when_they_are_of_sockets() {
        let slabs = "slabinfo - version: 2.1\n# name <active_objs>\nTCPv6 9 9 9 9 9\n\
                     TCP 10 117 2368 13 8 : tunables\nfilp 1 924 192 21 1\ndentry 5 5 192 1 1\n";
        assert_eq!(slab_bytes(slabs), 10 * 2368 + 192);
    }

    #[test]
    fn buffers_are_read_when_other_protocols_are_there() {
        let text = "sockets: used 13\nTCP: inuse 1 orphan 0 tw 0 alloc 28 mem 21346\nUDP: mem 7\n";
        assert_eq!(buffer_pages(text), 21346);
        assert_eq!(buffer_pages("sockets: used 13\n"), 0);
    }
}
