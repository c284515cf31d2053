//! The unit that is installed: as systemd judges it, and the router in the sandbox it describes.

use std::fs;
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;
use rustix::thread::CapabilitySet;
use serde_json::json;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::daemon::{Datapath, Router, binary};
use sni_router_tests::raw::{End, read_to_end};
use sni_router_tests::rig::{Lab, Rig};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use super::filter::Filter;
use super::manager::Manager;
use super::threads::threads;
use super::unit::{Unit, analyze, path};
use super::user::{USER, become_user};

/// A start, on a busy machine.
const STARTED: Duration = Duration::from_secs(60);

/// What systemd-analyze says of the unit, from 0 to 10. The rest is what a router is for: the network,
/// BPF, and CAP_NET_ADMIN.
pub(super) const EXPOSURE: f64 = 2.0;

#[test]
fn unit_means_what_it_says_to_systemd_and_exposes_little() {
    let lab = Lab::new(0);
    let text = fs::read_to_string(path()).expect("a unit");
    // It looks whether the programs are there.
    let text = text.replace(
        "/usr/local/bin/sni-router",
        binary().to_str().expect("a path"),
    );
    for name in ["sni-router.service", "sni-router@.service"] {
        let copy = lab.dir().join(name);
        fs::write(&copy, &text).expect("write a unit");
        let copy = copy.to_str().expect("a path of the lab");
        let mut verify = Command::new("systemd-analyze");
        let output = verify.args(["verify", "--man=no", copy]).output();
        let output = output.expect("the tests need `systemd-analyze`");
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<_> = said
            .lines()
            .filter(|line| line.contains("sni-router"))
            .collect();
        assert_eq!(said, Vec::<&str>::new(), "{name}");
        assert!(output.status.success(), "{name}");
    }
    let copy = lab.dir().join("sni-router.service");
    let copy = copy.to_str().expect("a path of the lab");
    let said = analyze(&["security", "--offline=true", copy]);
    let overall = said.lines().find(|line| line.contains("exposure level"));
    let level = overall.and_then(|line| line.split("service: ").nth(1)?.split(' ').next());
    let level: f64 = level.expect("a level").parse().expect("a number");
    assert!(level <= EXPOSURE, "{said}");
}

/// A system call that the filter does not have ends the process, and with it the test.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn service_carries_reloads_and_drains_in_its_sandbox(#[case] datapath: Datapath) {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    let site = Rig::site(&lab).vip(Family::V4.vip());
    site.write_to(&lab.manifests());
    let service = Service::install(&lab);
    let (router, manager) = service.start(&lab, "sni-router", datapath);
    manager.expect("READY=1", STARTED);
    let mut rig = Rig::of(router, endpoint, lab, datapath);
    assert_is_sandboxed(rig.router.pid());

    carry_one(&rig);

    let running = rig.open();
    Rig::site(&rig.lab)
        .route("two.example.com", "one")
        .write_to(&rig.lab.manifests());
    rig.router.signal(Signal::HUP);
    manager.expect("RELOADING=1", SOON);
    manager.expect("READY=1", SOON);
    carry_one(&rig);
    running.exchange();

    rig.router.signal(Signal::TERM);
    manager.expect("STOPPING=1", SOON);
    running.exchange();
    running.client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&running.server, SOON), (Vec::new(), End::Fin));
    drop(running);
    let status = rig.router.wait_exit(SOON);
    assert!(status.success(), "{status}");
}

/// How it is updated: two instances of the unit, each with a manager's ear of its own.
#[test]
fn next_instance_takes_over_in_the_same_sandbox_and_the_first_one_ends_in_good_order() {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let service = Service::install(&lab);
    let (router, first) = service.start(&lab, "sni-router@a", Datapath::Tc);
    first.expect("READY=1", STARTED);
    let mut rig = Rig::of(router, endpoint, lab, Datapath::Tc);
    let running = rig.open();

    let (router, second) = service.start(&rig.lab, "sni-router@b", Datapath::Tc);
    second.expect("READY=1", STARTED);
    first.expect("STOPPING=1", SOON);
    let status = rig.router.wait_exit(SOON);
    assert!(status.success(), "{status}");
    rig.router = router;
    assert_is_sandboxed(rig.router.pid());
    running.exchange();
    rig.open().exchange();
    until("only the first one is left", SOON, || {
        rig.router.status()["connections"] == 1
    });
    running.exchange();
}

/// Its words arrive only if it got by with what the filter has, and so did the router that starts it.
#[test]
fn credential_plugin_runs_in_the_same_sandbox() {
    let lab = Lab::new(0);
    let script = "sleep 0; echo \"as $(id -u), no credentials today\" >&2; exit 1";
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "a", "user": {"exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh", "args": ["-c", script], "interactiveMode": "Never",
        }}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    });
    let path = lab.dir().join("kubeconfig");
    fs::write(&path, kubeconfig.to_string()).expect("write a kubeconfig");
    let path = path.to_str().expect("a path of the lab");
    let service = Service::install(&lab);
    let source = ["--kubernetes", "--cache-dir=none", "--kubeconfig", path];
    let (router, _manager) = service.start_on(&lab, "sni-router", Datapath::Userspace, &source);
    let words = format!("as {USER}, no credentials today");
    router.log().wait_for_line(&words, STARTED);
}

