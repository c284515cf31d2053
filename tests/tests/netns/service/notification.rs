//! sd_notify(3): what the supervisor is told, and when.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use sni_router_tests::admin;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::daemon::{Datapath, Launch, Router};
use sni_router_tests::raw::{End, read_to_end};
use sni_router_tests::rig::{Lab, Pair, Rig};
use sni_router_tests::wait::{SOON, until};

use super::manager::Manager;

/// A start, on a busy machine.
const STARTED: Duration = Duration::from_secs(60);

#[test]
fn ready_is_told_when_connections_are_accepted() {
    let (rig, manager) = start(&["--datapath", "tc", "--pin-dir", "none"], None);
    let message = manager.expect("READY=1", STARTED);
    assert_eq!(rig.router.get("/readyz").status, 200);
    rig.open().exchange();
    let status = message.value("STATUS").expect("a status");
    let expected = "serving (generation 1, listeners 1, routes 1, errors 0, warnings 0)";
    assert_eq!(status, expected);
}

#[test]
fn ready_is_not_told_while_there_is_nothing_to_serve() {
    let lab = Lab::new(0);
    let kubeconfig = lab.dir().join("kubeconfig");
    // Nobody listens there.
    let text = "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n\
                users: [{name: u, user: {token: t}}]\n\
                contexts: [{name: x, context: {cluster: c, user: u}}]\n\
                current-context: x\n";
    fs::write(&kubeconfig, text).expect("write a kubeconfig");
    let kubeconfig = kubeconfig.display().to_string();
    let args = [
        "--kubernetes",
        "--kubeconfig",
        &kubeconfig,
        "--cache-dir=none",
        "--pin-dir=none",
    ];
    let launch = Launch {
        manifests: None,
        admin: &lab.admin(),
        args: &args,
        without: &[],
    };
    let (mut router, manager) = launch_in(&lab, &launch, None);
    let socket = lab.dir().join("admin.sock");
    until("it says that it is not ready", STARTED, || {
        admin::get(&socket, "/readyz").is_some_and(|answer| answer.status == 503)
    });
    router.signal(Signal::HUP);
    router.terminate(SOON);
    manager.expect("STOPPING=1", SOON);
}

/// systemd takes a reload for done at the READY that follows: then what was on the disk before it must be in
/// force.
#[test]
fn reload_is_told_to_be_over_when_what_was_read_is_in_force() {
    let (rig, manager) = start(&["--datapath", "userspace"], None);
    manager.expect("READY=1", STARTED);
    let mut before = 0;
    for _ in 0..3 {
        rig.router.signal(Signal::HUP);
        let reloading = manager.expect("RELOADING=1", SOON);
        let time = reloading.value("MONOTONIC_USEC").expect("a time");
        let time: u64 = time.parse().expect("microseconds");
        assert!(time > before, "{time} after {before}");
        before = time;
        manager.expect("READY=1", SOON);
    }
    assert_eq!(rig.router.generation(), 1, "nothing had changed");

    Rig::site(&rig.lab)
        .route("two.example.com", "one")
        .write_to(&rig.lab.manifests());
    rig.router.signal(Signal::HUP);
    manager.expect("RELOADING=1", SOON);
    manager.expect("READY=1", SOON);
    assert!(rig.router.generation() > 1, "it is in force");
    rig.open().exchange();
}

/// What cannot be read leaves everything as it is, and nobody waits for it for ever.
#[test]
fn reload_that_fails_is_told_to_be_over() {
    let (rig, manager) = start(&["--datapath", "userspace"], None);
    manager.expect("READY=1", STARTED);
    fs::rename(rig.lab.manifests(), rig.lab.dir().join("away")).expect("rename");
    rig.router.signal(Signal::HUP);
    manager.expect("RELOADING=1", SOON);
    manager.expect("READY=1", SOON);
    rig.open().exchange();
}

#[test]
fn stopping_is_told_when_the_drain_begins_and_how_long_it_may_take() {
    let args = ["--datapath", "userspace", "--drain-timeout", "20s"];
    let (mut rig, manager) = start(&args, None);
    manager.expect("READY=1", STARTED);
    let pair = rig.open();
    rig.router.signal(Signal::TERM);
    let message = manager.expect("STOPPING=1", SOON);
    let most = message.value("EXTEND_TIMEOUT_USEC").expect("a time");
    let most = Duration::from_micros(most.parse().expect("microseconds"));
    assert!(most > Duration::from_secs(40), "{most:?}");
    assert_eq!(message.value("STATUS"), Some("draining (connections 1)"));
    pair.exchange();
    let Pair { client, server, .. } = pair;
    drop(server);
    assert_eq!(read_to_end(&client, SOON), (Vec::new(), End::Fin));
    drop(client);
    let status = rig.router.wait_exit(SOON);
    assert!(status.success(), "{status}");
}

#[test]
fn watchdog_is_told_all_the_time_and_not_when_the_process_stands_still() {
    let limit = Duration::from_millis(600);
    let (rig, manager) = start(&["--datapath", "userspace"], Some(limit));
    manager.expect("READY=1", STARTED);
    for _ in 0..5 {
        manager.expect("WATCHDOG=1", SOON);
    }
    rig.router.signal(Signal::STOP);
    until("nothing more is heard", SOON, || {
        manager.next(limit).is_none()
    });
    rig.router.signal(Signal::CONT);
    manager.expect("WATCHDOG=1", SOON);
    rig.open().exchange();
}

/// A manager that has gone is no reason to end.
#[test]
fn router_goes_on_without_its_manager() {
    let bpffs = Bpffs::mount();
    let (mut rig, manager) = start(&["--datapath", "tc", "--pin-dir", bpffs.dir()], None);
    manager.expect("READY=1", STARTED);
    fs::remove_file(manager.path()).expect("remove the socket");
    drop(manager);
    rig.router.signal(Signal::HUP);
    rig.open().exchange();
    rig.router.terminate(SOON);
}

/// A rig whose router tells a manager, and may not be ready yet.
fn start(args: &[&str], watchdog: Option<Duration>) -> (Rig, Manager) {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let args = [&["--claim-vips"], args].concat();
    let launch = Launch {
        manifests: Some(&lab.manifests()),
        admin: &lab.admin(),
        args: &args,
        without: &[],
    };
    let (router, manager) = launch_in(&lab, &launch, watchdog);
    let datapath = match args.contains(&"userspace") {
        true => Datapath::Userspace,
        false => Datapath::Tc,
    };
    (Rig::of(router, endpoint, lab, datapath), manager)
}

fn launch_in(lab: &Lab, launch: &Launch<'_>, watchdog: Option<Duration>) -> (Router, Manager) {
    let manager = Manager::listen(lab.dir(), "router");
    let mut command: Command = launch.command();
    command.env("NOTIFY_SOCKET", manager.path());
    if let Some(limit) = watchdog {
        command.env("WATCHDOG_USEC", limit.as_micros().to_string());
    }
    let child = lab
        .net
        .router
        .spawn(&mut command)
        .expect("start sni-router");
    (Router::of(child, launch.admin), manager)
}
