//! What is counted in a run of its own, after the timed ones, since counting costs time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::load::{Load, Work};
use super::measure::{Bench, Outcome};
use super::occupied::number_after;
use super::peers::{self, Program};
use super::setting::BpfStats;
use super::system::{self, System};
use crate::command::output;

impl Bench<'_> {
    /// Counts what is counted of this load on this system; `None` where there is nothing.
    pub fn extra(&mut self, load: &Load) -> Result<Option<Outcome>> {
        if counts_syscalls(load) && self.has_process() {
            return self.syscalls(load);
        }
        if takes_kernel_time(load) && self.is_tc() && BpfStats::exist() {
            return self.kernel_time(load).map(Some);
        }
        Ok(None)
    }

    /// System calls of the system's processes, by connection.
    fn syscalls(&mut self, load: &Load) -> Result<Option<Outcome>> {
        let Some(perf) = self.tools.perf else {
            return Ok(None);
        };
        let pids = system::processes(&self.place.lab)?;
        let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
        let counts = self.place.lab.dir().join("syscalls");
        let mut command = count_syscalls(perf, &counts);
        // Of these processes, for as long as the generator runs.
        command.args(["-p", &pids.join(",")]);
        let generator = self.generate(load, Duration::ZERO, EXTRA);
        command.arg(generator.get_program());
        command.args(generator.get_args());
        let mut outcome = self.watch(load, &mut command, |_| Ok(()))?;
        let count = calls(&fs::read_to_string(counts)?)?;
        let connections = outcome.report["count"].as_f64();
        let connections = connections.filter(|count| *count > 0.0);
        let each = count as f64 / connections.context("no connection was made")?;
        outcome.results = BTreeMap::from([(SYSCALLS.to_owned(), each)]);
        Ok(Some(outcome))
    }

    /// Time that the tc programs take, by packet.
    fn kernel_time(&mut self, load: &Load) -> Result<Outcome> {
        let accounting = BpfStats::on()?;
        let before = self.tc_programs()?;
        let mut command = self.generate(load, Duration::ZERO, EXTRA);
        let mut outcome = self.watch(load, &mut command, |_| Ok(()))?;
        let after = self.tc_programs()?;
        drop(accounting);
        let (time, runs) = difference(&before, &after);
        ensure!(runs > 0, "its tc programs have not run");
        outcome.results = BTreeMap::from([
            (NS_PER_PACKET.to_owned(), time as f64 / runs as f64),
            ("tc_runs".to_owned(), runs as f64),
        ]);
        Ok(outcome)
    }

    /// Nanoseconds and runs of the system's tc programs so far, by their numbers.
    fn tc_programs(&self) -> Result<Programs> {
        let mut programs = Programs::new();
        for pid in system::processes(&self.place.lab)? {
            let infos = Path::new("/proc").join(pid.to_string()).join("fdinfo");
            for info in fs::read_dir(infos)?.flatten() {
                // A descriptor may be closed meanwhile.
                let info = fs::read_to_string(info.path()).unwrap_or_default();
                programs.extend(tc_program(&info));
            }
        }
        ensure!(!programs.is_empty(), "it has no descriptor of a tc program");
        Ok(programs)
    }
}

/// Gets what counts system calls, if that is asked for.
pub fn find(loads: &[Load], systems: &[System]) -> Option<Result<Program>> {
    let is_wanted = systems.iter().any(System::is_router) && loads.iter().any(counts_syscalls);
    is_wanted.then(peers::perf)
}

/// Whether it can count here; what cannot be counted is told of with a line.
pub fn check(
    perf: Option<Result<Program>>,
    loads: &[Load],
    systems: &[System],
    missing: &mut Vec<String>,
) -> Option<Program> {
    let is_tc = |system: &System| system.carrier() == "tc";
    let is_wanted = systems.iter().any(is_tc) && loads.iter().any(takes_kernel_time);
    if is_wanted && !BpfStats::exist() {
        let why = "the kernel does not account for BPF programs";
        missing.push(format!("{NS_PER_PACKET} is left out: {why}"));
    }
    let tried = perf?.and_then(|perf| {
        let mut command = count_syscalls(&perf, Path::new("/dev/null"));
        output(command.arg("true")).map(|_| perf)
    });
    let say = |error| missing.push(format!("{SYSCALLS} is left out: {error:#}"));
    tried.map_err(say).ok()
}

/// Whether system calls are counted under this load.
pub fn counts_syscalls(load: &Load) -> bool {
    load.name == "connect-32"
}

/// Whether the time that the kernel's programs take is looked at under this load.
pub fn takes_kernel_time(load: &Load) -> bool {
    match load.work {
        Work::Down => load.name == "down-4",
        Work::Exchange => load.size == 1024,
        _ => false,
    }
}

