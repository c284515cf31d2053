//! Interfaces that come, go and change while the router runs, and those it has no program on.

use std::net::{IpAddr, SocketAddr, TcpListener};

use rstest::rstest;
use rustix::process::Signal;
use sni_router_tests::access::Access;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::daemon::{Datapath, Router};
use sni_router_tests::netns::Namespace;
use sni_router_tests::raw::hello;
use sni_router_tests::rig::{BACKEND_PORT, Lab, Pair};
use sni_router_tests::site::{PORT, Site};
use sni_router_tests::topology::VIP4;
use sni_router_tests::wait::{SOON, until};

use super::hooks::{in_tcx, own_filters};

const HOST: &str = "one.example.com";

/// Of a backend whose interface is not there at the start.
const LATE: &str = "late.example.com";
const LATE_SUBNET: u8 = 40;

/// How often an interface is made anew.
const ROUNDS: u32 = 8;

/// A lab with a backend, and a place for another one.
struct Growing {
    router: Router,
    lab: Lab,
}

impl Growing {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(args: &[&str]) -> Self {
        let lab = Lab::new(1);
        Site::new()
            .route(HOST, "one")
            .service("one", [lab.endpoint(0)])
            .route(LATE, "late")
            .service("late", [late_endpoint()])
            .write_to(&lab.manifests());
        let router = lab.start(Datapath::Tc, args);
        Self { router, lab }
    }

    /// Waits until the program was attached to an interface of this name so many times.
    fn wait_attached(&self, interface: &str, times: usize) {
        let interface = format!("\"interface\":\"{interface}\"");
        until("the program is attached", SOON, || {
            let log = self.router.log().text();
            let mut lines = log.lines().filter(|line| line.contains(&interface));
            let attached = lines.by_ref().filter(|line| line.contains("\"attached\""));
            attached.count() >= times
        });
    }

    /// A connection with a message each way, and its record.
    fn serve_one(&self, client: &Namespace, host: &str, at: &TcpListener) -> Access {
        let pair = open(client, host, at);
        let address = pair.address;
        drop(pair);
        self.router.log().access_of(address, SOON)
    }

    #[track_caller]
    fn assert_tc(&self, client: &Namespace, host: &str, at: &TcpListener) {
        let access = self.serve_one(client, host, at);
        assert_eq!(
            (&*access.datapath, &*access.declined),
            ("tc", ""),
            "{access:?}"
        );
    }

    /// No interface was refused.
    #[track_caller]
    fn assert_no_complaint(&self) {
        let log = self.router.log().text();
        let said = log.lines().find(|line| line.contains("not attached"));
        assert_eq!(said, None);
    }
}

/// How many programs are on the late interface, in the namespace where it is.
fn attached(ns: &Namespace) -> usize {
    in_tcx(ns, "late").len() + own_filters(ns, "late")
}

fn late_endpoint() -> SocketAddr {
    let ip: IpAddr = format!("192.168.{LATE_SUBNET}.2")
        .parse()
        .expect("an address");
    SocketAddr::new(ip, BACKEND_PORT)
}

/// Opens a connection and sends a message each way.
#[track_caller]
fn open(client: &Namespace, host: &str, at: &TcpListener) -> Pair {
    let client = client.connect(SocketAddr::new(VIP4, PORT), SOON);
    let pair = Pair::greet(client.expect("connect"), &hello(host), at);
    pair.exchange();
    pair
}

#[test]
fn client_and_backend_on_interfaces_that_appear_get_tc() {
    let site = Growing::start();
    let backend = site.lab.net.join("late", LATE_SUBNET);
    let listener = backend.listen(late_endpoint());
    site.wait_attached("late", 1);
    site.assert_tc(&site.lab.net.client, LATE, &listener);

    let client = site.lab.net.join("visitor", 41);
    site.lab.net.route_vips(&client, 41);
    site.wait_attached("visitor", 1);
    site.assert_tc(&client, LATE, &listener);
    site.assert_no_complaint();
}

#[test]
fn interface_that_is_made_again_gets_tc_each_time_and_nothing_is_left_of_the_old_one() {
    let site = Growing::start();
    let router = &site.lab.net.router;
    let mut before = 0;
    for round in 1..=ROUNDS {
        let backend = site.lab.net.join("late", LATE_SUBNET);
        let listener = backend.listen(late_endpoint());
        site.wait_attached("late", round as usize);
        site.assert_tc(&site.lab.net.client, LATE, &listener);
        if round == 1 {
            before = site.router.descriptors();
        }
        router.batch("link del late\n");
    }
    until("no descriptor is left", SOON, || {
        site.router.descriptors() < before
    });
    site.assert_no_complaint();
}

