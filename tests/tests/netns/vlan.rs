//! Frames with an 802.1Q tag, of clients and endpoints behind a trunk. The kernel has taken a tag out
//! of line when the program sees the frame.

use std::process::Command;

use aya::Ebpf;
use aya::programs::LinkOrder;
use rstest::rstest;
use sni_router_tests::intruder::Intruder;
use sni_router_tests::netns::Namespace;
use sni_router_tests::packet::Segment;
use sni_router_tests::position::Position;
use sni_router_tests::raw::read_exactly;
use sni_router_tests::rig::{Lab, Pair};
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::wait::SOON;
use sni_router_tests::ways::{Way, Ways};
use sni_router_tests::wire::{Layer, Wire};

use crate::foreign;
use crate::wire::{check, there_and_back};

const BYTES: u64 = 4 << 20;

/// The VLAN of the lab.
const NUMBER: u16 = 7;

/// A link of the router's that is a trunk, with the subnet in a VLAN of it.
struct Trunk {
    _wire: Wire,
    _stand_in: Option<[Ebpf; 2]>,
}

impl Trunk {
    fn lay(lab: &Lab, leg: Leg) -> Self {
        let wire = Wire::lay(&lab.net, leg, Layer::Ether, 1);
        wire.tag(NUMBER);
        let (ns, device, subnet) = (&lab.net.router, leg.device(), leg.subnet());
        ns.batch(&format!("addr flush dev {device}\n"));
        let stand_in = add_vlan(ns, &device);
        ns.batch(&format!(
            "addr add 192.168.{subnet}.1/24 dev {device}.7\n\
             addr add fd00:{subnet}::1/64 dev {device}.7 nodad\n\
             link set {device}.7 up\n"
        ));
        Self {
            _wire: wire,
            _stand_in: stand_in,
        }
    }
}

/// Makes the interface of the VLAN: the kernel's where it has them (CONFIG_VLAN_8021Q), else what
/// does the same to frames by two programs.
fn add_vlan(ns: &Namespace, device: &str) -> Option<[Ebpf; 2]> {
    let add = format!(
        "-n {} link add link {device} name {device}.7 type vlan id 7",
        ns.name()
    );
    let added = Command::new("ip").args(add.split(' ')).output();
    if added.expect("the lab needs `ip`").status.success() {
        return None;
    }
    let inside = format!("{device}.7x");
    ns.batch(&format!(
        "link add {device}.7 type veth peer name {inside}\nlink set {inside} up\n"
    ));
    let link = ns.ip_output(&["-br", "link", "show", device]);
    let address = link.split_whitespace().nth(2).expect("an address");
    ns.batch(&format!("link set {device}.7 address {address}\n"));
    let vlan = index(ns, &format!("{device}.7"));
    let below = index(ns, device);
    Some([
        attach(ns, device, &received(vlan)),
        attach(ns, &inside, &sent(below)),
    ])
}

fn index(ns: &Namespace, interface: &str) -> u32 {
    let link = ns.ip_output(&["-o", "link", "show", interface]);
    let number = link.split(':').next().expect("a number");
    number.parse().expect("a number")
}

/// Last in the chain, where the kernel looks for the interface of a VLAN.
fn attach(ns: &Namespace, interface: &str, code: &[[u8; 8]]) -> Ebpf {
    foreign::attach(ns, interface, "vlan", code, LinkOrder::last())
}

