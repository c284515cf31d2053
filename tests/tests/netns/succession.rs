//! Routers that follow one another in the wrong moment, and those that run side by side.

use std::mem;
use std::net::TcpStream;
use std::os::unix::fs::fchown;
use std::thread;
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::daemon::{Datapath, Launch, Router};
use sni_router_tests::netns::Namespace;
use sni_router_tests::raw::{hello, read_exactly, write};
use sni_router_tests::rig::{HOST, Lab, Rig};
use sni_router_tests::topology::{Family, VIP4};
use sni_router_tests::wait::{SOON, until};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::lifetime::claimed;
use crate::restart::Pinned;

/// Longer than a router takes to end that is told so a second time.
const HURRIED: Duration = Duration::from_secs(2);

/// Who is told to stop, and still has connections with sockets, keeps nobody from starting; nor does who starts end those.
#[test]
fn router_that_starts_while_another_one_drains_need_not_wait() {
    let mut pinned = Pinned::start();
    let early = silent(&pinned);
    pinned.rig.router.signal(Signal::TERM);
    pinned.rig.router.log().wait_for_line("draining", SOON);
    let server = greet(&early, &pinned);

    let next = pinned.next(&pinned.rig.lab.admin_of("next"));
    let mut first = mem::replace(&mut pinned.rig.router, next);
    pinned.open_left().exchange();
    assert!(!first.has_ended(), "it has let a connection down");
    write(&server, b"still here");
    assert_eq!(read_exactly(&early, 10, SOON), b"still here");
    drop((early, server));
    assert!(first.wait_exit(SOON).success());
    pinned.open_left().exchange();
}

/// Who was told to end, and lets its connections finish, is told once, whoever comes next.
#[test]
fn router_that_drains_is_not_hurried_by_who_follows_its_killed_successor() {
    let mut pinned = Pinned::start();
    let early = silent(&pinned);
    let next = pinned.next(&pinned.rig.lab.admin_of("next"));
    let mut first = mem::replace(&mut pinned.rig.router, next);
    first.log().wait_for_line("draining", SOON);
    let server = greet(&early, &pinned);
    pinned.rig.router.kill();
    pinned.rig.router = pinned.next(&pinned.rig.lab.admin_of("last"));
    pinned.open_left().exchange();
    thread::sleep(HURRIED);
    write(&server, b"still here");
    assert_eq!(read_exactly(&early, 10, SOON), b"still here");
    drop((early, server));
    assert!(first.wait_exit(SOON).success());
}

/// It has made the first one let go, and tells it no more that it may end. The next one does.
#[test]
fn router_whose_successor_did_not_live_is_ended_by_the_next_one() {
    let mut pinned = Pinned::start();
    let pair = pinned.open_left();
    follow_unhappily(&pinned);
    pinned.rig.open().exchange();

    let next = pinned.next(&pinned.rig.lab.admin_of("next"));
    let mut first = mem::replace(&mut pinned.rig.router, next);
    assert!(first.wait_exit(SOON).success());
    pair.exchange();
    pinned.open_left().exchange();
}

/// Who has let go still serves, until somebody else does.
#[test]
fn vips_of_a_router_stay_whose_successor_did_not_live() {
    let pinned = Pinned::start();
    follow_unhappily(&pinned);
    Rig::site(&pinned.rig.lab)
        .vip(VIP4)
        .write_to(&pinned.rig.lab.dir().join("others"));
    let third = beside_with(&pinned.rig.lab, "others", Datapath::Userspace, &[]);
    third.wait_ready();
    assert_eq!(claimed(&pinned.rig).len(), 2);
}

/// Nothing but the process tells that it runs, where not both pin in the same place.
#[rstest]
#[case::neither_pins(false, false)]
#[case::only_the_first_pins(true, false)]
#[case::only_the_second_pins(false, true)]
fn second_router_of_tc_is_refused_where_it_cannot_take_over(
    #[case] is_pinned: bool,
    #[case] would_pin: bool,
) {
    let bpffs = Bpffs::mount();
    let pins = |it| ["--pin-dir", if it { bpffs.dir() } else { "none" }];
    let mut rig = Rig::start(Datapath::Tc, &pins(is_pinned));
    let pair = rig.open();

    let mut second = beside(&rig.lab, Datapath::Tc, &pins(would_pin));
    assert!(!second.wait_exit(SOON).success());
    let said = second.log().wait_for_line("another router", SOON);
    let process = format!("(process {})", rig.router.pid());
    assert!(said.contains(&process), "{said}");
    assert!(said.contains("--pin-dir"), "{said}");
    assert_eq!(claimed(&rig).len(), 2);
    pair.exchange();
    rig.open().exchange();

    rig.router.kill();
    rig.router = beside(&rig.lab, Datapath::Tc, &pins(is_pinned));
    rig.router.wait_ready();
    rig.open().exchange();
}

/// Any user can have the names by which routers know of each other.
#[test]
fn names_of_another_user_hold_nothing_up_and_hide_no_router() {
    let no_pins = ["--pin-dir", "none"];
    let mut rig = Rig::start(Datapath::Tc, &no_pins);
    rig.router.kill();
    let name = |name| named_by_another_user(&rig.lab.net.router, name);
    let only = name("sni-router/tc");
    let more = [name("sni-router/tc/1/1"), name("sni-router/vips/1/1")];
    rig.router = beside(&rig.lab, Datapath::Tc, &no_pins);
    rig.router.wait_ready();
    let said = rig.router.log().wait_for_line("not root", SOON);
    assert!(said.contains("\"uid\":65534"), "{said}");
    rig.open().exchange();

    let process = format!("(process {})", rig.router.pid());
    let is_refused = || {
        let mut second = beside(&rig.lab, Datapath::Tc, &no_pins);
        assert!(!second.wait_exit(SOON).success());
        let said = second.log().wait_for_line("another router", SOON);
        assert!(said.contains(&process), "{said}");
    };
    is_refused();
    // Now the second one can have it.
    drop(only);
    is_refused();

    rig.router.terminate(SOON);
    assert!(claimed(&rig).is_empty());
    drop(more);
}

