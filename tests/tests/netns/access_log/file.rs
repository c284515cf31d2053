//! The file of records: rotated, full, or none at all.

use std::fs::{self, File};
use std::net::Shutdown;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;
use sni_router_tests::access::read;
use sni_router_tests::admin;
use sni_router_tests::daemon::{Datapath, Launch, Router, binary};
use sni_router_tests::raw::{End, hello, read_to_end, write};
use sni_router_tests::rig::{HOST, Lab, Pair, Rig};
use sni_router_tests::server::Server;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use super::{finish, record_of, with_file};

/// Clients that connect one after another, as fast as they can, while the file is rotated twenty
/// times: each of them has one record in one of the files.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::tc(Datapath::Tc)]
fn rotation_under_load_loses_no_record(#[case] datapath: Datapath) {
    const ROTATIONS: usize = 20;
    let (rig, file) = with_file(datapath, &[]);
    let server = Server::spawn(
        rig.endpoint.try_clone().expect("clone a socket"),
        |stream| {
            read_to_end(&stream, SOON);
        },
    );
    let (hello, is_over) = (hello(HOST), AtomicBool::new(false));
    let connect = || {
        let mut connected = 0;
        while !is_over.load(Ordering::Relaxed) {
            let client = rig.lab.connect(Family::V4);
            write(&client, &hello);
            client.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(read_to_end(&client, SOON), (Vec::new(), End::Fin));
            connected += 1;
        }
        connected
    };
    let rotated = |n: usize| file.with_extension(format!("log.{n}"));
    let connected: usize = thread::scope(|scope| {
        let clients = [(); 4].map(|()| scope.spawn(connect));
        for n in 0..ROTATIONS {
            until("records to rotate", SOON, || !read(&file).is_empty());
            fs::rename(&file, rotated(n)).expect("rotate");
            rig.router.signal(Signal::USR1);
            until("a new file", SOON, || file.exists());
        }
        is_over.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .sum()
    });
    server.check();
    let records = || {
        let files = (0..ROTATIONS).map(rotated).chain([file.clone()]);
        files.flat_map(|file| read(&file)).collect::<Vec<_>>()
    };
    until("every record", SOON, || records().len() >= connected);
    let records = records();
    assert_eq!(records.len(), connected);
    let bad = records
        .iter()
        .find(|record| record.reason != "done" || record.suppressed > 0);
    assert!(bad.is_none(), "{bad:?}");
}

#[test]
fn rotation_that_fails_goes_on_with_the_file_from_before() {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let directory = lab.dir().join("logs");
    fs::create_dir(&directory).expect("make a directory");
    let file = directory.join("access.log");
    let path = file.to_str().expect("a path of the lab");
    let router = lab.start(Datapath::Userspace, &["--access-log", path]);
    let rig = Rig::of(router, endpoint, lab, Datapath::Userspace);
    let moved = rig.lab.dir().join("moved");
    fs::rename(&directory, &moved).expect("move the directory");
    rig.router.signal(Signal::USR1);
    let said = rig
        .router
        .log()
        .wait_for_line("cannot be opened anew", SOON);
    assert!(said.contains("WARN") && said.contains(path), "{said}");
    let pair = rig.open();
    finish(&pair, true);
    let record = record_of(&moved.join("access.log"), pair.address);
    assert_eq!(record.reason, "done", "{record:?}");
}

#[test]
fn signal_to_reopen_does_not_end_a_router_without_a_file() {
    let rig = Rig::start(Datapath::Userspace, &[]);
    rig.router.signal(Signal::USR1);
    let pair = rig.open();
    finish(&pair, true);
    assert_eq!(rig.access(pair.address).reason, "done");
}

/// Connections go on, the router says it once, and ends as ever.
#[test]
fn full_disk_costs_records_and_nothing_else() {
    let mut rig = Rig::start(Datapath::Userspace, &["--access-log", "/dev/full"]);
    for _ in 0..20 {
        let pair = rig.open();
        pair.exchange();
        finish(&pair, true);
    }
    rig.router
        .log()
        .wait_for_line("access lines cannot be written", SOON);
    rig.router.terminate(SOON);
    let text = rig.router.log().text();
    assert_eq!(
        text.matches("access lines cannot be written").count(),
        1,
        "{text}"
    );
    let said = rig
        .router
        .log()
        .wait_for_line("access lines could not be written", SOON);
    assert!(said.contains("\"lost\":20"), "{said}");
}

#[test]
fn file_that_cannot_be_opened_is_an_error_at_the_start() {
    let lab = Lab::new(0);
    let path = lab.dir().join("missing/access.log");
    let launch = Launch {
        manifests: Some(&lab.manifests()),
        admin: &lab.admin(),
        args: &["--access-log", path.to_str().expect("a path of the lab")],
        without: &[],
    };
    let mut router = Router::launch(&lab.net.router, &launch);
    assert_eq!(router.wait_exit(SOON).code(), Some(2));
    let said = router.log().wait_for_line("cannot open", SOON);
    assert!(
        said.contains(path.to_str().expect("a path of the lab")),
        "{said}"
    );
    assert!(said.contains("No such file"), "{said}");
}

/// Killed when the test is over.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn dash_is_standard_output() {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let file = lab.dir().join("stdout");
    let socket = lab.dir().join("admin.sock");
    let mut command = Command::new(binary());
    command
        .args([
            "run",
            "--datapath",
            "userspace",
            "--claim-vips",
            "--pin-dir",
            "none",
        ])
        .args([
            "--access-log",
            "-",
            "--log-level",
            "off",
            "--admin",
            &lab.admin(),
        ])
        .arg("--manifests")
        .arg(lab.manifests())
        .stdout(File::create(&file).expect("make a file"))
        .stderr(Stdio::null());
    let _router = Killed(
        lab.net
            .router
            .spawn(&mut command)
            .expect("start sni-router"),
    );
    until("the router is ready", Duration::from_secs(60), || {
        admin::get(&socket, "/readyz").is_some_and(|response| response.status == 200)
    });
    let pair = Pair::greet(lab.connect(Family::V4), &hello(HOST), &endpoint).answered();
    finish(&pair, true);
    assert_eq!(record_of(&file, pair.address).reason, "done");
}
