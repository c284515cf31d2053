//! Packets whose bits were flipped on the way: their receivers drop them, and nobody may believe
//! them before.

use rstest::rstest;
use sni_router_common::counter::Counter;
use sni_router_common::flow::{End, own};
use sni_router_tests::packet::{ACK, FIN, RST, SYN, Segment};
use sni_router_tests::topology::Family;

use super::*;

/// An IP packet with a checksum that is wrong by one bit.
fn damaged(sent: &Segment) -> Vec<u8> {
    let mut packet = sent.ip();
    let tcp = packet.len() - sent.tcp().len();
    packet[tcp + 17] ^= 1;
    packet
}

/// Around the sizes that the program adds up at once, and odd ones.
const SIZES: [usize; 8] = [0, 1, 3, 491, 492, 493, 1023, 1400];

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn damaged_reset_or_fin_is_passed_on_and_not_believed(#[case] family: Family) {
    let mut program = Program::load(family);
    let sides = program.sides;
    for flags in [RST, RST | ACK, FIN | ACK] {
        for size in SIZES {
            let sent = Segment {
                flags,
                payload: vec![0x3c; size],
                // A RST starts where the stream ends, what comes with a FIN may have come before.
                seq: match flags & FIN {
                    0 => CLIENT_AT,
                    _ => CLIENT_AT.wrapping_sub(size as u32),
                },
                ..sides.client_sends()
            };
            let ran = program.run(&damaged(&sent));
            assert_eq!(ran.verdict, REDIRECT);
            let flow = program.flow(&sides.up());
            assert_eq!((flow.closed, flow.own), (0, 0), "{flags}, {size} bytes");

            let ran = program.run(&sent.ip());
            assert_eq!(ran.verdict, REDIRECT);
            let flow = program.flow(&sides.up());
            if flags & FIN == 0 {
                assert_eq!(flow.closed, End::ClientReset as u8, "{size} bytes");
            } else {
                assert_eq!(flow.own, own::FIN, "{size} bytes");
            }
            program.remove();
            program.insert(&up(sides), &down(sides));
        }
    }
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn damaged_packet_that_is_ahead_moves_no_position(#[case] family: Family) {
    let program = Program::load(family);
    let sides = program.sides;
    let sent = Segment {
        seq: CLIENT_AT.wrapping_add(5000),
        payload: vec![1; 100],
        ..sides.client_sends()
    };
    program.run(&damaged(&sent));
    assert_eq!(program.flow(&sides.up()).end, u64::from(CLIENT_AT));
    program.run(&sent.ip());
    assert_eq!(program.flow(&sides.up()).end, u64::from(CLIENT_AT) + 5100);
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn damaged_syn_does_not_remove_a_flow_that_has_ended(#[case] family: Family) {
    let mut program = Program::load(family);
    let sides = program.sides;
    let ended = Flow {
        closed: End::Finished as u8,
        ..up(sides)
    };
    program.remove();
    program.insert(&ended, &down(sides));
    let syn = Segment {
        flags: SYN,
        ..sides.client_sends()
    };
    let ran = program.run(&damaged(&syn));
    assert_eq!(ran.verdict, REDIRECT);
    assert_eq!(
        program.flow(&sides.up()),
        Flow {
            seen: program.flow(&sides.up()).seen,
            ..ended
        }
    );
    let ran = program.run(&syn.ip());
    ran.assert_passed(&syn.ip(), Some(Counter::TcReopened));
}

/// What the daemon's own socket waits for must not be given to the client because of a bit.
#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn damaged_acknowledgement_does_not_end_the_hold(#[case] family: Family) {
    let mut program = Program::load(family);
    let sides = program.sides;
    let held = Flow {
        own: own::HELD,
        since_or_held: CLIENT_AT.wrapping_add(UP_SEQ),
        ..down(sides)
    };
    program.remove();
    program.insert(&up(sides), &held);
    let sent = sides.endpoint_sends();
    program.run(&damaged(&sent));
    assert_eq!(program.flow(&sides.down()).own, own::HELD);
    program.run(&sent.ip());
    assert_eq!(program.flow(&sides.down()).own, 0);
}

/// An acknowledgement whose header has become shorter on the way: its last option looks like payload.
#[test]
fn stream_ends_where_its_fin_says_whatever_a_damaged_packet_has_said() {
    let program = Program::load(Family::V4);
    let sides = program.sides;
    let end = || program.flow(&sides.up()).end - u64::from(CLIENT_AT);
    let shortened = |segment: &Segment| {
        let with_options = Segment {
            options: vec![1; 12],
            ..segment.clone()
        };
        let mut packet = with_options.ip();
        packet[IPV4_HEADER + 12] -= 0x10;
        packet
    };
    let mut sent = sides.client_sends();
    assert_eq!(program.run(&shortened(&sent)).verdict, REDIRECT);
    assert_eq!(end(), 4);
    let fin = Segment {
        flags: FIN | ACK,
        ..sent.clone()
    };
    program.run(&fin.ip());
    assert_eq!((end(), program.flow(&sides.up()).own), (1, own::FIN));
    sent.seq = sent.seq.wrapping_add(1);
    assert_eq!(program.run(&shortened(&sent)).verdict, REDIRECT);
    assert_eq!(end(), 1, "what seems to come after a FIN is summed up");

    let mut back = Segment {
        flags: FIN | ACK,
        ..sides.endpoint_sends()
    };
    back.ack = back.ack.wrapping_add(1);
    program.run(&back.ip());
    sent.ack = sent.ack.wrapping_add(1);
    program.run(&sent.ip());
    assert_eq!(program.flow(&sides.up()).closed, End::Finished as u8);
}

const IPV4_HEADER: usize = 20;