/// A connection from its beginning to its record.
#[track_caller]
fn carry_one(rig: &Rig) {
    let pair = rig.open();
    pair.exchange();
    let address = pair.address;
    drop(pair);
    rig.access(address);
}

/// The unit's user, its filter, and nobody may look into its memory.
#[track_caller]
fn assert_is_sandboxed(pid: u32) {
    let kept = CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE;
    let kept = kept.bits();
    for thread in threads(pid) {
        let (user, filter) = (thread.value("Uid"), thread.value("Seccomp"));
        assert!(
            user.starts_with(&USER.to_string()),
            "{}: {user}",
            thread.name
        );
        assert_eq!(filter, "2", "{}", thread.name);
        let (permitted, ambient) = (thread.set("CapPrm"), thread.set("CapAmb"));
        assert_eq!((permitted & !kept, ambient), (0, 0), "{}", thread.name);
    }
    // Of a process that can be dumped, this is the user's own.
    let memory = fs::metadata(format!("/proc/{pid}/mem")).expect("it runs");
    assert_eq!(memory.uid(), 0, "its memory can be read");
}

/// The unit, installed in a lab.
struct Service {
    unit: Unit,
    filter: Filter,
    binary: PathBuf,
    bpffs: Bpffs,
}

impl Service {
    /// Puts the binary where the unit's user can start it.
    fn install(lab: &Lab) -> Self {
        let unit = Unit::read();
        let installed = lab.dir().join("sni-router");
        if fs::hard_link(binary(), &installed).is_err() {
            fs::copy(binary(), &installed).expect("copy the binary");
        }
        Self {
            filter: Filter::of(&unit),
            unit,
            binary: installed,
            bpffs: Bpffs::mount(),
        }
    }

    /// Does what systemd does at the start of an instance.
    fn start(&self, lab: &Lab, name: &str, datapath: Datapath) -> (Router, Manager) {
        self.start_on(lab, name, datapath, &[])
    }

    /// The same with another source than the unit's, where one is given.
    fn start_on(
        &self,
        lab: &Lab,
        name: &str,
        datapath: Datapath,
        source: &[&str],
    ) -> (Router, Manager) {
        let runtime = lab.dir().join("run").join(name);
        fs::create_dir_all(&runtime).expect("RuntimeDirectory=");
        chown(&runtime, Some(USER), Some(USER)).expect("chown");
        let pins = Path::new(self.bpffs.dir()).join("sni-router");
        self.prepare(&pins);
        // BindPaths=, seen from the service.
        symlink(&pins, runtime.join("pins")).expect("symlink");

        let mut words = self.command_line(lab, name);
        if !source.is_empty() {
            let place = words
                .iter()
                .position(|word| word.starts_with("--manifests="));
            let place = place.expect("the unit's source");
            words.splice(place..=place, source.iter().map(|&word| word.to_owned()));
        }
        let mut command = Command::new(&self.binary);
        command
            .args(&words[1..])
            .args(["--log-format=json", "--datapath", datapath.name()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let manager = Manager::listen(lab.dir(), name);
        command.env("NOTIFY_SOCKET", manager.path());
        let watchdog: u64 = self.unit.value("WatchdogSec").parse().expect("seconds");
        command.env("WATCHDOG_USEC", (watchdog * 1_000_000).to_string());
        let ambient = self.unit.capabilities("AmbientCapabilities");
        let bounding = self.unit.capabilities("CapabilityBoundingSet");
        let child = lab.net.router.run(|| {
            become_user(ambient, bounding);
            self.filter.apply();
            command.spawn()
        });
        let admin = format!("unix:{}", runtime.join("admin.sock").display());
        (
            Router::of(child.expect("start sni-router"), &admin),
            manager,
        )
    }

    /// `ExecStartPre=`, for the lab's user and BPF file system.
    fn prepare(&self, pins: &Path) {
        let line = self.unit.value("ExecStartPre").trim_start_matches('+');
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a program"));
        for word in words {
            match word {
                "sni-router" => command.arg(USER.to_string()),
                "/sys/fs/bpf/sni-router" => command.arg(pins),
                other => command.arg(other),
            };
        }
        let status = command.status().expect("ExecStartPre=");
        assert!(status.success(), "{command:?}: {status}");
    }

    /// `ExecStart=`, with the unit's own arguments and the lab's directories.
    fn command_line(&self, lab: &Lab, name: &str) -> Vec<String> {
        let variable = self.unit.value("Environment").trim_matches('"');
        let args = variable
            .strip_prefix("SNI_ROUTER_ARGS=")
            .expect("its arguments");
        let line = self
            .unit
            .value("ExecStart")
            .replace("$SNI_ROUTER_ARGS", args);
        let (run, manifests) = (lab.dir().join("run"), lab.manifests());
        let line = line
            .replace("%N", name)
            .replace("/run/", &format!("{}/", run.display()))
            .replace(
                "/etc/sni-router/manifests",
                &manifests.display().to_string(),
            );
        line.split_whitespace().map(str::to_owned).collect()
    }
}
