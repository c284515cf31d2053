//! The access log: what is in a record, how many there are, and the file they go to.

use std::fs::{self, File};
use std::net::{Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;
use sni_router_tests::access::{Access, read};
use sni_router_tests::admin;
use sni_router_tests::daemon::{Datapath, Launch, Router, binary};
use sni_router_tests::raw::{End, Hello, hello, read_exactly, read_to_end, reset, write};
use sni_router_tests::rig::{HOST, Lab, Pair, Rig};
use sni_router_tests::server::Server;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until, until_some};

/// What no log must say.
const SECRET: &str = "attack-at-dawn";

/// A rig whose router writes its records to `access.log` in the lab's directory.
fn with_file(datapath: Datapath, args: &[&str]) -> (Rig, PathBuf) {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let file = lab.dir().join("access.log");
    let flag = ["--access-log", file.to_str().expect("a path of the lab")];
    let router = lab.start(datapath, &[&flag, args].concat());
    (Rig::of(router, endpoint, lab, datapath), file)
}

/// The record of the client at this address in a file.
#[track_caller]
fn record_of(file: &Path, client: SocketAddr) -> Access {
    let client = client.to_string();
    until_some("the record of a client", SOON, || {
        read(file).into_iter().find(|record| record.client == client)
    })
}

/// Sends what is not TLS, and waits for the end.
fn send_secret(rig: &Rig) -> SocketAddr {
    let client = rig.lab.connect(Family::V4);
    write(&client, format!("GET /{SECRET} HTTP/1.1\r\n\r\n").as_bytes());
    read_to_end(&client, SOON);
    client.local_addr().expect("a connected socket")
}

