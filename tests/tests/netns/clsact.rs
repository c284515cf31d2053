//! The programs in a clsact, as before TCX (Linux 6.6), and whoever else has filters there.

use std::fs;
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aya::programs::tc::{NlOptions, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use sni_router_common::names;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::daemon::{Datapath, Router, binary};
use sni_router_tests::linux::has_tcx;
use sni_router_tests::netns::Namespace;
use sni_router_tests::raw::{End, accept, read_exactly, read_to_end, write};
use sni_router_tests::rig::{Lab, Pair, Rig};
use sni_router_tests::wait::{SOON, until};

use super::hooks::{in_tcx, own_filters};

const CLSACT: [&str; 2] = ["--tc-attach", "clsact"];
/// The number of the program's filter, behind its version.
const FILTER: u32 = 0x534e;
const INTERFACES: [&str; 2] = ["client", "backend0"];

/// A rig whose router attaches like that and pins in a BPF file system of its own.
struct Scene {
    rig: Rig,
    bpffs: Bpffs,
}

impl Scene {
    fn start(prepare: impl FnOnce(&Namespace)) -> Self {
        let bpffs = Bpffs::mount();
        let lab = Lab::new(1);
        let listener = lab.listen(0);
        Rig::site(&lab).write_to(&lab.manifests());
        prepare(&lab.net.router);
        let pins = ["--pin-dir", bpffs.dir()];
        let router = lab.start(Datapath::Tc, &[&CLSACT[..], &pins].concat());
        let rig = Rig::of(router, listener, lab, Datapath::Tc);
        Self { rig, bpffs }
    }

    fn ns(&self) -> &Namespace {
        &self.rig.lab.net.router
    }

    /// The next router, with these flags, too.
    fn next(&self, name: &str, args: &[&str]) -> Router {
        let lab = &self.rig.lab;
        let fixed = ["--datapath", "tc", "--claim-vips", "--pin-dir"];
        let args = [&fixed, &[self.bpffs.dir()][..], args].concat();
        lab.start_at(&lab.admin_of(name), &args)
    }

    /// A connection whose sockets the router has closed.
    fn open_left(&self) -> Pair {
        let before = self.rig.router.descriptors();
        let pair = self.rig.open();
        until("the router has let go of its sockets", SOON, || {
            self.rig.router.descriptors() <= before
        });
        pair
    }

    /// How each interface has the program: in filters, and in TCX.
    #[track_caller]
    fn assert_attached(&self, filters: usize, links: usize) {
        for interface in INTERFACES {
            assert_eq!(own_filters(self.ns(), interface), filters, "{interface}");
            assert_eq!(in_tcx(self.ns(), interface).len(), links, "{interface}");
        }
    }
}

/// A filter of somebody else's that copies TCP packets to another interface.
fn add_foreign(ns: &Namespace) {
    ns.batch("link add copies type ifb\nlink set copies up\n");
    ns.output("tc", &words("qdisc add dev client clsact"));
    ns.output(
        "tc",
        &words(
            "filter add dev client ingress pref 10 protocol ip u32 match ip protocol 6 0xff \
             action mirred egress mirror dev copies",
        ),
    );
}

/// How many packets that filter has copied.
fn copies(ns: &Namespace) -> u64 {
    let shown = ns.output("tc", &words("-s filter show dev client ingress pref 10"));
    let rest = shown.split_once("bytes ").expect("a count").1;
    let number = rest.split_whitespace().next().expect("a number");
    number.parse().expect("a number")
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// A connection through the router, to its end.
#[track_caller]
fn carry_one(rig: &Rig) {
    let pair = rig.open();
    pair.exchange();
    finish(&pair);
    rig.access(pair.address);
}

#[track_caller]
fn finish(pair: &Pair) {
    for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
        from.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_to_end(to, SOON), (Vec::new(), End::Fin));
    }
}

#[test]
fn filter_of_others_sees_what_is_not_of_a_flow_and_stays() {
    let mut scene = Scene::start(add_foreign);
    scene.assert_attached(1, 0);
    let at: SocketAddr = "192.168.10.1:2222".parse().expect("an address");
    let own = scene.ns().listen(at);
    for _ in 0..5 {
        carry_one(&scene.rig);
        // To another program on the router's host.
        let before = copies(scene.ns());
        let client = scene.rig.lab.net.client.connect(at, SOON).expect("connect");
        let server = accept(&own, SOON);
        write(&client, b"ping");
        assert_eq!(read_exactly(&server, 4, SOON), b"ping");
        // SYN, ACK, and the message.
        assert!(copies(scene.ns()) >= before + 3);
    }
    // What is of a flow does not come as far.
    let pair = scene.open_left();
    let before = copies(scene.ns());
    (0..50).for_each(|_| pair.exchange());
    assert_eq!(copies(scene.ns()), before);
    finish(&pair);
    scene.rig.access(pair.address);

    scene.rig.router.terminate(SOON);
    scene.assert_attached(0, 0);
    assert!(copies(scene.ns()) >= before, "the filter is still there");
}

