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
    let results = Results::of(&[
        "--systems=direct,forward,sni-router/userspace",
        "--loads=down-1,up-1,connect-32,reset-32,exchange-1k",
        "--seconds=0.2",
    ]);
    for (load, key) in [
        ("down-1", "gbps"),
        ("up-1", "cpu_s_per_gb"),
        ("connect-32", "conns_per_s"),
        ("reset-32", "p99_us"),
        ("exchange-1k", "ops_per_s"),
    ] {
        for system in ["direct", "forward", "sni-router"] {
            let row = results.valid_row(system, load);
            assert_positive(row, key);
            assert_eq!(row["params"]["tls"], Value::Null, "{row}");
        }
        let ratios = results.row("ratios", load);
        for other in ["vs_direct", "vs_forward"] {
            assert_positive(&ratios[other], key);
        }
    }
    // It accepts, reads, connects, writes and closes two sockets, at the least.
    let syscalls = &results.row("sni-router", "connect-32")["syscalls_per_conn"];
    assert!(syscalls.as_f64() > Some(6.0), "{syscalls}, {}", results.log);
    let none = &results.row("forward", "connect-32")["syscalls_per_conn"];
    assert!(none.is_null(), "{none}");
}

#[test]
fn kernel_is_accounted_for_when_it_is_the_kernel_that_carries() {
    let results = Results::of(&[
        "--systems=sni-router/tc",
        "--loads=down-4,exchange-1k,idle-1000",
        "--seconds=0.2",
    ]);
    for load in ["down-4", "exchange-1k"] {
        let row = results.valid_row("sni-router", load);
        assert_positive(row, "ns_per_packet");
        assert_positive(row, "tc_runs");
    }
    let idle = results.valid_row("sni-router", "idle-1000");
    // Two entries, each with a key of 36 bytes and a value of 96.
    let maps = idle["bpf_bytes_per_conn"].as_f64().unwrap();
    assert!((264.0..=512.0).contains(&maps), "{idle}");
    let descriptors = idle["fds_per_conn"].as_f64().unwrap();
    assert!(descriptors.abs() < 0.1, "{idle}");
}

#[test]
fn rates_with_and_without_scrapes_are_compared() {
    let results = Results::of(&[
        "--systems=forward,sni-router/userspace",
        "--loads=connect-32-scraped,rate-1000-scraped",
        "--seconds=0.2",
    ]);
    for load in ["connect-32-scraped", "rate-1000-scraped"] {
        let row = results.valid_row("sni-router", load);
        for key in [
            "scraped_share",
            "unscraped_conns_per_s",
            "conns_per_s",
            "unscraped_p99_us",
        ] {
            assert_positive(row, key);
        }
        // One at the begin of each of the four times at the least.
        assert!(row["scrapes"].as_f64() >= Some(4.0), "{row}");
    }
    let fixed = results.valid_row("sni-router", "rate-1000-scraped");
    // Those that were late at the begin may come on top.
    assert!(fixed["conns_per_s"].as_f64() < Some(1500.0), "{fixed}");
}

#[test]
fn every_kind_of_load_works_when_both_ends_speak_tls() {
    let results = Results::of(&[
        "--tls",
        "--systems=sni-router/userspace",
        "--loads=down-4,up-4,connect-32,reset-32,exchange-64k",
        "--seconds=0.2",
    ]);
    for (load, key) in [
        ("down-4", "gbps"),
        ("up-4", "gbps"),
        ("connect-32", "conns_per_s"),
        ("reset-32", "conns_per_s"),
        ("exchange-64k", "ops_per_s"),
    ] {
        let row = results.valid_row("sni-router", load);
        assert_eq!(row["params"]["tls"], true, "{row}");
        assert_positive(row, key);
    }
}

#[test]
fn another_congestion_control_is_used_or_left_out_when_a_load_wants_it() {
    let results = Results::of(&[
        "--systems=forward,sni-router/userspace",
        "--loads=down-1,down-4-bbr",
        "--seconds=0.2",
    ]);
    let left_out = results.json["machine"]["left_out"].to_string();
    if left_out.contains("down-4-bbr is left out") {
        let available = "/proc/sys/net/ipv4/tcp_available_congestion_control";
        let available = fs::read_to_string(available).unwrap();
        assert!(!available.contains("bbr"), "{left_out}, but {available}");
    } else {
        for system in ["forward", "sni-router"] {
            let row = results.valid_row(system, "down-4-bbr");
            assert_eq!(row["params"]["congestion"], "bbr", "{row}");
            assert_positive(row, "gbps");
        }
    }
    assert_positive(results.valid_row("forward", "down-1"), "gbps");
}

