//! Where a system is measured: a fresh lab, the same for every system, with the endpoint running.
//!
//! Fresh each time, because a namespace remembers: sockets in TIME_WAIT, metrics of routes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, ensure};

use crate::command::output;
use crate::lab::{BACKENDS, CLIENT, Kind, Lab, ROUTER, VIP};

/// The endpoints: hosts of even and of odd numbers.
pub const ENDPOINTS: [&str; 2] = ["198.51.100.11:8443", "198.51.100.12:8443"];

/// A lab with an endpoint in it.
pub struct Place {
    /// Its namespaces.
    pub lab: Lab,
    /// The process of the endpoint that clients talk to.
    pub endpoint: u32,
    /// What it takes to speak TLS, where that is spoken.
    pub tls: Option<PathBuf>,
    generator: PathBuf,
}

impl Place {
    /// Builds it and starts the endpoint. Its namespaces must have this congestion
    /// control, which they take from the first one.
    pub fn build(
        generator: &Path,
        congestion: &str,
        is_tls: bool,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let lab = Lab::create(Kind::Bench, stop)?;
        lab.configure(BACKENDS, &["route add 192.0.2.0/24 via 198.51.100.1"])?;
        // Everyone can bind it, and nobody needs to claim it.
        lab.configure(ROUTER, &[&format!("addr add {VIP}/32 dev lo")])?;
        for role in [CLIENT, ROUTER, BACKENDS] {
            for (name, value) in SYSCTLS {
                set(&lab, role, name, value)?;
            }
            let used = output(lab.command(role, "cat").arg(path_of(CONGESTION)))?;
            ensure!(
                used.trim() == congestion,
                "{role} uses {} as congestion control, not {congestion}",
                used.trim()
            );
        }
        let tls = is_tls.then(|| lab.dir().to_owned());
        if let Some(dir) = &tls {
            output(Command::new(generator).arg("certificate").arg(dir))?;
        }
        let mut this = Self {
            lab,
            endpoint: 0,
            tls,
            generator: generator.to_owned(),
        };
        this.serve(BACKENDS, &ENDPOINTS)?;
        Ok(this)
    }

    /// Lets the router's kernel forward packets, for clients that talk to endpoints directly.
    pub fn forward(&self) -> Result<()> {
        set(&self.lab, ROUTER, "net.ipv4.ip_forward", "1")
    }

    /// Puts an endpoint in the router's place, so that there is one link to it and nothing in between.
    pub fn serve_directly(&mut self) -> Result<()> {
        self.serve(ROUTER, &[&format!("{VIP}:443")])
    }

    /// Starts an endpoint, on the last CPU.
    fn serve(&mut self, role: &str, addresses: &[&str]) -> Result<()> {
        let mut command = self.lab.command(role, &self.generator);
        command.args(["--cpu", &last_cpu().to_string(), "serve"]);
        for address in addresses {
            command.args(["--listen", address]);
        }
        if let Some(dir) = &self.tls {
            command.arg("--tls").arg(dir);
        }
        self.endpoint = self.lab.spawn(command.stdout(Stdio::null()))?;
        let process = Path::new("/proc").join(self.endpoint.to_string());
        let listen = || listeners(&process) >= addresses.len();
        self.lab.wait_until("the endpoint listens", listen)
    }
}

/// The CPU of the client is the first, that of the endpoint the last.
fn last_cpu() -> usize {
    std::thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1)
}

fn set(lab: &Lab, role: &str, name: &str, value: &str) -> Result<()> {
    let script = format!("echo '{value}' > {}", path_of(name));
    let mut command = lab.command(role, "sh");
    output(command.args(["-c", &script]))
        .map(drop)
        .context("a setting of the kernel")
}

fn path_of(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

/// How many TCP sockets listen in the namespace of a process.
fn listeners(process: &Path) -> usize {
    let table = fs::read_to_string(process.join("net/tcp")).unwrap_or_default();
    let states = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    // LISTEN (include/net/tcp_states.h).
    states.filter(|state| *state == "0A").count()
}

/// The congestion control; what a new namespace has is copied from the first one.
pub const CONGESTION: &str = "net.ipv4.tcp_congestion_control";

/// The kernel's defaults, whatever the machine has, but for ports: thousands of connections a
/// second between two addresses need all of them, and again after a second.
const SYSCTLS: [(&str, &str); 6] = [
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.tcp_rmem", "4096 131072 6291456"),
    ("net.ipv4.tcp_wmem", "4096 16384 4194304"),
    ("net.ipv4.ip_local_port_range", "1024 65535"),
    ("net.ipv4.tcp_tw_reuse", "1"),
    ("net.core.somaxconn", "4096"),
];
