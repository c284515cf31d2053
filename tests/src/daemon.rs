//! A real `sni-router` process.

use std::env;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::access::Log;
use crate::admin;
use crate::netns::Namespace;
use crate::wait::{SOON, until, until_some};

/// How long a start may take, the self-test of the datapath included, on a machine that is busy
/// with other tests.
const READY: Duration = Duration::from_secs(60);

/// What moves the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// splice(2) and copying.
    Userspace,
    /// The `sk_skb` program.
    Sockmap,
    /// The tc program.
    Tc,
}

impl Datapath {
    /// As flags and logs name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Sockmap => "sockmap",
            Self::Tc => "tc",
        }
    }
}

/// How a router is started.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The manifest directory; `None` where the flags name another source.
    pub manifests: Option<&'a Path>,
    /// Where its admin API listens, as the flag takes it: `unix:PATH` or `IP:PORT`.
    pub admin: &'a str,
    /// More flags.
    pub args: &'a [&'a str],
    /// Capabilities it must do without, as setpriv(1) names them.
    pub without: &'a [&'a str],
}

impl Launch<'_> {
    /// What starts it, for [`Router::of`].
    pub fn command(&self) -> Command {
        let mut command = if self.without.is_empty() {
            Command::new(binary())
        } else {
            let dropped: Vec<_> = self.without.iter().map(|name| format!("-{name}")).collect();
            let mut command = Command::new("setpriv");
            command.arg("--bounding-set").arg(dropped.join(","));
            command.arg(binary());
            command
        };
        command
            .arg("run")
            .args(self.manifests.map(|_| "--manifests"))
            .args(self.manifests)
            .arg("--admin")
            .arg(self.admin)
            .args(["--log-format", "json"])
            .args(self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

/// A running router; killed on drop.
#[derive(Debug)]
pub struct Router {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    /// The path of the admin API's socket, where it is one.
    admin: PathBuf,
}

impl Router {
    /// Starts a router and waits until it is ready. A router that gives up panics with its last
    /// words.
    #[track_caller]
    pub fn start(ns: &Namespace, launch: &Launch<'_>) -> Self {
        let router = Self::launch(ns, launch);
        router.wait_ready();
        router
    }

    /// Starts a router without waiting for it.
    #[track_caller]
    pub fn launch(ns: &Namespace, launch: &Launch<'_>) -> Self {
        let mut command = launch.command();
        let child = ns.spawn(&mut command).expect("start sni-router");
        Self::of(child, launch.admin)
    }

    /// One that has been started otherwise, with its standard error piped.
    #[track_caller]
    pub fn of(mut child: Child, admin: &str) -> Self {
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Log::default());
        let reader = {
            let log = log.clone();
            thread::spawn(move || log.fill(BufReader::new(stderr)))
        };
        Self {
            child,
            log,
            reader: Some(reader),
            admin: admin.trim_start_matches("unix:").into(),
        }
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let size = self.status_line("VmRSS");
        let kilobytes = size.strip_suffix(" kB").and_then(|n| n.parse::<u64>().ok());
        kilobytes.expect("VmRSS") * 1024
    }

    /// What the kernel says of it by this name (proc_pid_status(5)).
    #[track_caller]
    pub fn status_line(&self, name: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the router runs");
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find_map(|(key, value)| (key == name).then(|| value.trim().to_owned()));
        found.unwrap_or_else(|| panic!("no {name}"))
    }

    /// How many file descriptors it has open.
    pub fn descriptors(&self) -> usize {
        let directory = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        directory.expect("the router runs").count()
    }

    /// Gets a path of the admin API.
    #[track_caller]
    pub fn get(&self, path: &str) -> admin::Response {
        admin::get(&self.admin, path).unwrap_or_else(|| panic!("no answer to {path}"))
    }

    /// `/api/v1/status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let body = self.get("/api/v1/status").body;
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("status: {e}: {body}"))
    }

    /// The number of the snapshot that is applied.
    #[track_caller]
    pub fn generation(&self) -> u64 {
        let status = self.status();
        let generation = status["generation"].as_u64();
        generation.unwrap_or_else(|| panic!("no generation in {status}"))
    }

    /// The sum of a metric's series with these labels.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        admin::metric(&self.get("/metrics").body, name, labels)
    }

    /// Waits until a newer snapshot than this one is applied.
    #[track_caller]
    pub fn wait_for_generation_after(&self, old: u64) {
        until("a new generation", SOON, || self.generation() > old);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("signal the router");
    }

    /// Whether the process has ended, also before it is waited for.
    pub fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        stat.is_ok_and(|stat| stat.contains(") Z "))
    }

    /// Waits for the process to end by itself.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.child;
        until_some("the router's exit", limit, || {
            child.try_wait().expect("wait for the router")
        })
    }

    /// SIGTERM, then its exit; panics unless it exits with 0.
    #[track_caller]
    pub fn terminate(&mut self, limit: Duration) {
        self.signal(Signal::TERM);
        let status = self.wait_exit(limit);
        assert!(status.success(), "after SIGTERM: {status}");
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it is ready.
    #[track_caller]
    pub fn wait_ready(&self) {
        until("the router is ready", READY, || {
            let gave_up = self.reader.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!gave_up, "sni-router gave up: {}", self.log.text());
            admin::get(&self.admin, "/readyz").is_some_and(|response| response.status == 200)
        });
    }
}

impl Router {
    /// What it is doing, for whoever wonders why it does not do what it should.
    fn condition(&mut self) -> String {
        if let Ok(Some(status)) = self.child.try_wait() {
            return format!("it had ended: {status}\n");
        }
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
        let tasks = tasks.into_iter().flatten().flatten();
        let told = tasks.map(|task| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let (stat, stack) = (read("stat"), read("stack"));
            format!("{}\n{stack}", stat.trim())
        });
        told.collect()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- sni-router at that time ---\n{}", self.condition());
        }
        self.kill();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if thread::panicking() {
            eprintln!("--- log of sni-router ---\n{}", self.log.text());
        }
    }
}

/// The router's binary: `$SNI_ROUTER_BIN`, else the one that cargo put beside the tests.
#[track_caller]
pub fn binary() -> PathBuf {
    env::var_os("SNI_ROUTER_BIN").map_or_else(|| built("sni-router"), PathBuf::from)
}

/// The binary of this name that cargo put beside the tests.
#[track_caller]
pub fn built(name: &str) -> PathBuf {
    // target/<profile>/deps/<test>-<hash>
    let test = env::current_exe().expect("the test's own path");
    let profile = test.parent().and_then(Path::parent);
    let path = profile.expect("target/<profile>").join(name);
    assert!(
        path.exists(),
        "no {}: run `cargo xtask test`, or `cargo build -p {name}`",
        path.display()
    );
    path
}