/// Both sides finish, the one that is told to first.
fn finish(pair: &Pair, client_is_first: bool) {
    let (first, second) = match client_is_first {
        true => (&pair.client, &pair.server),
        false => (&pair.server, &pair.client),
    };
    first.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(second, SOON), (Vec::new(), End::Fin));
    second.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(first, SOON), (Vec::new(), End::Fin));
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn carried_connection_is_told_whole_and_its_bytes_are_not(#[case] datapath: Datapath) {
    let (rig, file) = with_file(datapath, &[]);
    let bytes = Hello {
        alpn: Some("h2"),
        ..Hello::default()
    }
    .bytes(Some(HOST));
    let pair = Pair::greet(rig.lab.connect(Family::V4), &bytes, &rig.endpoint).answered();
    write(&pair.client, SECRET.as_bytes());
    assert_eq!(read_exactly(&pair.server, SECRET.len(), SOON), SECRET.as_bytes());
    finish(&pair, true);

    let record = record_of(&file, pair.address);
    rig.assert_carried(&record, &[]);
    assert_eq!(record.reason, "done", "{record:?}");
    assert_eq!(record.sni, HOST, "{record:?}");
    assert_eq!((&*record.alpn, &*record.tls), ("h2", "1.3"), "{record:?}");
    assert_eq!(record.bytes_up, pair.up + SECRET.len() as u64, "{record:?}");
    // Ours is rustls with one version and one protocol; what its lists hash to is its business.
    assert!(record.ja4.starts_with("t13d"), "{record:?}");
    assert_eq!(&record.ja4[8..11], "h2_", "{record:?}");
    assert_eq!(record.ja4.len(), 36, "{record:?}");
    assert_eq!(record.start.len(), "2026-06-01T09:30:05.412Z".len(), "{record:?}");
    assert_eq!(record.suppressed, 0, "{record:?}");

    let text = fs::read_to_string(&file).expect("the access log");
    assert!(!text.contains(SECRET));
    assert!(rig.router.log().access().is_empty(), "also on standard error");
    assert!(!rig.router.log().text().contains(SECRET));
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn closed_by_names_whose_end_came_first(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &["--idle-timeout", "2s"]);
    let closed_by = |address, reason: &str| {
        let record = rig.access(address);
        assert_eq!(record.reason, reason, "{record:?}");
        record.closed_by
    };
    // The kernel program does not note which FIN was first.
    let knows_fins = datapath != Datapath::Tc;
    for (client_is_first, who) in [(true, "client"), (false, "endpoint")] {
        let pair = rig.open();
        finish(&pair, client_is_first);
        let expected = if knows_fins { who } else { "" };
        assert_eq!(closed_by(pair.address, "done"), expected);
    }

    let Pair { client, server, address, .. } = rig.open();
    reset(client);
    assert_eq!(read_to_end(&server, SOON).1, End::Reset);
    assert_eq!(closed_by(address, "client_reset"), "client");

    let Pair { client, server, address, .. } = rig.open();
    reset(server);
    assert_eq!(read_to_end(&client, SOON).1, End::Reset);
    assert_eq!(closed_by(address, "endpoint_reset"), "endpoint");

    // Whoever resets what the other side has ended did not begin.
    let Pair { client, server, address, .. } = rig.open();
    server.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&client, SOON), (Vec::new(), End::Fin));
    reset(client);
    let expected = if knows_fins { "endpoint" } else { "client" };
    assert_eq!(closed_by(address, "client_reset"), expected);

    let silent = rig.open();
    assert_eq!(closed_by(silent.address, "idle_timeout"), "router");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn rejected_connection_says_why_and_nothing_of_its_bytes(#[case] datapath: Datapath) {
    let (rig, file) = with_file(datapath, &[]);
    let record = record_of(&file, send_secret(&rig));
    assert_eq!(record.reason, "not_tls", "{record:?}");
    assert_eq!(record.closed_by, "router", "{record:?}");
    assert_eq!((&*record.sni, &*record.ja4, &*record.datapath), ("", "", ""), "{record:?}");

    let unknown = rig.lab.connect(Family::V4);
    write(&unknown, &hello("unknown.example.com"));
    read_to_end(&unknown, SOON);
    let record = record_of(&file, unknown.local_addr().expect("a connected socket"));
    assert_eq!(record.reason, "unknown_host", "{record:?}");
    assert_eq!(record.sni, "unknown.example.com", "{record:?}");
    assert!(record.ja4.starts_with("t13d"), "{record:?}");

    let gone = rig.lab.connect(Family::V4);
    gone.shutdown(Shutdown::Write).expect("shutdown");
    read_to_end(&gone, SOON);
    let record = record_of(&file, gone.local_addr().expect("a connected socket"));
    assert_eq!(record.reason, "client_gone", "{record:?}");
    assert_eq!(record.closed_by, "client", "{record:?}");

    let text = fs::read_to_string(&file).expect("the access log");
    assert!(!text.contains(SECRET) && !rig.router.log().text().contains(SECRET));
}