/// Also where it would carry by sockets: one that is started by mistake is found out.
#[test]
fn second_router_of_auto_is_refused_beside_one_of_tc_but_not_the_other_way_round() {
    let auto = ["--datapath", "auto", "--claim-vips", "--pin-dir", "none"];
    let mut rig = Rig::start(Datapath::Tc, &["--pin-dir", "none"]);
    let manifests = rig.lab.manifests();
    let launch = |admin: &str| {
        let launch = Launch {
            manifests: Some(&manifests),
            admin,
            args: &auto,
            without: &["bpf", "perfmon", "sys_admin"],
        };
        Router::launch(&rig.lab.net.router, &launch)
    };
    let mut second = launch(&rig.lab.admin_of("second"));
    assert!(!second.wait_exit(SOON).success());
    let said = second.log().wait_for_line("another router", SOON);
    assert!(said.contains("--datapath userspace"), "{said}");

    rig.router.kill();
    let first = launch(&rig.lab.admin_of("first"));
    first.wait_ready();
    rig.router = beside(&rig.lab, Datapath::Tc, &["--pin-dir", "none"]);
    rig.router.wait_ready();
    rig.open().exchange();
}

/// Of routers that carry by sockets, each may end first, and what they need is not all the same.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
fn vips_of_two_routers_side_by_side_stay_until_both_have_ended(#[case] datapath: Datapath) {
    let mut rig = Rig::start(datapath, &[]);
    assert_eq!(claimed(&rig).len(), 2);
    // The second one needs one of them.
    Rig::site(&rig.lab)
        .vip(VIP4)
        .write_to(&rig.lab.dir().join("others"));
    let second = beside_with(&rig.lab, "others", datapath, &[]);
    second.wait_ready();
    assert_eq!(claimed(&rig).len(), 2, "the first one needs the other");

    rig.router.terminate(SOON);
    rig.router = second;
    rig.open().exchange();
    until(
        "the last one has given up what it does not need",
        SOON,
        || claimed(&rig) == [VIP4.to_string()].into(),
    );
    rig.open().exchange();
    rig.router.terminate(SOON);
    assert!(claimed(&rig).is_empty());
}

/// Neither leaves them to the other.
#[test]
fn vips_of_two_routers_that_end_together_are_given_up() {
    let mut rig = Rig::start(Datapath::Userspace, &[]);
    let mut second = beside(&rig.lab, Datapath::Userspace, &[]);
    second.wait_ready();
    for router in [&rig.router, &second] {
        router.signal(Signal::TERM);
    }
    for router in [&mut rig.router, &mut second] {
        assert!(router.wait_exit(SOON).success());
    }
    assert!(claimed(&rig).is_empty());
}

/// A second router, which may not start, on the manifests of the first.
fn beside(lab: &Lab, datapath: Datapath, args: &[&str]) -> Router {
    beside_with(lab, "manifests", datapath, args)
}

/// The same on those in this directory.
fn beside_with(lab: &Lab, manifests: &str, datapath: Datapath, args: &[&str]) -> Router {
    let launch = Launch {
        manifests: Some(&lab.dir().join(manifests)),
        admin: &lab.admin_of("second"),
        args: &[&["--datapath", datapath.name(), "--claim-vips"], args].concat(),
        without: &[],
    };
    Router::launch(&lab.net.router, &launch)
}

/// Starts one that has the first one let go, and does not live to serve.
fn follow_unhappily(pinned: &Pinned) {
    let lab = &pinned.rig.lab;
    let pins = ["--pin-dir", pinned.bpffs.dir()];
    let launch = Launch {
        manifests: Some(&lab.manifests()),
        admin: &lab.admin_of("no/such/directory"),
        args: &[&["--datapath", "tc", "--claim-vips"], pins.as_slice()].concat(),
        without: &[],
    };
    let mut unhappy = Router::launch(&lab.net.router, &launch);
    assert!(!unhappy.wait_exit(SOON).success());
    let log = pinned.rig.router.log();
    log.wait_for_line("another router takes over", SOON);
}

/// A Unix socket of the user `nobody` with a name without a file.
fn named_by_another_user(ns: &Namespace, name: &str) -> Socket {
    let socket = ns.run(|| Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket"));
    fchown(&socket, Some(65534), None).expect("give it to another user");
    let name = SockAddr::unix(format!("\0{name}")).expect("a name");
    socket.bind(&name).expect("the name is free");
    socket
}

/// A client that has said nothing, so that the router has a socket of it.
fn silent(pinned: &Pinned) -> TcpStream {
    let client = pinned.rig.lab.connect(Family::V4);
    until("the client has a socket", SOON, || {
        pinned.rig.router.status()["connections"] == 1
    });
    client
}

/// Has it say hello, and answers with the other end.
fn greet(client: &TcpStream, pinned: &Pinned) -> TcpStream {
    let hello = hello(HOST);
    write(client, &hello);
    let server = pinned.rig.accept();
    assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
    server
}
