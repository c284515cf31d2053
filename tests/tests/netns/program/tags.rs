//! Frames whose 802.1Q tag is still in line: none gets to the program like that from a network
//! (`__netif_receive_skb_core()`, net/core/dev.c), but from other programs one could. What is out of
//! line, no test run can make; `vlan.rs` sends it.

use rstest::rstest;
use sni_router_tests::packet::tagged;
use sni_router_tests::topology::Family;

use super::*;

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn frames_with_tags_in_line_are_passed_as_they_are(#[case] family: Family) {
    let program = Program::load(family);
    let frame = ether(&program.sides.client_sends().ip());
    // A VLAN, a priority only, and two tags.
    let frames = [
        tagged(&frame, 7),
        tagged(&frame, 0xe000),
        tagged(&tagged(&frame, 7), 8),
    ];
    for frame in frames {
        let ran = program.run_raw(&frame, 0);
        assert_eq!(ran.verdict, UNSPEC, "{:?}", ran.counted);
        assert!(ran.packet == frame, "a frame was changed");
        ran.assert_counted(None);
    }
}
