//! What the kernel says of this process, under the names that every program has for it
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>).

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::samples::{Family, Value};

/// See the module.
#[derive(Debug)]
pub(super) struct Process {
    /// In seconds since 1970.
    started: Option<f64>,
}

impl Process {
    pub(super) fn new() -> Self {
        Self { started: started() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stat = Stat::read();
        let stat = |field| stat.as_ref().and_then(|stat| stat.field(field));
        let pages = |pages| (pages * page_size() as u64) as f64;
        let cpu = Family::counter("process_cpu_seconds", "User and system CPU time spent");
        cpu.with(Value::Measure(cpu_seconds()))
            .encode(&mut encoder)?;
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory that is resident",
                stat(RSS).map(pages),
            ),
            (
                "process_virtual_memory_bytes",
                "Memory that is mapped",
                stat(VSIZE).map(|bytes| bytes as f64),
            ),
            (
                "process_threads",
                "Threads",
                stat(THREADS).map(|threads| threads as f64),
            ),
            (
                "process_open_fds",
                "File descriptors that are open",
                open_descriptors(),
            ),
            (
                "process_max_fds",
                "File descriptors that may be open",
                getrlimit(Resource::Nofile).current.map(|most| most as f64),
            ),
            (
                "process_start_time_seconds",
                "When the process was started, in seconds since 1970",
                self.started,
            ),
        ] {
            let mut family = Family::gauge(name, help);
            if let Some(value) = value {
                family.push([], Value::Measure(value));
            }
            family.encode(&mut encoder)?;
        }
        Ok(())
    }
}

/// More exact than `/proc`, which counts ticks.
fn cpu_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

fn open_descriptors() -> Option<f64> {
    let directory = "/proc/self/fd";
    // The size of the directory is their number since Linux 6.2 (proc_readfd_count, fs/proc/fd.c),
    // and 0 before.
    let count = match fs::metadata(directory).ok()?.len() {
        0 => fs::read_dir(directory).ok()?.count() as u64,
        count => count,
    };
    Some(count as f64)
}

fn started() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    let boot: f64 = boot.trim().parse().ok()?;
    let ticks = Stat::read()?.field(STARTED)?;
    Some(boot + ticks as f64 / clock_ticks_per_second() as f64)
}

/// `/proc/self/stat`.
struct Stat(String);

impl Stat {
    fn read() -> Option<Self> {
        fs::read_to_string("/proc/self/stat").ok().map(Self)
    }

    /// A field by its number in proc_pid_stat(5), of those behind the name, which may have anything in
    /// it.
    fn field(&self, number: usize) -> Option<u64> {
        let (_, behind) = self.0.rsplit_once(')')?;
        behind
            .split_ascii_whitespace()
            .nth(number - 3)?
            .parse()
            .ok()
    }
}

// proc_pid_stat(5)
const THREADS: usize = 20;
const STARTED: usize = 22;
const VSIZE: usize = 23;
const RSS: usize = 24;

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn fields_are_found_whatever_the_name_is() {
        let tail: Vec<_> = (4..=52).map(|number| number.to_string()).collect();
        let stat = Stat(format!("7 (a ) b) S {}\n", tail.join(" ")));
        assert_eq!(stat.field(THREADS), Some(20));
        assert_eq!(stat.field(RSS), Some(24));
    }

    #[test]
    fn this_process_has_started_before_now_and_uses_something() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - started().unwrap();
        assert!((-1.0..86_400.0).contains(&age), "{age}");
        let before = open_descriptors().unwrap();
        let _one_more = fs::File::open("/dev/null").unwrap();
        assert!(before >= 3.0 && cpu_seconds() > 0.0);
        let stat = Stat::read().unwrap();
        assert!(stat.field(RSS).unwrap() > 0 && stat.field(THREADS).unwrap() > 0);
    }
}
