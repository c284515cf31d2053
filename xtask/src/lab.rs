//! The place of the demo and of the benchmarks: three network namespaces and a directory.
//!
//! ```text
//!   client                      router                        backends
//!   192.0.2.2/24 ──── veth ──── 192.0.2.1/24
//!   route to the VIP             198.51.100.1/24 ─── veth ─── 198.51.100.11/24, .12/24
//! ```
//!
//! No interface, route or address is ever in the machine's own namespace.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::TERM_SIGNALS;

use crate::command::output;

/// The address of the Listener in `examples/passthrough`.
pub const VIP: &str = "1.2.3.4";

/// The namespace of the clients.
pub const CLIENT: &str = "client";
/// The namespace of the router.
pub const ROUTER: &str = "router";
/// The namespace of the servers.
pub const BACKENDS: &str = "backends";

/// The router's interfaces: towards clients, towards endpoints.
pub const LINKS: [&str; 2] = ["clients", "backends"];

/// What a lab is for; labs of different kinds do not know of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `cargo xtask demo`.
    Demo,
    /// `cargo xtask bench`.
    Bench,
}

impl Kind {
    /// What the names of its labs start with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Demo => "snirdemo-",
            Self::Bench => "snirbench-",
        }
    }
}

/// The namespaces, the processes in them and the directory; removed on drop.
pub struct Lab {
    /// What the names of all of it start with.
    name: String,
    dir: PathBuf,
    children: Vec<Child>,
    stop: Arc<AtomicBool>,
    is_kept: bool,
}

impl Lab {
    /// Makes namespaces, links and directory; `stop` ends every wait.
    pub fn create(kind: Kind, stop: &Arc<AtomicBool>) -> Result<Self> {
        let name = format!("{}{}", kind.prefix(), std::process::id());
        let lab = Self {
            dir: Path::new("/run").join(&name),
            name,
            children: Vec::new(),
            stop: stop.clone(),
            is_kept: false,
        };
        // Only root may look inside: the servers' keys are in it.
        let mut builder = DirBuilder::new();
        builder
            .mode(0o700)
            .create(&lab.dir)
            .context("make a directory in /run")?;
        for role in [CLIENT, ROUTER, BACKENDS] {
            ip(&["netns", "add", &lab.namespace(role)])?;
            lab.configure(role, &["link set lo up"])?;
        }
        lab.connect()?;
        Ok(lab)
    }

    /// The name of a namespace.
    pub fn namespace(&self, role: &str) -> String {
        format!("{}-{role}", self.name)
    }

