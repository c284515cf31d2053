//! The unit under systemd itself, as PID 1 of namespaces whose root is a volatile overlay of this
//! machine's: with its mounts, its directories and its ways to start, reload, restart and stop.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use sni_router_tests::daemon::binary;
use sni_router_tests::raw::{End, hello, read_to_end};
use sni_router_tests::rig::{HOST, Lab, Pair, Rig, alone};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until, until_some};

use super::sandbox::EXPOSURE;
use super::unit::path;

/// As docs/systemd.md says it, in that order. A connection that `tc` carries lives through all of it.
#[test]
fn unit_starts_reloads_hands_over_restarts_and_stops() {
    let _alone = alone();
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let open = || {
        let client = lab.connect(Family::V4);
        Pair::greet(client, &hello(HOST), &endpoint).answered()
    };
    let machine = Machine::boot(&lab);
    machine.install(&lab);

    machine.run("systemctl start sni-router@a");
    assert_eq!(machine.shows("a", "ActiveState"), "active");
    let told = machine.shows("a", "StatusText");
    assert!(told.starts_with("serving"), "{told}");
    let pair = open();
    let ask = "sni-router connections --admin unix:/run/sni-router@a/admin.sock";
    until("tc carries it", SOON, || machine.run(ask).contains(" tc "));
    assert!(machine.exposure() <= EXPOSURE);
    let status = machine.run("sni-router status --admin unix:/run/sni-router@a/admin.sock");
    assert!(status.contains("snir_tc_ether"), "{status}");

    Rig::site(&lab)
        .route("two.example.com", "one")
        .write_to(&lab.manifests());
    machine.put_manifests(&lab);
    machine.run("systemctl reload sni-router@a");
    until("the new route is served", SOON, || {
        machine.shows("a", "StatusText").contains("routes 2")
    });
    pair.exchange();

    machine.run("systemctl start sni-router@b");
    until("the first one has ended", SOON, || {
        machine.shows("a", "ActiveState") == "inactive"
    });
    assert_eq!(machine.shows("a", "Result"), "success");
    pair.exchange();
    open().exchange();

    machine.run("systemctl restart sni-router@b");
    pair.exchange();
    open().exchange();

    machine.run("systemctl kill --signal KILL sni-router@b");
    until("it is started again", SOON, || {
        machine.shows("b", "NRestarts") == "1" && machine.shows("b", "SubState") == "running"
    });
    pair.exchange();
    open().exchange();

    machine.run("systemctl stop sni-router@b");
    assert_eq!(machine.shows("b", "Result"), "success");
    pair.exchange();
    machine.run("sni-router detach --pin-dir /sys/fs/bpf/sni-router");
    assert_eq!(read_to_end(&pair.client, SOON), (Vec::new(), End::Reset));
}

/// A systemd in the lab's router namespace; gone on drop.
struct Machine {
    /// unshare(1), which takes it along.
    unshare: Child,
    /// PID 1 within.
    init: u32,
    cgroup: PathBuf,
}

