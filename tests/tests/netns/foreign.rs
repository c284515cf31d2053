//! Programs of others on the interfaces that `tc` is attached to.

use std::net::{SocketAddr, TcpListener};

use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};
use rstest::rstest;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::linux::has_tcx;
use sni_router_tests::netns::Namespace;
use sni_router_tests::raw::{accept, read_exactly, write};
use sni_router_tests::rig::{Lab, Rig};
use sni_router_tests::wait::{SOON, until};

use super::hooks::in_tcx;

/// Connections through the router, and of other programs.
const ROUNDS: usize = 20;

/// The router's interface to the client.
const INTERFACE: &str = "client";

/// What the foreign program marks packets with.
const MARK: u32 = 90;

/// Counts what the stack gets from the client.
const COUNTERS: &str = "
    table inet seen {
        counter marked { }
        counter unmarked { }
        chain input {
            type filter hook prerouting priority raw;
            iifname client meta mark 90 counter name marked
            iifname client meta mark != 90 counter name unmarked
        }
    }";

/// The priority of a filter that is not the first.
const LATE: u16 = 100;

/// When the foreign program comes, and whether it asks to be the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    Before,
    After,
    AfterButFirst,
}

#[rstest]
#[case::before(Comes::Before)]
#[case::after(Comes::After)]
#[case::after_but_first(Comes::AfterButFirst)]
fn foreign_program_sees_every_packet_that_is_not_of_a_flow(#[case] comes: Comes) {
    if !has_tcx() {
        println!("not tested: this kernel has no TCX");
        return;
    }
    let lab = Lab::new(1);
    Rig::site(&lab).write_to(&lab.manifests());
    let listener = lab.listen(0);
    let ns = &lab.net.router;
    let mut foreign = (comes == Comes::Before).then(|| attach_foreign(ns, LinkOrder::default()));
    let router = lab.start(Datapath::Tc, &[]);
    if foreign.is_none() {
        let order = if comes == Comes::AfterButFirst {
            LinkOrder::first()
        } else {
            LinkOrder::last()
        };
        foreign = Some(attach_foreign(ns, order));
    }
    let expected = match comes {
        Comes::Before | Comes::After => ["snir_tc_ether", "mark"],
        Comes::AfterButFirst => ["mark", "snir_tc_ether"],
    };
    assert_eq!(in_tcx(ns, INTERFACE), expected);
    ns.output("nft", &[COUNTERS]);

    let mut rig = Rig::of(router, listener, lab, Datapath::Tc);
    let own = rig.lab.net.router.listen(own_address());
    for _ in 0..ROUNDS {
        carry_one(&rig);
        connect_own(&rig, &own);
    }
    let marked = packets(&rig.lab.net.router, "marked");
    assert!(marked > 4 * ROUNDS as u64, "{marked}");
    assert_eq!(packets(&rig.lab.net.router, "unmarked"), 0);

    rig.router.terminate(SOON);
    assert_eq!(in_tcx(&rig.lab.net.router, INTERFACE), ["mark"]);
    connect_own(&rig, &own);
    assert!(packets(&rig.lab.net.router, "marked") > marked);
    drop(foreign);
}

/// A filter of clsact that copies packets to another interface, as for a capture.
pub(super) fn add_filter(ns: &Namespace) {
    ns.batch("link add copies type ifb\nlink set copies up\n");
    ns.output("tc", &words("qdisc add dev client clsact"));
    ns.output(
        "tc",
        &words(
            "filter add dev client ingress pref 1 protocol ip u32 match ip protocol 6 0xff \
             action mirred egress mirror dev copies",
        ),
    );
}

#[rstest]
#[case::before(true)]
#[case::after(false)]
fn filter_of_clsact_sees_packets_that_are_not_of_a_flow(#[case] comes_before: bool) {
    let lab = Lab::new(1);
    Rig::site(&lab).write_to(&lab.manifests());
    let listener = lab.listen(0);
    if comes_before {
        add_filter(&lab.net.router);
    }
    let router = lab.start(Datapath::Tc, &[]);
    if !comes_before {
        add_filter(&lab.net.router);
    }
    let mut rig = Rig::of(router, listener, lab, Datapath::Tc);
    let own = rig.lab.net.router.listen(own_address());
    let mut copied = 0;
    for _ in 0..ROUNDS {
        carry_one(&rig);
        connect_own(&rig, &own);
        let now = copies(&rig.lab.net.router);
        // SYN, ACK, and the message at least.
        assert!(now >= copied + 3, "{now} after {copied}");
        copied = now;
    }
    rig.router.terminate(SOON);
    connect_own(&rig, &own);
    until("the filter is still there", SOON, || {
        copies(&rig.lab.net.router) > copied
    });
}

