//! Routers that follow one another in the wrong moment.

use std::mem;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use sni_router_tests::daemon::{Launch, Router};
use sni_router_tests::raw::{hello, read_exactly, write};
use sni_router_tests::rig::HOST;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use crate::restart::Pinned;

/// Longer than a router takes to end that is told so a second time.
const HURRIED: Duration = Duration::from_secs(2);

/// Who is told to stop, and still has connections with sockets, keeps nobody from starting; nor does who starts end those.
#[test]
fn router_that_starts_while_another_one_drains_need_not_wait() {
    let mut pinned = Pinned::start();
    let early = silent(&pinned);
    pinned.rig.router.signal(rustix::process::Signal::TERM);
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
    let (manifests, dir) = (pinned.rig.lab.manifests(), pinned.bpffs.dir());
    let nowhere = pinned.rig.lab.admin_of("no/such/directory");
    let mut unhappy = Router::launch(
        &pinned.rig.lab.net.router,
        &Launch {
            manifests: Some(&manifests),
            admin: &nowhere,
            args: &["--pin-dir", dir, "--datapath", "tc", "--claim-vips"],
            without: &[],
        },
    );
    assert!(!unhappy.wait_exit(SOON).success());
    let log = pinned.rig.router.log();
    log.wait_for_line("another router takes over", SOON);
    pinned.rig.open().exchange();

    let next = pinned.next(&pinned.rig.lab.admin_of("next"));
    let mut first = mem::replace(&mut pinned.rig.router, next);
    assert!(first.wait_exit(SOON).success());
    pair.exchange();
    pinned.open_left().exchange();
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
