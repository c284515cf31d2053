//! kube-apiserver.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kube::Client;

use super::assets::program;
use super::etcd::Etcd;
use super::pki::Pki;
use super::place::Place;
use super::process::Process;

/// An API server that runs, or was killed; killed on drop.
#[derive(Debug)]
pub struct ApiServer {
    process: Process,
    port: u16,
    log: PathBuf,
}

impl ApiServer {
    /// Starts it, without waiting for it.
    #[track_caller]
    pub fn start(place: &Place, pki: &Pki, etcd: &Etcd, dir: &Path) -> Self {
        let (port, log) = (place.free_port(), dir.join("kube-apiserver.log"));
        Self {
            process: Process::start(place, command(port, pki, etcd, &[]), &log),
            port,
            log,
        }
    }

    /// Starts it again with more flags, after [`Self::kill`].
    #[track_caller]
    pub fn launch(&mut self, place: &Place, pki: &Pki, etcd: &Etcd, flags: &[&str]) {
        let command = command(self.port, pki, etcd, flags);
        self.process = Process::start(place, command, &self.log);
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until it is ready; panics with its last words when it gives up.
    #[track_caller]
    pub fn wait_ready(&mut self, place: &Place, client: &Client) {
        let deadline = Instant::now() + READY;
        let ready = || {
            let client = client.clone();
            let request = http::Request::get("/readyz").body(Vec::new());
            let request = request.expect("a request");
            place.run(async move { client.request_text(request).await.is_ok() })
        };
        while !ready() {
            let gave_up = self.process.has_ended() || Instant::now() > deadline;
            assert!(!gave_up, "kube-apiserver is not ready:\n{}", self.log());
            std::thread::sleep(PERIOD);
        }
    }
}

fn command(port: u16, pki: &Pki, etcd: &Etcd, flags: &[&str]) -> Command {
    let mut command = Command::new(program("kube-apiserver"));
    command.arg(format!("--etcd-servers={}", etcd.url()));
    command.arg(format!("--secure-port={port}"));
    command.args(pki.flags());
    command.args(FLAGS).args(flags);
    command
}

/// Everything else is as a cluster has it by default.
const FLAGS: [&str; 8] = [
    "--bind-address=127.0.0.1",
    // Not the machine's own: nobody is to find this server by the Service `kubernetes`.
    "--advertise-address=192.0.2.1",
    "--endpoint-reconciler-type=none",
    "--authorization-mode=RBAC",
    "--service-account-issuer=https://kubernetes.default.svc",
    "--service-cluster-ip-range=10.96.0.0/12",
    // As kubeadm has it.
    "--allow-privileged=true",
    // Tests compact by themselves, when it matters.
    "--etcd-compaction-interval=0",
];

/// Some seconds on an idle machine of two cores.
const READY: Duration = Duration::from_secs(120);
const PERIOD: Duration = Duration::from_millis(50);