/// A connection through the router.
#[track_caller]
fn carry_one(rig: &Rig) {
    let pair = rig.open();
    write(&pair.client, b"ping");
    assert_eq!(read_exactly(&pair.server, 4, SOON), b"ping");
    let address = pair.address;
    drop(pair);
    rig.access(address);
}

/// A connection to another program on the router's host.
#[track_caller]
fn connect_own(rig: &Rig, own: &TcpListener) {
    let client = rig
        .lab
        .net
        .client
        .connect(own_address(), SOON)
        .expect("connect");
    let server = accept(own, SOON);
    write(&client, b"ping");
    assert_eq!(read_exactly(&server, 4, SOON), b"ping");
}

fn own_address() -> SocketAddr {
    "192.168.10.1:2222".parse().expect("an address")
}

/// Attaches a program that marks every packet and lets it go on.
pub(super) fn attach_foreign(ns: &Namespace, order: LinkOrder) -> Ebpf {
    attach(ns, INTERFACE, "mark", &marking(), order)
}

/// Attaches a program of this code to what comes in by an interface; last of all, where there is no order to choose.
pub(super) fn attach(
    ns: &Namespace,
    interface: &str,
    name: &str,
    code: &[[u8; 8]],
    order: LinkOrder,
) -> Ebpf {
    let object = object_of("classifier", name, code);
    ns.run(|| {
        let mut ebpf = EbpfLoader::new().load(&object).expect("load");
        let program = ebpf.program_mut(name).expect("it is there");
        let program: &mut SchedClassifier = program.try_into().expect("a classifier");
        program.load().expect("load");
        let options = match has_tcx() {
            true => TcAttachOptions::TcxOrder(order),
            false => {
                qdisc_add_clsact(interface).expect("a clsact");
                TcAttachOptions::Netlink(NlOptions {
                    priority: LATE,
                    ..NlOptions::default()
                })
            }
        };
        program
            .attach_with_options(interface, TcAttachType::Ingress, options)
            .expect("attach");
        ebpf
    })
}

/// `skb->mark = MARK; return TC_ACT_UNSPEC`.
fn marking() -> [[u8; 8]; 4] {
    let [m0, m1, m2, m3] = MARK.to_le_bytes();
    [
        // r2 = MARK
        [0xb7, 2, 0, 0, m0, m1, m2, m3],
        // *(u32 *)(r1 + offsetof(struct __sk_buff, mark)) = r2
        [0x63, 0x21, 8, 0, 0, 0, 0, 0],
        // r0 = TC_ACT_UNSPEC
        [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        // exit
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ]
}

/// A program of this kind, as a compiler would deliver it.
pub(super) fn object_of(kind: &str, name: &str, code: &[[u8; 8]]) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), kind.as_bytes().to_vec(), SectionKind::Text);
    object.append_section_data(section, &code.concat(), 8);
    object.add_symbol(Symbol {
        name: name.as_bytes().to_vec(),
        value: 0,
        size: size_of_val(code) as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    object.write().expect("an object")
}

/// What a counter of [`COUNTERS`] has counted.
fn packets(ns: &Namespace, counter: &str) -> u64 {
    counted(ns, "seen", counter)
}

/// How many packets a counter of a table of nftables has counted.
pub(super) fn counted(ns: &Namespace, table: &str, counter: &str) -> u64 {
    let shown = ns.output("nft", &["list", "counter", "inet", table, counter]);
    number_after(&shown, "packets ")
}

/// How many packets the filter has copied.
fn copies(ns: &Namespace) -> u64 {
    let shown = ns.output("tc", &words("-s filter show dev client ingress"));
    number_after(&shown, "bytes ")
}

fn number_after(text: &str, word: &str) -> u64 {
    let rest = text.split_once(word).map(|(_, rest)| rest);
    let number = rest.and_then(|rest| rest.split_whitespace().next());
    let number = number.and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no number after {word:?}: {text}"))
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}
