//! `cargo xtask bench` itself, on its smallest loads: so that it does not rot, and so that it
//! leaves the machine as it was.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sni_router_tests::daemon;
use sni_router_tests::netns::{Scratch, unique_name};
use sni_router_tests::wait::{until, until_some};

#[test]
fn numbers_make_sense_and_nothing_is_left_when_it_measures_a_moment() {
    let (_turn, before) = (turn(), congestion());
    let scratch = Scratch::create(&unique_name());
    let json = scratch.path().join("results.json");
    let mut bench = start(
        scratch.path(),
        &["--systems", "forward,sni-router/userspace"],
        &[
            "--loads",
            "down-1,up-1,connect-32,reset-32,exchange-1k",
            "--seconds",
            "0.2",
        ],
    );
    let id = bench.0.id();
    let status = until_some("the benchmark's end", LONG, || bench.0.try_wait().unwrap());
    let log = fs::read_to_string(scratch.path().join("log")).unwrap();
    assert!(status.success(), "{log}");

    let results: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let rows = results["rows"].as_array().unwrap();
    for (load, key) in [
        ("down-1", "gbps"),
        ("up-1", "cpu_s_per_gb"),
        ("connect-32", "conns_per_s"),
        ("reset-32", "p99_us"),
        ("exchange-1k", "ops_per_s"),
    ] {
        for system in ["forward", "sni-router"] {
            let mut rows = rows.iter();
            let row = rows.find(|row| row["system"] == system && row["load"] == load);
            let row = row.unwrap_or_else(|| panic!("no row {system} {load} in {results}"));
            assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{row}");
            assert_eq!(
                (&row["errors"], &row["valid"]),
                (&0.into(), &true.into()),
                "{row}"
            );
        }
        let mut rows = rows.iter();
        let ratios = rows.find(|row| row["system"] == "ratios" && row["load"] == load);
        let ratio = ratios.and_then(|row| row["vs_forward"][key].as_f64());
        assert!(ratio.is_some_and(|ratio| ratio > 0.0), "{ratios:?}");
    }
    assert!(scratch.path().join("report/down-1.svg").exists(), "{log}");
    assert_nothing_is_left(id, &before);
}

#[test]
fn nothing_is_left_when_it_is_interrupted() {
    let (_turn, before) = (turn(), congestion());
    let scratch = Scratch::create(&unique_name());
    let mut bench = start(
        scratch.path(),
        &["--systems", "sni-router/userspace"],
        &["--loads", "down-1", "--seconds", "600"],
    );
    let id = bench.0.id();
    let is_loaded = || processes_named("sni-router-bench", id) == 2;
    until("the generator and the endpoint run", LONG, is_loaded);
    bench.interrupt();
    let status = until_some("the benchmark's end", LONG, || bench.0.try_wait().unwrap());
    let log = fs::read_to_string(scratch.path().join("log")).unwrap();
    assert!(!status.success() && log.contains("interrupted"), "{log}");
    assert_nothing_is_left(id, &before);
}

/// A benchmark; ended with the test, also when that fails.
struct Bench(Child);

impl Bench {
    fn interrupt(&self) {
        let pid = Pid::from_raw(self.0.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // To be asked, it removes what it has made.
        if matches!(self.0.try_wait(), Ok(None)) {
            self.interrupt();
            let _ = self.0.wait();
        }
    }
}

/// Starts it on the programs beside this test.
#[track_caller]
fn start(dir: &Path, systems: &[&str], loads: &[&str]) -> Bench {
    let binaries = daemon::binary().parent().unwrap().to_owned();
    for name in ["xtask", "sni-router-bench"] {
        let path = binaries.join(name);
        assert!(
            path.exists(),
            "no {}: run `cargo xtask test`",
            path.display()
        );
    }
    let log = fs::File::create(dir.join("log")).unwrap();
    let child = Command::new(binaries.join("xtask"))
        .arg("bench")
        .arg("--binaries")
        .arg(&binaries)
        .arg("--json")
        .arg(dir.join("results.json"))
        .arg("--report")
        .arg(dir.join("report"))
        .args(["--rounds", "1"])
        .args(systems)
        .args(loads)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("start xtask");
    Bench(child)
}

#[track_caller]
fn assert_nothing_is_left(id: u32, congestion_before: &str) {
    for dir in ["/run/netns", "/run"] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(
                !name.starts_with(&format!("snirbench-{id}")),
                "{dir}/{name}"
            );
        }
    }
    assert_eq!(congestion(), congestion_before);
    assert_eq!(processes_named("sni-router-bench", id), 0);
}

/// How many processes of this name a benchmark has started.
fn processes_named(name: &str, bench: u32) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let programs = entries.filter(|entry| {
        let is_it = fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe.ends_with(name));
        is_it && parent(&entry.path()) == Some(bench)
    });
    programs.count()
}

/// `PPid:` in the status of a process.
fn parent(process: &Path) -> Option<u32> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// The congestion control of the machine while no benchmark runs.
fn congestion() -> String {
    let before = fs::read_to_string("/run/sni-router-bench.congestion");
    let now = || fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    before.unwrap_or_else(|_| now()).trim().to_owned()
}

/// Both tests look at the one setting of the machine that it changes.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long anything may take on a machine that is busy with other things.
const LONG: Duration = Duration::from_secs(120);
