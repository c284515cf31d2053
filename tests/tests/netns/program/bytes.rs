//! What is counted of a flow's bytes: always what its entries say.

use rstest::rstest;
use sni_router_tests::packet::{ACK, FIN, Segment};
use sni_router_tests::topology::Family;

use super::*;

/// A packet at this distance from where the stream was in the beginning.
fn at(segment: Segment, offset: u32, flags: u8, payload: usize) -> Segment {
    Segment {
        seq: segment.seq.wrapping_add(offset),
        flags,
        payload: vec![7; payload],
        ..segment
    }
}

#[rstest]
#[case::up(true)]
#[case::down(false)]
fn bytes_count_when_the_stream_goes_on_and_not_again(#[case] is_up: bool) {
    let program = Program::load(Family::V4);
    let sides = program.sides;
    let sender = || match is_up {
        true => sides.client_sends(),
        false => sides.endpoint_sends(),
    };
    let key = if is_up { sides.up() } else { sides.down() };
    let before = program.flow(&key).bytes();
    let mut total = 0;
    for (what, segment, expected) in [
        ("an acknowledgement", at(sender(), 0, ACK, 0), 0),
        ("a hundred bytes", at(sender(), 0, ACK, 100), 100),
        ("the same again", at(sender(), 0, ACK, 100), 0),
        ("a part of them, and more", at(sender(), 50, ACK, 100), 50),
        // What was lost is on its way, and will not count when it comes.
        ("what comes behind a gap", at(sender(), 250, ACK, 100), 200),
        ("the gap", at(sender(), 150, ACK, 100), 0),
        (
            "far outside of the window",
            at(sender(), 1 << 20, ACK, 9),
            0,
        ),
        ("ten bytes and a FIN", at(sender(), 350, FIN | ACK, 10), 10),
        ("the same again", at(sender(), 350, FIN | ACK, 10), 0),
        ("the FIN alone", at(sender(), 360, FIN | ACK, 0), 0),
    ] {
        let ran = program.run(&segment.ip());
        let [up, down] = ran.bytes;
        let (counted, other) = if is_up { (up, down) } else { (down, up) };
        assert_eq!((counted, other), (expected, 0), "{what}");
        total += counted;
        let gone_on = program.flow(&key).bytes().wrapping_sub(before);
        assert_eq!(gone_on, total, "{what}");
    }
    assert_eq!(total, 360);
}

#[test]
fn bytes_count_right_when_sequence_numbers_wrap() {
    let program = Program::load(Family::V6);
    let sides = program.sides;
    let mut offset = 0;
    let mut total = 0;
    while offset < 5000 {
        let segment = at(sides.client_sends(), offset, ACK, 1000);
        total += program.run(&segment.ip()).bytes[0];
        offset += 1000;
    }
    assert_eq!(total, 5000);
    assert_eq!(program.flow(&sides.up()).bytes(), 5000);
}