/// With pins it is those that hold the program where it is.
#[test]
fn pins_of_interfaces_that_have_gone_are_gone() {
    let bpffs = Bpffs::mount();
    let site = Growing::start_with(&["--pin-dir", bpffs.dir()]);
    let router = &site.lab.net.router;
    let before = bpffs.pinned();
    for round in 1..=3 {
        let backend = site.lab.net.join("late", LATE_SUBNET);
        let listener = backend.listen(late_endpoint());
        site.wait_attached("late", round);
        assert_eq!(bpffs.pinned().len(), before.len() + 1);
        site.assert_tc(&site.lab.net.client, LATE, &listener);
        if round == 1 {
            let away = site.lab.net.backends[0].name();
            router.batch(&format!("link set late netns {away}\n"));
            until("nothing of ours is on it", SOON, || {
                attached(&site.lab.net.backends[0]) == 0
            });
            site.lab.net.backends[0].batch("link del late\n");
        } else {
            router.batch("link del late\n");
        }
        until("the pin has gone", SOON, || {
            bpffs.pinned().len() == before.len()
        });
    }
    site.assert_no_complaint();
}

/// To whoever looks only at lists, nothing has happened; and who is told too much at once is not told all of it.
#[rstest]
#[case::and_is_told_of(0)]
#[case::and_is_told_of_among_too_much(1000)]
fn interface_that_is_made_again_with_name_and_number_gets_tc(#[case] changes: u32) {
    let site = Growing::start();
    let (router, client) = (&site.lab.net.router, &site.lab.net.client);
    let backend = site.lab.net.join("late", LATE_SUBNET);
    let listener = backend.listen(late_endpoint());
    site.wait_attached("late", 1);
    site.assert_tc(client, LATE, &listener);

    let link = router.ip_output(&["-o", "link", "show", "late"]);
    let (index, _) = link.split_once(':').expect("a number");
    let far = backend.name();
    site.router.signal(Signal::STOP);
    let change = |n| format!("link set late txqueuelen {}\n", 2000 + n);
    router.batch(&(0..changes).map(change).collect::<String>());
    router.batch(&format!(
        "link del late\n\
         link add late index {index} type veth peer name eth0 netns {far}\n\
         addr add 192.168.{LATE_SUBNET}.1/24 dev late\n\
         link set late up\n"
    ));
    backend.batch(&format!(
        "addr add 192.168.{LATE_SUBNET}.2/24 dev eth0\nlink set eth0 up\n"
    ));
    site.router.signal(Signal::CONT);
    site.wait_attached("late", 2);
    site.assert_tc(client, LATE, &listener);
    site.assert_no_complaint();
}

#[test]
fn interface_that_is_renamed_carries_its_flows_on() {
    let site = Growing::start();
    let (router, client) = (&site.lab.net.router, &site.lab.net.client);
    let backend = site.lab.net.join("late", LATE_SUBNET);
    let listener = backend.listen(late_endpoint());
    site.wait_attached("late", 1);
    let pair = open(client, LATE, &listener);

    router.batch("link set late down\nlink set late name later\nlink set later up\n");
    site.router.log().wait_for_line("\"renamed\"", SOON);
    pair.exchange();
    site.assert_tc(client, LATE, &listener);
    let address = pair.address;
    drop(pair);
    let access = site.router.log().access_of(address, SOON);
    assert_eq!(access.datapath, "tc", "{access:?}");
    site.assert_no_complaint();
}

#[test]
fn interface_that_is_moved_in_gets_tc_and_one_that_is_moved_out_is_let_go() {
    let site = Growing::start();
    let (router, client) = (&site.lab.net.router, &site.lab.net.client);
    let backend = site.lab.net.join("late", LATE_SUBNET);
    let listener = backend.listen(late_endpoint());
    site.wait_attached("late", 1);
    site.assert_tc(client, LATE, &listener);

    for times in 2..5 {
        let away = site.lab.net.backends[0].name();
        router.batch(&format!("link set late netns {away}\n"));
        until("nothing of ours is on it", SOON, || {
            attached(&site.lab.net.backends[0]) == 0
        });

        let back = router.name();
        site.lab.net.backends[0].batch(&format!("link set late netns {back}\n"));
        router.batch(&format!(
            "addr add 192.168.{LATE_SUBNET}.1/24 dev late\nlink set late up\n"
        ));
        site.wait_attached("late", times);
        site.assert_tc(client, LATE, &listener);
    }
    site.assert_no_complaint();
}

/// The loopback interface never has the program, and so stands for any that has not.
#[test]
fn connection_that_came_by_an_interface_without_the_program_is_declined_and_works() {
    let site = Growing::start();
    let listener = site.lab.listen(0);
    let router = &site.lab.net.router;
    let access = site.serve_one(router, HOST, &listener);
    assert_eq!(access.declined, "handshake_unseen", "{access:?}");
    assert_eq!(access.datapath, "userspace", "{access:?}");

    // An endpoint on this host.
    router.batch(&format!("addr add 192.168.{LATE_SUBNET}.2/32 dev lo\n"));
    let listener = router.listen(late_endpoint());
    let access = site.serve_one(&site.lab.net.client, LATE, &listener);
    assert_eq!(access.declined, "handshake_unseen", "{access:?}");
    assert_eq!(access.datapath, "userspace", "{access:?}");
    let labels = [("reason", "handshake_unseen")];
    assert_eq!(site.router.metric(DECLINED, &labels), 2.0);
}

const DECLINED: &str = "sni_router_datapath_declines_total";