#[test]
fn nothing_is_left_when_it_is_interrupted() {
    for load in ["down-1", "down-4-bbr"] {
        let (_turn, before) = (turn(), settings());
        let scratch = Scratch::create(&unique_name());
        let loads = format!("--loads={load}");
        let args = ["--systems=sni-router/userspace", &loads, "--seconds=600"];
        let mut bench = start(scratch.path(), &args);
        let id = bench.0.id();
        let is_loaded = || processes_named("sni-router-bench", id) == 2;
        until("the generator and the endpoint run", LONG, is_loaded);
        bench.interrupt();
        let status = until_some("the benchmark's end", LONG, || bench.0.try_wait().unwrap());
        let log = fs::read_to_string(scratch.path().join("log")).unwrap();
        assert!(!status.success() && log.contains("interrupted"), "{log}");
        assert_nothing_is_left(id, &before);
    }
}

#[test]
fn nothing_is_left_when_it_is_interrupted_while_the_kernel_accounts() {
    let (_turn, before) = (turn(), settings());
    let scratch = Scratch::create(&unique_name());
    let args = [
        "--systems=sni-router/tc",
        "--loads=down-4,exchange-1k",
        "--seconds=0.2",
    ];
    let mut bench = start(scratch.path(), &args);
    let id = bench.0.id();
    let accounts = || {
        let is_on = fs::exists("/run/sni-router-bench.bpf-stats").unwrap();
        is_on && processes_named("sni-router-bench", id) == 2
    };
    until("the kernel accounts and the generator runs", LONG, accounts);
    bench.interrupt();
    let status = until_some("the benchmark's end", LONG, || bench.0.try_wait().unwrap());
    let log = fs::read_to_string(scratch.path().join("log")).unwrap();
    assert!(!status.success() && log.contains("interrupted"), "{log}");
    assert_nothing_is_left(id, &before);
}

/// What a benchmark has written.
struct Results {
    json: Value,
    log: String,
}

impl Results {
    /// Runs it, and checks that it leaves nothing behind.
    #[track_caller]
    fn of(args: &[&str]) -> Self {
        let (_turn, before) = (turn(), settings());
        let scratch = Scratch::create(&unique_name());
        let mut bench = start(scratch.path(), args);
        let id = bench.0.id();
        let status = until_some("the benchmark's end", LONG, || bench.0.try_wait().unwrap());
        let log = fs::read_to_string(scratch.path().join("log")).unwrap();
        assert!(status.success(), "{log}");
        assert_nothing_is_left(id, &before);
        let text = fs::read_to_string(scratch.path().join("results.json")).unwrap();
        let this = Self {
            json: serde_json::from_str(&text).unwrap(),
            log,
        };
        for row in this.rows() {
            let chart = format!("report/{}.svg", row["load"].as_str().unwrap());
            assert!(scratch.path().join(&chart).exists(), "{chart}");
        }
        this
    }

    fn rows(&self) -> &[Value] {
        self.json["rows"].as_array().unwrap()
    }

    #[track_caller]
    fn row(&self, system: &str, load: &str) -> &Value {
        let mut rows = self.rows().iter();
        let row = rows.find(|row| row["system"] == system && row["load"] == load);
        row.unwrap_or_else(|| panic!("no row {system} {load} in {}", self.json))
    }

    #[track_caller]
    fn valid_row(&self, system: &str, load: &str) -> &Value {
        let row = self.row(system, load);
        let ends = (&row["errors"], &row["valid"]);
        assert_eq!(ends, (&0.into(), &true.into()), "{row}");
        row
    }
}

#[track_caller]
fn assert_positive(row: &Value, key: &str) {
    assert!(row[key].as_f64() > Some(0.0), "{key} in {row}");
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
fn start(dir: &Path, args: &[&str]) -> Bench {
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
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("start xtask");
    Bench(child)
}

#[track_caller]
fn assert_nothing_is_left(id: u32, settings_before: &[String]) {
    for dir in ["/run/netns", "/run"] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(
                !name.starts_with(&format!("snirbench-{id}")),
                "{dir}/{name}"
            );
        }
    }
    assert_eq!(settings(), settings_before);
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

/// The settings of the machine that it changes, as they are while no benchmark runs.
fn settings() -> Vec<String> {
    let settings = [
        ("net/ipv4/tcp_congestion_control", "congestion"),
        ("kernel/bpf_stats_enabled", "bpf-stats"),
    ];
    let value = |(path, reminder)| {
        let before = fs::read_to_string(format!("/run/sni-router-bench.{reminder}"));
        let now = || fs::read_to_string(format!("/proc/sys/{path}")).unwrap();
        before.unwrap_or_else(|_| now()).trim().to_owned()
    };
    settings.map(value).into()
}

/// The tests look at the settings of the machine that it changes.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long anything may take on a machine that is busy with other things.
const LONG: Duration = Duration::from_secs(120);
