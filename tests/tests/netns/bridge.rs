//! Clients and endpoints behind a bridge of this host, as pods of the same node are in many clusters.
//! Their packets come by twice: on the bridge's port, and on the bridge itself.

use rstest::rstest;
use sni_router_tests::rig::Lab;
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::ways::{Way, Ways};

use crate::wire::{check, there_and_back};

const BYTES: u64 = 4 << 20;

/// Whose link-layer address the bridge has.
#[derive(Clone, Copy)]
enum Address {
    /// That of a port, as the kernel chooses if nobody else does: on the port, too, packets seem to be
    /// for this host.
    OfAPort,
    /// One of its own: on the port, packets are for another station.
    OfItsOwn,
}

/// Makes links of the router's ports of one bridge, which has their subnets.
fn build(lab: &Lab, legs: &[Leg], address: Address) {
    let router = &lab.net.router;
    router.batch("link add bridge type bridge\n");
    for leg in legs {
        let (device, subnet) = (leg.device(), leg.subnet());
        router.batch(&format!(
            "addr flush dev {device}\n\
             link set {device} master bridge\n\
             addr add 192.168.{subnet}.1/24 dev bridge\n\
             addr add fd00:{subnet}::1/64 dev bridge nodad\n"
        ));
    }
    if let Address::OfItsOwn = address {
        router.batch("link set bridge address 02:00:00:00:00:01\n");
    }
    router.batch("link set bridge up\n");
}

#[rstest]
#[case::of_clients(&[Leg::Client])]
#[case::of_endpoints(&[Leg::Backend(0)])]
#[case::of_both(&[Leg::Client, Leg::Backend(0)])]
fn connections_over_a_bridge_are_carried(
    #[case] legs: &[Leg],
    #[values(Address::OfAPort, Address::OfItsOwn)] address: Address,
) {
    let lab = Lab::new(1);
    build(&lab, legs, address);
    let ways = Ways::start(lab);
    for family in Family::ALL {
        let pair = ways.open(Way::Routed, family);
        there_and_back(&pair, BYTES);
        check(&ways, &pair, BYTES);
        // The next one needs no socket.
        let before = taken(&ways);
        let pair = ways.open(Way::Routed, family);
        there_and_back(&pair, BYTES);
        check(&ways, &pair, BYTES);
        assert!(taken(&ways) > before, "it was opened without sockets");
    }
}

/// Packets that the program has taken for the router.
fn taken(ways: &Ways) -> f64 {
    let labels = [("program", "tc"), ("event", "taken")];
    ways.router
        .metric("sni_router_kernel_events_total", &labels)
}
