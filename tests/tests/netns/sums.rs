//! The sum of all bytes that a network card, or the kernel, has made of a packet (CHECKSUM_COMPLETE) is
//! right for what the packet has become.
//!
//! A receiver that finds it wrong sums up once more, so nobody else would notice. So another program
//! looks here, at acknowledgements without payload, of which it can sum up all bytes.

use aya::programs::LinkOrder;
use rstest::rstest;
use sni_router_tests::rig::Lab;
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::ways::{Way, Ways};

use crate::foreign::{attach, counted};
use crate::vxlan::{Outer, Under, dig};
use crate::wire::there_and_back;

const BYTES: u64 = 4 << 20;

/// Acknowledgements that make it a test.
const MANY: u64 = 50;

/// Counts what the program has judged, by mark.
const COUNTERS: &str = "
    table inet sums {
        counter right { }
        counter wrong { }
        chain input {
            type filter hook prerouting priority raw;
            iifname eth0 meta mark 1 counter name right
            iifname eth0 meta mark 2 counter name wrong
        }
    }";

#[rstest]
#[case::of_an_endpoints_packets(Leg::Backend(0), Leg::Client)]
#[case::of_a_clients_packets(Leg::Client, Leg::Backend(0))]
fn sum_stays_right(#[case] tunnelled: Leg, #[case] receiver: Leg) {
    let lab = Lab::new(1);
    let _wire = dig(&lab, tunnelled, Under::Tap, Outer::Summed);
    same_ethernet_headers(&lab, tunnelled, receiver);
    let _judges = [IPV4_HEADER, IPV6_HEADER].map(|header| {
        let code = judge(header + ACKNOWLEDGEMENT);
        attach(
            lab.net.far(receiver),
            "eth0",
            "sums",
            &code,
            LinkOrder::last(),
        )
    });
    lab.net.far(receiver).output("nft", &[COUNTERS]);
    let ways = Ways::start(lab);
    let mut before = 0;
    for family in Family::ALL {
        let pair = ways.open(Way::Routed, family);
        there_and_back(&pair, BYTES);
        let ns = ways.lab.net.far(receiver);
        let right = counted(ns, "sums", "right");
        assert!(right > before + MANY, "{family:?}: {right} after {before}");
        assert_eq!(counted(ns, "sums", "wrong"), 0, "{family:?}");
        before = right;
    }
}

/// Both links have the same two addresses. For the kernel has its part in the sum, and forgets that a
/// redirected packet changes its Ethernet header (`__bpf_redirect_neigh()`, net/core/filter.c).
fn same_ethernet_headers(lab: &Lab, tunnelled: Leg, receiver: Leg) {
    let over = format!("over{}", tunnelled.subnet());
    let router = &lab.net.router;
    for (ns, device, last) in [
        (router, &*over, 1),
        (lab.net.far(tunnelled), &*over, 2),
        (router, &*receiver.device(), 1),
        (lab.net.far(receiver), "eth0", 2),
    ] {
        ns.batch(&format!(
            "link set {device} address 02:00:00:00:00:0{last}\n"
        ));
    }
}

/// Marks packets of this many bytes behind the Ethernet header whose bytes have been summed up: with 1
/// where that is right, with 2 where it is not.
fn judge(bytes: u8) -> Vec<[u8; 8]> {
    let mut code = vec![
        // r6 = skb
        [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
        // if skb->len != bytes + ETHER goto pass
        [0x61, 0x12, 0, 0, 0, 0, 0, 0],
        [0x55, 2, TO_PASS, 0, bytes + ETHER, 0, 0, 0],
        // r7 = bpf_csum_update(skb, 0)
        [0xb7, 2, 0, 0, 0, 0, 0, 0],
        [0x85, 0, 0, 0, 40, 0, 0, 0],
        [0xbf, 0x07, 0, 0, 0, 0, 0, 0],
        // if r7 < 0 goto pass: there is no such sum
        [0xc5, 7, TO_PASS - 4, 0, 0, 0, 0, 0],
        // if bpf_skb_load_bytes(skb, ETHER, fp - 80, bytes) != 0 goto pass
        [0xbf, 0x61, 0, 0, 0, 0, 0, 0],
        [0xb7, 2, 0, 0, ETHER, 0, 0, 0],
        [0xbf, 0xa3, 0, 0, 0, 0, 0, 0],
        [0x07, 3, 0, 0, 0xb0, 0xff, 0xff, 0xff],
        [0xb7, 4, 0, 0, bytes, 0, 0, 0],
        [0x85, 0, 0, 0, 26, 0, 0, 0],
        [0x55, 0, TO_PASS - 11, 0, 0, 0, 0, 0],
        // r0 = bpf_csum_diff(NULL, 0, fp - 80, bytes, 0)
        [0xb7, 1, 0, 0, 0, 0, 0, 0],
        [0xb7, 2, 0, 0, 0, 0, 0, 0],
        [0xbf, 0xa3, 0, 0, 0, 0, 0, 0],
        [0x07, 3, 0, 0, 0xb0, 0xff, 0xff, 0xff],
        [0xb7, 4, 0, 0, bytes, 0, 0, 0],
        [0xb7, 5, 0, 0, 0, 0, 0, 0],
        [0x85, 0, 0, 0, 28, 0, 0, 0],
    ];
    // Carries are added in as often as there may be some.
    for register in [0, 7] {
        code.extend([fold(register), fold(register), fold(register)].concat());
    }
    code.extend([
        // r1 = r0 == r7 ? 1 : 2
        [0xb7, 1, 0, 0, 1, 0, 0, 0],
        [0x1d, 0x70, 1, 0, 0, 0, 0, 0],
        [0xb7, 1, 0, 0, 2, 0, 0, 0],
        // skb->mark = r1
        [0x63, 0x16, 8, 0, 0, 0, 0, 0],
        // pass: return TC_ACT_UNSPEC
        [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ]);
    code
}

/// `r = (r & 0xffff) + (r >> 16)`, by way of r1.
fn fold(register: u8) -> [[u8; 8]; 4] {
    [
        // r1 = r
        [0xbf, register << 4 | 1, 0, 0, 0, 0, 0, 0],
        // r1 >>= 16
        [0x77, 1, 0, 0, 16, 0, 0, 0],
        // r &= 0xffff
        [0x57, register, 0, 0, 0xff, 0xff, 0, 0],
        // r += r1
        [0x0f, 0x10 | register, 0, 0, 0, 0, 0, 0],
    ]
}

/// From the third instruction to the last but one.
const TO_PASS: u8 = 18 + 2 * 3 * 4 + 4;

const ETHER: u8 = 14;
const IPV4_HEADER: u8 = 20;
const IPV6_HEADER: u8 = 40;
/// A TCP header with timestamps.
const ACKNOWLEDGEMENT: u8 = 32;