/// Clients that connect one after another, as fast as they can, while the file is rotated twenty
/// times: each of them has one record in one of the files.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::tc(Datapath::Tc)]
fn rotation_under_load_loses_no_record(#[case] datapath: Datapath) {
    const ROTATIONS: usize = 20;
    let (mut rig, file) = with_file(datapath, &[]);
    let server = Server::spawn(rig.endpoint.try_clone().expect("clone a socket"), |stream| {
        read_to_end(&stream, SOON);
    });
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
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    server.check();
    rig.router.terminate(SOON);
    let files = (0..ROTATIONS).map(rotated).chain([file.clone()]);
    let records: Vec<_> = files.flat_map(|file| read(&file)).collect();
    assert_eq!(records.len(), connected);
    let bad = records.iter().find(|record| record.reason != "done" || record.suppressed > 0);
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
    let said = rig.router.log().wait_for_line("cannot be opened anew", SOON);
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

/// All that a flood of rejected connections leaves are a few records, whose counts add up to all of
/// it; other reasons, and what is carried, are told as before.
#[test]
fn flood_of_rejects_leaves_few_records_that_add_up() {
    const FLOOD: u64 = 300;
    let mut rig = Rig::start(Datapath::Userspace, &["--access-log-rejects", "5"]);
    let start = std::time::Instant::now();
    for _ in 0..FLOOD {
        send_secret(&rig);
    }
    let took = start.elapsed();
    let unknown = rig.lab.connect(Family::V4);
    write(&unknown, &hello("unknown.example.com"));
    read_to_end(&unknown, SOON);
    let pair = rig.open();
    finish(&pair, true);
    assert_eq!(rig.access(pair.address).suppressed, 0);
    let log = rig.router.log();
    let record = log.wait_for_access(SOON, |record| record.reason == "unknown_host");
    assert_eq!(record.suppressed, 0, "{record:?}");

    let of_flood = |record: &Access| record.reason == "not_tls";
    let told = || log.access().into_iter().filter(of_flood).map(|one| 1 + one.suppressed).sum::<u64>();
    let (written, counted) = (log.access().iter().filter(|one| of_flood(one)).count(), told());
    let most = 5 + 5 * (took.as_secs() as usize + 2);
    assert!((5..=most).contains(&written), "{written} records in {took:?}");
    assert!(counted <= FLOOD, "{counted}");
    // The next record that there is room for tells of the rest.
    let mut sent = FLOOD;
    until("a record that tells of the rest", SOON, || {
        send_secret(&rig);
        sent += 1;
        told() == sent
    });

    // What nobody has told when the router stops, it says itself.
    for _ in 0..20 {
        send_secret(&rig);
    }
    rig.router.terminate(SOON);
    let said = rig.router.log().wait_for_line("left out of the access log", SOON);
    assert!(said.contains("not_tls"), "{said}");
}

#[test]
fn no_record_of_rejects_is_written_when_none_is_wanted() {
    let mut rig = Rig::start(Datapath::Userspace, &["--access-log-rejects", "0"]);
    for _ in 0..3 {
        send_secret(&rig);
    }
    let pair = rig.open();
    finish(&pair, true);
    assert_eq!(rig.access(pair.address).reason, "done");
    assert_eq!(rig.router.log().access().len(), 1);
    rig.router.terminate(SOON);
    let said = rig.router.log().wait_for_line("left out of the access log", SOON);
    assert!(said.contains("\"suppressed\":3"), "{said}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::tc(Datapath::Tc)]
fn sample_is_of_what_ended_well(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &["--access-log-sample", "10"]);
    for _ in 0..30 {
        finish(&rig.open(), true);
    }
    for _ in 0..3 {
        let pair = rig.open();
        reset(pair.client);
        assert_eq!(read_to_end(&pair.server, SOON).1, End::Reset);
    }
    let log = rig.router.log();
    let of = |reason: &str| log.access().into_iter().filter(|one| one.reason == reason).collect::<Vec<_>>();
    until("the records", SOON, || of("client_reset").len() == 3 && of("done").len() == 3);
    let suppressed: Vec<_> = of("done").iter().map(|one| one.suppressed).collect();
    assert_eq!(suppressed, [0, 9, 9]);
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
    rig.router.log().wait_for_line("access lines cannot be written", SOON);
    rig.router.terminate(SOON);
    let text = rig.router.log().text();
    assert_eq!(text.matches("access lines cannot be written").count(), 1, "{text}");
    let said = rig.router.log().wait_for_line("access lines could not be written", SOON);
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
    assert!(said.contains(path.to_str().expect("a path of the lab")), "{said}");
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
        .args(["run", "--datapath", "userspace", "--claim-vips", "--pin-dir", "none"])
        .args(["--access-log", "-", "--log-level", "off", "--admin", &lab.admin()])
        .arg("--manifests")
        .arg(lab.manifests())
        .stdout(File::create(&file).expect("make a file"))
        .stderr(Stdio::null());
    let _router = Killed(lab.net.router.spawn(&mut command).expect("start sni-router"));
    until("the router is ready", Duration::from_secs(60), || {
        admin::get(&socket, "/readyz").is_some_and(|response| response.status == 200)
    });
    let pair = Pair::greet(lab.connect(Family::V4), &hello(HOST), &endpoint).answered();
    finish(&pair, true);
    assert_eq!(record_of(&file, pair.address).reason, "done");
}