    /// The directory for files; only root may read it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that runs in a namespace.
    pub fn command(&self, role: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(role)])
            .arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Starts a program that runs until the lab is removed; gives its process id.
    pub fn spawn(&mut self, command: &mut Command) -> Result<u32> {
        // Ctrl-C at the terminal is for the demo, which then ends the others in order.
        let child = command.process_group(0).spawn();
        let child = child.with_context(|| crate::command::line(command))?;
        let id = child.id();
        self.children.push(child);
        Ok(id)
    }

    /// Waits until `done`, at most as long as a slow machine needs; fails when one of the lab's
    /// programs ends meanwhile, or the user wants to stop.
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            check_stop(&self.stop)?;
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    bail!(
                        "waiting until {what}, but process {} ended: {status}",
                        child.id()
                    );
                }
            }
            if Instant::now() > deadline {
                bail!("waited {} s in vain until {what}", PATIENCE.as_secs());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Fails once the user wants to stop.
    pub fn check_stop(&self) -> Result<()> {
        check_stop(&self.stop)
    }

    /// Ends one of the lab's programs with SIGTERM and waits for it.
    pub fn terminate(&mut self, id: u32) -> Result<()> {
        let at = self.children.iter().position(|child| child.id() == id);
        let mut child = self.children.remove(at.context("no such process")?);
        signal(id, Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("process {id} did not end on SIGTERM");
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Leaves everything as it is.
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    /// Removes everything, and checks that it is gone.
    pub fn remove(mut self) -> Result<()> {
        self.is_kept = true;
        let removed = remove(&self.name);
        for child in &mut self.children {
            child.wait()?;
        }
        removed
    }

    /// Lays the two cables.
    fn connect(&self) -> Result<()> {
        let names = [CLIENT, ROUTER, BACKENDS].map(|role| self.namespace(role));
        let [client, router, backends] = names.each_ref().map(String::as_str);
        for (near, near_end, far, far_end) in [
            (client, "uplink", router, LINKS[0]),
            (backends, "uplink", router, LINKS[1]),
        ] {
            ip(&[
                "link", "add", near_end, "netns", near, "type", "veth", "peer", "name", far_end,
                "netns", far,
            ])?;
        }
        self.configure(
            ROUTER,
            &[
                "addr add 192.0.2.1/24 dev clients",
                "addr add 198.51.100.1/24 dev backends",
                "link set clients up",
                "link set backends up",
            ],
        )?;
        self.configure(
            CLIENT,
            &[
                "addr add 192.0.2.2/24 dev uplink",
                "link set uplink up",
                "route add default via 192.0.2.1",
            ],
        )?;
        self.configure(
            BACKENDS,
            &[
                "addr add 198.51.100.11/24 dev uplink",
                "addr add 198.51.100.12/24 dev uplink",
                "link set uplink up",
            ],
        )
    }

    /// Runs lines of ip(8) in a namespace.
    pub fn configure(&self, role: &str, lines: &[&str]) -> Result<()> {
        let namespace = self.namespace(role);
        for line in lines {
            let mut args = vec!["-n", namespace.as_str()];
            args.extend(line.split(' '));
            ip(&args)?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = remove(&self.name) {
            eprintln!("cannot remove {}: {error:#}", self.name);
        }
    }
}

/// Removes every lab of a kind on this machine, also those in use.
pub fn remove_all(kind: Kind) -> Result<()> {
    let labs = entries().filter_map(|entry| lab_of(kind, &entry));
    let names: BTreeSet<_> = labs.collect();
    names.iter().try_for_each(|name| remove(name))
}

/// `snirdemo-12-client` → `snirdemo-12`.
fn lab_of(kind: Kind, name: &str) -> Option<String> {
    let id = name.strip_prefix(kind.prefix())?;
    let digits = id.split('-').next()?;
    let is_id = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_id.then(|| format!("{}{digits}", kind.prefix()))
}

/// Kills all processes of a lab, deletes its namespaces and its directory.
fn remove(name: &str) -> Result<()> {
    for role in [CLIENT, ROUTER, BACKENDS] {
        let namespace = format!("{name}-{role}");
        if !Path::new(NETNS).join(&namespace).exists() {
            continue;
        }
        // A namespace lives, nameless, as long as a process in it.
        let deadline = Instant::now() + PATIENCE;
        while let Some(pids) = pids(&namespace).filter(|pids| !pids.is_empty()) {
            pids.iter().for_each(|pid| signal(*pid, Signal::KILL));
            if Instant::now() > deadline {
                bail!("processes {pids:?} in {namespace} do not die");
            }
            thread::sleep(POLL);
        }
        ip(&["netns", "del", &namespace])?;
    }
    match fs::remove_dir_all(Path::new("/run").join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let left = left(name);
    if !left.is_empty() {
        bail!("these are left: {left:?}");
    }
    Ok(())
}

/// Namespaces and directories of the lab with this name.
fn left(name: &str) -> Vec<String> {
    let roles = [CLIENT, ROUTER, BACKENDS].map(|role| format!("{name}-{role}"));
    let is_its = |entry: &String| entry == name || roles.contains(entry);
    entries().filter(is_its).collect()
}

/// The names of everything that could be a namespace or a directory of a lab.
fn entries() -> impl Iterator<Item = String> {
    let dirs = [NETNS, "/run"].into_iter();
    let entries = dirs.flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Living processes in a namespace; a zombie is dead, and not ours to reap in `--down`.
fn pids(namespace: &str) -> Option<Vec<u32>> {
    let text = ip(&["netns", "pids", namespace]).ok()?;
    let pids = text.lines().filter_map(|pid| pid.trim().parse().ok());
    Some(pids.filter(|pid| !is_zombie(*pid)).collect())
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may have any character, also parentheses.
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// Set by Ctrl-C and its like. Everything that waits looks at it, so that what was made is
/// removed in order.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in TERM_SIGNALS {
        signal_hook::flag::register(*signal, flag.clone()).context("catch signals")?;
    }
    Ok(flag)
}

/// Fails once the user wants to stop.
pub fn check_stop(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs ip(8).
pub fn ip(args: &[&str]) -> Result<String> {
    output(Command::new("ip").args(args))
}

const NETNS: &str = "/run/netns";
/// The router's self-test is part of its start.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_is_known_by_its_kind_and_number_only() {
        let demo_of = |name| lab_of(Kind::Demo, name);
        assert_eq!(
            demo_of("snirdemo-12-client").as_deref(),
            Some("snirdemo-12")
        );
        assert_eq!(demo_of("snirdemo-12").as_deref(), Some("snirdemo-12"));
        for other in [
            "snirdemo-",
            "snirdemo-x",
            "snirdemo-12a-client",
            "snirbench-12-client",
            "snir-12-0-client",
            "12",
        ] {
            assert_eq!(demo_of(other), None, "{other}");
        }
    }

    #[test]
    fn zombie_is_whoever_is_gone() {
        assert!(!is_zombie(std::process::id()));
        // Process ids end at 4194304.
        assert!(is_zombie(4_194_305));
    }
}
