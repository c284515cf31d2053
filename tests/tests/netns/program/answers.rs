//! Packets that cannot go on, and what their sender is told.

use rstest::rstest;
use sni_router_common::counter::Counter;
use sni_router_tests::packet::{Segment, checksum, icmp, pseudo};
use sni_router_tests::topology::Family;

use super::*;

/// The MTU of [`up`] and [`down`].
const MTU: u32 = 1500;

/// A packet one byte too large.
fn large(sides: Sides, family: Family) -> Segment {
    let header = header(family);
    Segment {
        payload: vec![0x5a; MTU as usize - header - 20 + 1],
        ..sides.client_sends()
    }
}

fn header(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Checks that an error went back to the client, and that it quotes this packet.
#[track_caller]
fn assert_answered(ran: &Ran, sides: Sides, kind: [u8; 2], word: u32, packet: &[u8], why: Counter) {
    assert_eq!(ran.verdict, REDIRECT, "{:?}", ran.counted);
    ran.assert_counted([why, Counter::TcAnswered]);
    let answer = &ran.packet[ETHER..];
    let family = if sides.vip.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    let header = header(family);
    let (outer, inner) = answer.split_at(header + 8);
    // Both headers, without options; all but TCP's checksum as they were.
    let mut quoted = packet[..header + 20].to_vec();
    let at = header + 16;
    quoted[at..at + 2].copy_from_slice(&inner[at..at + 2]);
    assert_eq!(inner, quoted);
    let mut expected = icmp(sides.vip.ip(), sides.client.ip(), 64, kind, word, inner);
    if family == Family::V4 {
        // Internetwork control.
        expected[1] = 0xc0;
        sni_router_tests::packet::seal(&mut expected[..20]);
    }
    assert_eq!(outer, &expected[..header + 8]);
    // Whoever still has to fill in TCP's checksum, in the kernel or in a network card, changes
    // nothing.
    let filled = checksum(&inner[header..]);
    let filled = if filled == [0, 0] {
        [0xff, 0xff]
    } else {
        filled
    };
    let mut blank = inner[header..].to_vec();
    blank[16..18].copy_from_slice(&inner[at..at + 2]);
    assert_eq!(filled, inner[at..at + 2], "what a network card would write");
}

#[rstest]
#[case::v4(Family::V4, [3, 4])]
#[case::v6(Family::V6, [2, 0])]
fn packet_that_is_too_large_is_answered(#[case] family: Family, #[case] kind: [u8; 2]) {
    let program = Program::load(family);
    let sides = program.sides;
    let mut sent = large(sides, family);
    let ran = program.run(&sent.ip());
    assert_answered(&ran, sides, kind, MTU, &sent.ip(), Counter::TcTooBig);
    assert_eq!(program.flow(&sides.up()), up(sides), "it was not passed on");
    sent.payload.pop();
    let ran = program.run(&sent.ip());
    ran.assert_sent(&sides.endpoint_gets(&sent).ip(), &[Counter::TcRedirected]);
}

#[rstest]
#[case::v4(Family::V4, [3, 4])]
#[case::v6(Family::V6, [2, 0])]
fn gso_packet_is_measured_by_its_segments(#[case] family: Family, #[case] kind: [u8; 2]) {
    let program = Program::load(family);
    let sides = program.sides;
    let sent = Segment {
        payload: vec![1; 3000],
        ..sides.client_sends()
    };
    let ran = program.run_raw(&ether(&sent.ip()), 1400);
    ran.assert_sent(&sides.endpoint_gets(&sent).ip(), &[Counter::TcRedirected]);
    let ran = program.run_raw(&ether(&sent.ip()), 1481);
    assert_answered(&ran, sides, kind, MTU, &sent.ip(), Counter::TcTooBig);
}

#[rstest]
#[case::v4(Family::V4, [11, 0])]
#[case::v6(Family::V6, [3, 0])]
fn packet_that_has_come_too_far_is_answered(#[case] family: Family, #[case] kind: [u8; 2]) {
    let program = Program::load(family);
    let sides = program.sides;
    // Also one of which there is nothing to cut off.
    for payload in [0, 1, 2, 1000] {
        let sent = Segment {
            ttl: 1,
            payload: vec![3; payload],
            ..sides.client_sends()
        };
        let ran = program.run(&sent.ip());
        assert_answered(&ran, sides, kind, 0, &sent.ip(), Counter::TcTtlExceeded);
    }
}

#[test]
fn answers_are_few() {
    let program = Program::load(Family::V4);
    let sides = program.sides;
    let sent = Segment {
        ttl: 1,
        ..sides.client_sends()
    };
    let packet = sent.ip();
    // More than any machine gets through in the time in which that many may be answered.
    let runs = 1_000_000;
    let dropped = (0..runs).find(|_| {
        let ran = program.run(&packet);
        assert!([REDIRECT, SHOT].contains(&ran.verdict), "{ran:?}");
        ran.verdict == SHOT
    });
    assert!(
        dropped.is_some_and(|answered| answered >= 50),
        "{dropped:?}"
    );
    // Nobody keeps others from learning what fits.
    let ran = program.run(&large(sides, Family::V4).ip());
    assert_eq!(ran.verdict, REDIRECT);
    ran.assert_counted([Counter::TcTooBig, Counter::TcAnswered]);
}

#[test]
fn quoted_checksum_is_one_that_a_whole_header_has() {
    // The pseudo-header is what the kernel has put into the field where a card is to fill it in.
    let sides = Sides::of(Family::V4);
    let tcp = sides.client_sends().tcp();
    let pseudo = pseudo(sides.client.ip(), sides.vip.ip(), 6, tcp.len());
    assert_eq!(checksum(&[pseudo, tcp].concat()), [0, 0]);
}