impl Machine {
    /// Boots it, to the first target at which services can be started.
    fn boot(lab: &Lab) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").expect("/proc/mounts");
        let lines = mounts.lines().map(|line| line.split(' '));
        let mut unified = lines.filter_map(|mut words| {
            let at = words.nth(1)?;
            (words.next() == Some("cgroup2")).then_some(at)
        });
        let unified = unified.next().expect("the test needs a cgroup2");
        let name = lab.dir().file_name().expect("a name");
        let cgroup = Path::new(unified).join(name);
        fs::create_dir(&cgroup).expect("a cgroup");
        let mut command = Command::new("sh");
        command
            .args(["-c", BOOT, "sh"])
            .arg(&cgroup)
            .arg(lab.dir())
            .arg(binary())
            .arg(path().parent().expect("a directory"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let unshare = lab.net.router.spawn(&mut command).expect("unshare");
        let mut this = Self {
            unshare,
            init: 0,
            cgroup,
        };
        let children = format!("/proc/{0}/task/{0}/children", this.unshare.id());
        this.init = until_some("there is a PID 1", SOON, || {
            let children = fs::read_to_string(&children).ok()?;
            let child = children.split_whitespace().next()?.parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            (name.trim() == "systemd").then_some(child)
        });
        until("systemd is up", SOON, || {
            let output = this.output("systemctl is-system-running");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            ["running", "degraded"].contains(&said.trim())
        });
        this
    }

    /// As docs/systemd.md says.
    fn install(&self, lab: &Lab) {
        self.run(
            "set -e; cd /root/deploy; \
             install -m 0644 sysusers.d/sni-router.conf /etc/sysusers.d/; systemd-sysusers; \
             install -m 0644 sni-router.service /etc/systemd/system/sni-router@.service; \
             install -d -m 0750 -g sni-router /etc/sni-router /etc/sni-router/manifests; \
             install -m 0640 -g sni-router environment /etc/sni-router/; \
             systemctl daemon-reload",
        );
        self.put_manifests(lab);
    }

    fn put_manifests(&self, lab: &Lab) {
        let to = format!("/proc/{}/root/etc/sni-router/manifests", self.init);
        for entry in fs::read_dir(lab.manifests()).expect("manifests") {
            let path = entry.expect("a manifest").path();
            let text = fs::read(&path).expect("a manifest");
            let name = path.file_name().expect("a name").to_str().expect("a name");
            // Never seen half-written: its name begins with a dot until it is whole.
            let half = Path::new(&to).join(format!(".{name}.tmp"));
            fs::write(&half, text).expect("write it");
            fs::rename(&half, Path::new(&to).join(name)).expect("put it in place");
        }
        self.run("chgrp -R sni-router /etc/sni-router/manifests");
    }

    /// A property of an instance, as systemd shows it.
    fn shows(&self, instance: &str, property: &str) -> String {
        let command = format!("systemctl show --value -p {property} sni-router@{instance}");
        self.run(&command).trim().to_owned()
    }

    /// What systemd says of the first instance as it runs, from 0 to 10.
    fn exposure(&self) -> f64 {
        let said = self.run("systemd-analyze security --no-pager sni-router@a");
        let overall = said.lines().find(|line| line.contains("exposure level"));
        let level = overall.and_then(|line| line.split("service: ").nth(1)?.split(' ').next());
        level.expect("a level").parse().expect("a number")
    }

    /// Has a shell within run this, to a good end, and gives what it has said.
    #[track_caller]
    fn run(&self, script: &str) -> String {
        let output = self.output(script);
        if !output.status.success() {
            let log = self.output("journalctl --no-pager --lines 50; systemctl status --no-pager --all 'sni-router@*'");
            let said = String::from_utf8_lossy(&output.stderr);
            panic!("{script}: {said}\n{}", String::from_utf8_lossy(&log.stdout));
        }
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn output(&self, script: &str) -> Output {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.init))
            .args(["--all", "--root", "--wd=/", "env", "-i"])
            .args(["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(["sh", "-c", script]);
        command.output().expect("the test needs `nsenter`")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its PID 1 dies with it, and with that all that is in its namespace.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let is_gone = || {
            remove_cgroups(&self.cgroup);
            !self.cgroup.exists()
        };
        if std::thread::panicking() {
            is_gone();
        } else {
            until("its cgroups are gone", SOON, is_gone);
        }
    }
}

/// As far as nobody is in them.
fn remove_cgroups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

/// Boots systemd in cgroup `$1`, on an overlay in `$2`, with the router `$3` and `$4`, which is installed.
/// Devices are those that
/// services use; the BPF file system is one that systemd mounts itself outside of containers.
const BOOT: &str = r#"
    echo $$ > "$1/cgroup.procs"
    exec unshare --mount --uts --ipc --cgroup --pid --fork --kill-child sh -ec '
        volatile="$1/volatile" root="$1/volatile/root"
        mkdir "$volatile"
        mount --make-rprivate /
        mount -t tmpfs volatile "$volatile"
        mkdir "$volatile/upper" "$volatile/work" "$root"
        mount -t overlay -o "lowerdir=/,upperdir=$volatile/upper,workdir=$volatile/work" overlay "$root"
        mkdir -p "$root/usr/local/bin" "$root/etc/sysusers.d" "$root/root"
        cp "$2" "$root/usr/local/bin/sni-router"
        cp -r "$3" "$root/root/deploy"
        mount -t proc proc "$root/proc"
        mount -t sysfs sysfs "$root/sys"
        mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
        mount -t bpf bpf "$root/sys/fs/bpf"
        mount -t tmpfs -o mode=755 run "$root/run"
        mount -t tmpfs -o mode=1777 tmp "$root/tmp"
        mount -t tmpfs -o mode=755 dev "$root/dev"
        for device in null zero full random urandom tty; do
            touch "$root/dev/$device"
            mount --bind "/dev/$device" "$root/dev/$device"
        done
        mkdir "$root/dev/pts" "$root/dev/shm"
        mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
        ln -s pts/ptmx "$root/dev/ptmx"
        exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
            chroot "$root" /lib/systemd/systemd --system --unit=basic.target
    ' sh "$2" "$3" "$4"
"#;
