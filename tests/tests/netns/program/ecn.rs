//! Explicit Congestion Notification, where both sides agreed to it, and where only the sender did.

use rstest::rstest;
use sni_router_tests::packet::{ACK, seal};

use super::*;

/// The program, of whose flow only the sender agreed to ECN, whichever that is.
fn without_ecn(family: Family) -> Program {
    let mut program = Program::load(family);
    let sides = program.sides;
    let without = |flow: Flow| Flow {
        options: flow.options | option::NO_ECN,
        ..flow
    };
    program.insert(&without(up(sides)), &without(down(sides)));
    program
}

/// An IP packet with this in its ECN field.
fn with_field(mut packet: Vec<u8>, field: u8) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[1] |= field << 4;
    } else {
        packet[1] |= field;
        seal(&mut packet[..20]);
    }
    packet
}

/// The same with the flag AE, which is 0x0100 more in a word of the TCP header.
pub(super) fn with_ae(mut packet: Vec<u8>) -> Vec<u8> {
    let tcp = if packet[0] >> 4 == 6 { 40 } else { 20 };
    packet[tcp + 12] |= 1;
    let sum = u16::from_be_bytes([packet[tcp + 16], packet[tcp + 17]]);
    let (more, has_carry) = (!sum).overflowing_add(0x0100);
    let sum = !(more + u16::from(has_carry));
    packet[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[rstest]
fn what_both_agreed_to_passes(#[values(Family::V4, Family::V6)] family: Family) {
    let program = Program::load(family);
    let sides = program.sides;
    let sent = Segment {
        flags: ACK | ECE | CWR,
        payload: b"hello".to_vec(),
        ..sides.client_sends()
    };
    for field in [0, ECT_1, ECT_0, CE] {
        let ran = program.run(&with_field(sent.ip(), field));
        let expected = with_field(sides.endpoint_gets(&sent).ip(), field);
        ran.assert_sent(&expected, &[Counter::TcRedirected]);
    }
}

#[rstest]
fn what_only_the_sender_agreed_to_is_taken_out(#[values(Family::V4, Family::V6)] family: Family) {
    let program = without_ecn(family);
    let sides = program.sides;
    let flagged = |segment: &Segment, field| {
        let flagged = Segment {
            flags: ACK | ECE | CWR,
            ..segment.clone()
        };
        with_ae(with_field(flagged.ip(), field))
    };
    for field in [0, ECT_1, ECT_0] {
        let sent = sides.client_sends();
        let ran = program.run(&flagged(&sent, field));
        ran.assert_sent(&sides.endpoint_gets(&sent).ip(), &[Counter::TcRedirected]);
        let sent = sides.endpoint_sends();
        let ran = program.run(&flagged(&sent, field));
        ran.assert_sent(&sides.client_gets(&sent).ip(), &[Counter::TcRedirected]);
    }
}

#[rstest]
fn mark_is_a_loss_for_a_receiver_that_cannot_report_it(
    #[values(Family::V4, Family::V6)] family: Family,
) {
    let program = without_ecn(family);
    let sides = program.sides;
    let sent = Segment {
        payload: b"hello".to_vec(),
        ..sides.client_sends()
    };
    let marked = with_field(sent.ip(), CE);
    program.run(&marked).assert_dropped(Counter::TcMarked);
    // Noted like what is lost later on its way.
    assert_eq!(program.flow(&sides.up()).end, u64::from(CLIENT_AT) + 5);
    // On a path that marks everything, something must arrive.
    let again = program.run(&marked);
    again.assert_sent(&sides.endpoint_gets(&sent).ip(), &[Counter::TcRedirected]);
    let acknowledgement = sides.endpoint_sends();
    let ran = program.run(&with_field(acknowledgement.ip(), CE));
    let expected = sides.client_gets(&acknowledgement).ip();
    ran.assert_sent(&expected, &[Counter::TcRedirected]);
}

const ECE: u8 = 64;
const CWR: u8 = 128;

// RFC 3168, section 5.
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;