/// Counts system calls with perf, which costs those who make them next to nothing. strace, which
/// stops them at each, would slow the system down until it finds more work each time it wakes.
fn count_syscalls(perf: &Program, to: &Path) -> Command {
    // perf mounts tracefs where it is not mounted: only for itself.
    let mut command = Command::new("unshare");
    command.args(["--mount", "env"]).args(perf.words());
    command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-o"]);
    command.arg(to);
    command
}

/// `12345,,raw_syscalls:sys_enter,163000,100.00,,`
fn calls(counts: &str) -> Result<u64> {
    let line = counts.lines().find(|line| line.contains("sys_enter"));
    let count = line.and_then(|line| line.split(',').next()?.parse().ok());
    match count {
        Some(count) => Ok(count),
        None => bail!("perf counts nothing: {counts}"),
    }
}

/// Nanoseconds and runs by the number of a program.
type Programs = BTreeMap<u64, (u64, u64)>;

/// A tc program, if this fdinfo is of one (kernel: bpf_prog_show_fdinfo in kernel/bpf/syscall.c).
fn tc_program(info: &str) -> Option<(u64, (u64, u64))> {
    let number = |key| number_after(info, key);
    let is_tc = info.lines().any(|line| line.starts_with("prog_type:"))
        && number("prog_type:") == BPF_PROG_TYPE_SCHED_CLS;
    is_tc.then(|| {
        let time = (number("run_time_ns:"), number("run_cnt:"));
        (number("prog_id:"), time)
    })
}

/// What was added in between.
fn difference(before: &Programs, after: &Programs) -> (u64, u64) {
    let mut sum = (0, 0);
    for (id, (time, runs)) in after {
        let (time_before, runs_before) = before.get(id).copied().unwrap_or_default();
        sum.0 += time.saturating_sub(time_before);
        sum.1 += runs.saturating_sub(runs_before);
    }
    sum
}

/// The result of counting system calls.
pub const SYSCALLS: &str = "syscalls_per_conn";
/// The result of looking at the kernel's programs.
pub const NS_PER_PACKET: &str = "ns_per_packet";

/// How long is counted.
const EXTRA: Duration = Duration::from_secs(1);
// include/uapi/linux/bpf.h
const BPF_PROG_TYPE_SCHED_CLS: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_when_perf_has_counted_and_refused_when_not() {
        let text = "# started on Wed\n\n12345,,raw_syscalls:sys_enter,163000,100.00,,\n";
        assert_eq!(calls(text).unwrap(), 12_345);
        assert!(calls("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n").is_err());
        assert!(calls("").is_err());
    }

    #[test]
    fn time_is_that_of_tc_programs_between_two_looks() {
        let info = "pos:\t0\nprog_type:\t3\nprog_id:\t7\nrun_time_ns:\t500\nrun_cnt:\t2\n";
        let before = Programs::from_iter(tc_program(info));
        assert_eq!(before, Programs::from([(7, (500, 2))]));
        assert_eq!(tc_program(&info.replace("\t3", "\t31")), None);
        assert_eq!(tc_program("map_type:\t3\nmap_id:\t7\n"), None);
        let after = Programs::from([(7, (1_500, 7)), (8, (40, 1))]);
        assert_eq!(difference(&before, &after), (1_040, 6));
    }

    #[test]
    fn line_says_so_when_system_calls_cannot_be_counted() {
        let loads = Load::select(&["connect-32".to_owned()], false).unwrap();
        let ours = [System::imagined("sni-router", "userspace")];
        for perf in [
            Ok(Program::here(Path::new("/bin/false"))),
            Err(anyhow::anyhow!("there is no perf")),
        ] {
            let mut missing = Vec::new();
            assert!(check(Some(perf), &loads, &ours, &mut missing).is_none());
            assert_eq!(missing.len(), 1);
            let line = &missing[0];
            assert!(
                line.starts_with("syscalls_per_conn is left out: "),
                "{line}"
            );
        }
    }

    #[test]
    fn perf_is_wanted_for_routers_that_get_new_connections_only() {
        let forward = [System::imagined("forward", "kernel")];
        let loads = Load::select(&["connect-32".to_owned()], false).unwrap();
        assert!(find(&loads, &forward).is_none());
        let ours = [System::imagined("sni-router", "userspace")];
        let loads = Load::select(&["down-4".to_owned()], false).unwrap();
        assert!(find(&loads, &ours).is_none());
    }

    #[test]
    fn extra_runs_are_of_three_loads() {
        let loads = Load::select(&[], false).unwrap();
        let named = |is: fn(&Load) -> bool| {
            let loads = loads.iter().filter(|load| is(load));
            loads.map(|load| load.name).collect::<Vec<_>>()
        };
        assert_eq!(named(counts_syscalls), ["connect-32"]);
        assert_eq!(named(takes_kernel_time), ["down-4", "exchange-1k"]);
    }
}
