//! Clients and endpoints behind a tunnel, as pods of other nodes are in many clusters: the kernel takes
//! packets out of VXLAN before the program sees them, and puts them in after it has sent them on.
//!
//! What has summed up a packet is of interest, since the program must keep that right: over veth
//! nobody has yet; over TAP devices, where the tunnel has a checksum of its own, the kernel has
//! summed up all the bytes to look at that one (CHECKSUM_COMPLETE, as many network cards do).

use rstest::rstest;
use sni_router_tests::rig::Lab;
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::ways::{Way, Ways};
use sni_router_tests::wire::{Layer, Wire};

use crate::wire::{check, there_and_back};

const BYTES: u64 = 4 << 20;

/// What the tunnel goes over.
#[derive(Clone, Copy)]
pub(super) enum Under {
    Veth,
    Tap,
}

/// Whether the tunnel's own packets have a checksum.
#[derive(Clone, Copy)]
pub(super) enum Outer {
    Summed,
    Unsummed,
}

/// Moves the subnet of a link into a tunnel over that link.
pub(super) fn dig(lab: &Lab, leg: Leg, under: Under, outer: Outer) -> Option<Wire> {
    let wire = match under {
        Under::Veth => None,
        Under::Tap => Some(Wire::lay(&lab.net, leg, Layer::Ether, 1)),
    };
    let subnet = leg.subnet();
    let checksum = match outer {
        Outer::Summed => "udpcsum",
        Outer::Unsummed => "noudpcsum",
    };
    let far = lab.net.far(leg);
    for (ns, device, own, other) in [(&lab.net.router, &*leg.device(), 1, 2), (far, "eth0", 2, 1)] {
        ns.batch(&format!(
            "addr flush dev {device}\n\
             addr add 10.9.{subnet}.{own}/24 dev {device}\n\
             link add over{subnet} type vxlan id {subnet} dev {device} dstport 4789 local 10.9.{subnet}.{own} \
                 remote 10.9.{subnet}.{other} {checksum}\n\
             addr add 192.168.{subnet}.{own}/24 dev over{subnet}\n\
             addr add fd00:{subnet}::{own}/64 dev over{subnet} nodad\n\
             link set over{subnet} up\n"
        ));
    }
    if leg == Leg::Client {
        lab.net.route_vips(far, subnet);
    }
    wire
}

#[rstest]
#[case::of_endpoints_over_veth(&[Leg::Backend(0)], Under::Veth, Outer::Unsummed)]
#[case::of_endpoints_over_veth_summed(&[Leg::Backend(0)], Under::Veth, Outer::Summed)]
#[case::of_endpoints_over_tap(&[Leg::Backend(0)], Under::Tap, Outer::Unsummed)]
#[case::of_endpoints_over_tap_summed(&[Leg::Backend(0)], Under::Tap, Outer::Summed)]
#[case::of_clients_over_tap_summed(&[Leg::Client], Under::Tap, Outer::Summed)]
#[case::of_both_over_tap_summed(&[Leg::Client, Leg::Backend(0)], Under::Tap, Outer::Summed)]
fn connections_over_a_tunnel_are_carried(
    #[case] legs: &[Leg],
    #[case] under: Under,
    #[case] outer: Outer,
) {
    let lab = Lab::new(1);
    let dig = |leg: &Leg| dig(&lab, *leg, under, outer);
    let _wires: Vec<_> = legs.iter().map(dig).collect();
    let ways = Ways::start(lab);
    for family in Family::ALL {
        let pair = ways.open(Way::Routed, family);
        there_and_back(&pair, BYTES);
        check(&ways, &pair, BYTES);
    }
}