/// The filters of the one that was killed carry its flow on, and the next one's take their place
/// without a packet in between that meets neither: a stack that got it would reset the connection.
#[test]
fn flows_survive_the_kill_of_their_router_and_a_take_over() {
    let mut scene = Scene::start(|_| {});
    let pair = scene.open_left();
    scene.rig.router.kill();
    pair.exchange();
    scene.assert_attached(1, 0);

    let stop = AtomicBool::new(false);
    let busy = thread::scope(|scope| {
        let (pair, stop) = (&pair, &stop);
        let speaker = scope.spawn(move || {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                pair.exchange();
                rounds += 1;
            }
            rounds
        });
        scene.rig.router = scene.next("second", &CLSACT);
        let third = scene.next("third", &CLSACT);
        until("the second router ends", SOON, || {
            scene.rig.router.has_ended()
        });
        scene.rig.router = third;
        stop.store(true, Ordering::Relaxed);
        speaker.join().expect("the speaker")
    });
    assert_eq!(scene.rig.router.status()["connections"], 1);
    assert!(busy > 100, "{busy} exchanges");
    scene.assert_attached(1, 0);
    finish(&pair);
    assert_eq!(scene.rig.access(pair.address).reason, "done");
    carry_one(&scene.rig);
}

/// From one way to the other and back: nothing of the way before stays, and the flow goes on.
#[test]
fn routers_that_attach_in_another_way_take_over() {
    if !has_tcx() {
        println!("not tested: this kernel has no other way");
        return;
    }
    let mut scene = Scene::start(|_| {});
    let pair = scene.open_left();
    for (name, args, filters, links) in [("second", &[][..], 0, 1), ("third", &CLSACT[..], 1, 0)] {
        let next = scene.next(name, args);
        until("the router before ends", SOON, || {
            scene.rig.router.has_ended()
        });
        scene.rig.router = next;
        scene.assert_attached(filters, links);
        pair.exchange();
        carry_one(&scene.rig);
    }
    finish(&pair);
}

#[test]
fn detach_ends_flows_and_removes_filters() {
    let mut scene = Scene::start(add_foreign);
    let pair = scene.open_left();
    scene.rig.router.terminate(SOON);
    pair.exchange();
    scene.assert_attached(1, 0);
    let mut command = Command::new(binary());
    command.args(["detach", "--pin-dir", scene.bpffs.dir()]);
    let output = scene.ns().run(|| command.output()).expect("start it");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.starts_with(b"1 connections ended"));
    assert_eq!(read_to_end(&pair.client, SOON), (Vec::new(), End::Reset));
    assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Reset));
    scene.assert_attached(0, 0);
    assert!(scene.bpffs.pinned().is_empty());
    // Somebody else's.
    copies(scene.ns());
}

/// An upgrade: the filters of the version before carry its flows on, beside those of this one, and go
/// with the last of them.
#[test]
fn filters_of_another_version_stay_as_long_as_its_flows() {
    let mut scene = Scene::start(|_| {});
    let old = scene.open_left();
    scene.rig.router.kill();
    let pins = scene.bpffs.pinned();
    let table = pins.iter().find(|path| path.ends_with(names::MAP_FLOWS));
    let version = table.and_then(|table| table.parent()).expect("a table");
    let other = version.with_file_name("v0");
    fs::rename(version, &other).expect("rename");
    for interface in INTERFACES {
        scene.ns().run(|| make_another_version(interface));
    }
    old.exchange();

    scene.rig.router = scene.next("second", &CLSACT);
    scene.assert_attached(2, 0);
    let new = scene.open_left();
    for _ in 0..20 {
        old.exchange();
        new.exchange();
    }
    finish(&old);
    until("the other version's pins are removed", SOON, || {
        !other.exists()
    });
    scene.assert_attached(1, 0);
    new.exchange();
    finish(&new);
    scene.rig.access(new.address);
}

/// Gives the filter of a router that was killed the number that version 0 would have given it.
fn make_another_version(interface: &str) {
    let show = Command::new("tc")
        .args(["filter", "show", "dev", interface, "ingress"])
        .output();
    let shown = String::from_utf8(show.expect("tc").stdout).expect("text");
    let (_, rest) = shown.split_once(" id ").expect("a program");
    let id: u32 = rest
        .split_whitespace()
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    let mut loaded = loaded_programs().filter_map(Result::ok);
    let info = loaded.find(|it| it.id() == id).expect("the program");
    let mut program = SchedClassifier::from_program_info(info, names::PROG_TC_ETHER.into())
        .expect("a classifier");
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: 1,
        handle: FILTER.into(),
        ..NlOptions::default()
    });
    let id = program
        .attach_with_options(interface, TcAttachType::Ingress, options)
        .expect("attach");
    // Dropping it would remove the filter.
    mem::forget(program.take_link(id).expect("a link"));
    let handle = format!("{:#x}", names::ABI << 16 | FILTER);
    let del = [
        "filter", "del", "dev", interface, "ingress", "pref", "1", "handle", &handle, "bpf",
    ];
    let status = Command::new("tc").args(del).status().expect("tc");
    assert!(status.success());
}

/// Nothing comes before the first priority, and it has filters of one kind only.
#[test]
fn filter_of_another_kind_at_the_first_priority_keeps_the_program_away() {
    let scene = Scene::start(|ns| {
        ns.output("tc", &words("qdisc add dev client clsact"));
        let filter =
            "filter add dev client ingress pref 1 protocol ip u32 match u32 0 0 classid 1:1";
        ns.output("tc", &words(filter));
    });
    let pair = scene.rig.open();
    pair.exchange();
    finish(&pair);
    let access = scene.rig.router.log().access_of(pair.address, SOON);
    assert_eq!(access.datapath, "userspace", "{access:?}");
    assert_eq!(access.declined, "handshake_unseen", "{access:?}");
    let remedy = "tc filter show dev client ingress";
    scene.rig.router.log().wait_for_line(remedy, SOON);
}