/// Frames of the VLAN come in by its interface, without their tag.
fn received(vlan: u32) -> Vec<[u8; 8]> {
    vec![
        // if !skb->vlan_present goto pass
        [0x61, 0x12, VLAN_PRESENT, 0, 0, 0, 0, 0],
        [0x15, 2, 8, 0, 0, 0, 0, 0],
        // if (skb->vlan_tci & 0xfff) != NUMBER goto pass
        [0x61, 0x12, VLAN_TCI, 0, 0, 0, 0, 0],
        [0x57, 2, 0, 0, 0xff, 0x0f, 0, 0],
        [0x55, 2, 5, 0, NUMBER as u8, 0, 0, 0],
        // bpf_skb_vlan_pop(skb)
        [0x85, 0, 0, 0, 19, 0, 0, 0],
        // return bpf_redirect(vlan, BPF_F_INGRESS)
        load(1, vlan),
        load(2, 1),
        [0x85, 0, 0, 0, 23, 0, 0, 0],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
        // pass: return TC_ACT_UNSPEC
        [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ]
}

/// What is sent by the interface of the VLAN leaves by the one below, with a tag.
fn sent(below: u32) -> Vec<[u8; 8]> {
    vec![
        // bpf_skb_vlan_push(skb, htons(ETH_P_8021Q), NUMBER)
        load(2, 0x0081),
        load(3, NUMBER.into()),
        [0x85, 0, 0, 0, 18, 0, 0, 0],
        // return bpf_redirect(below, 0)
        load(1, below),
        load(2, 0),
        [0x85, 0, 0, 0, 23, 0, 0, 0],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ]
}

/// The register becomes the number.
fn load(register: u8, number: u32) -> [u8; 8] {
    let [a, b, c, d] = number.to_le_bytes();
    [0xb7, register, 0, 0, a, b, c, d]
}

// Of struct __sk_buff (include/uapi/linux/bpf.h).
const VLAN_PRESENT: u8 = 20;
const VLAN_TCI: u8 = 24;

#[rstest]
#[case::of_clients(&[Leg::Client])]
#[case::of_endpoints(&[Leg::Backend(0)])]
#[case::of_both(&[Leg::Client, Leg::Backend(0)])]
fn connections_over_vlans_are_carried(#[case] trunks: &[Leg]) {
    let lab = Lab::new(1);
    let _trunks: Vec<_> = trunks.iter().map(|leg| Trunk::lay(&lab, *leg)).collect();
    let ways = Ways::start(lab);
    for family in Family::ALL {
        let pair = ways.open(Way::Routed, family);
        there_and_back(&pair, BYTES);
        check(&ways, &pair, BYTES);
    }
}

/// VLAN 0 is a priority and no VLAN: such frames come in by the interface itself, and what becomes of
/// them leaves without a tag.
#[rstest]
#[case::of_clients(Leg::Client)]
#[case::of_endpoints(Leg::Backend(0))]
fn frames_with_a_priority_are_carried(#[case] leg: Leg) {
    let lab = Lab::new(1);
    let wires =
        [Leg::Client, Leg::Backend(0)].map(|end| (end, Wire::lay(&lab.net, end, Layer::Ether, 1)));
    for (end, wire) in &wires {
        if *end == leg {
            wire.tag(0xe000);
        }
    }
    let ways = Ways::start(lab);
    for family in Family::ALL {
        let pair = ways.open(Way::Routed, family);
        there_and_back(&pair, BYTES);
        check(&ways, &pair, BYTES);
    }
}

/// Frames of a VLAN that this host is not in are nobody's, whatever addresses they have.
#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn frames_of_another_vlan_are_not_of_a_flow(#[case] family: Family) {
    let lab = Lab::new(1);
    let intruder = Intruder::join(&lab.net);
    let ways = Ways::start(lab);
    let pair = ways.open(Way::Routed, family);
    let redirected = || ways.router.status()["kernel"]["tc_redirected"].clone();
    let before = redirected();
    for control in [NUMBER, 0xe000 | NUMBER, 0xfff] {
        intruder.send_tagged(&forged(&pair), control);
    }
    assert_eq!(redirected(), before);
    pair.exchange();
    there_and_back(&pair, BYTES);
    check(&ways, &pair, BYTES + 4);
    // Without a tag, the same is the flow's.
    let pair = ways.open(Way::Routed, family);
    intruder.send(&forged(&pair));
    assert_eq!(read_exactly(&pair.server, FORGED.len(), SOON), FORGED);
}

/// What the client could send next.
fn forged(pair: &Pair) -> Vec<u8> {
    let at = Position::of(&pair.client);
    let to = pair.client.peer_addr().expect("connected");
    let segment = Segment {
        seq: at.seq,
        ack: at.ack,
        payload: FORGED.to_vec(),
        ..Segment::new(pair.address, to)
    };
    segment.ip()
}

const FORGED: &[u8] = b"forged";
