//! The hello that was judged is the one that arrives.

use rstest::rstest;
use sni_router_common::counter::Counter;
use sni_router_common::flow::{End, own};
use sni_router_tests::packet::{ACK, FIN, RST, SYN, Segment};
use sni_router_tests::topology::Family;

use super::*;

/// A flow of whose client all bytes so far are still the router's to send, in this way.
fn sending(how: u8) -> Program {
    let mut program = Program::load(Family::V4);
    let sides = program.sides;
    let held = Flow {
        own: how,
        since_or_held: CLIENT_AT.wrapping_add(UP_SEQ),
        ..down(sides)
    };
    program.insert(&up(sides), &held);
    program
}

/// What was judged is what the endpoint gets, whatever the client sends in its place.
#[rstest]
fn bytes_that_the_router_still_sends_nobody_else_does(
    #[values(own::HELD, own::GUARDED)] sending: u8,
) {
    let program = self::sending(sending);
    let sides = program.sides;
    let (start, end) = (CLIENT_AT.wrapping_sub(500), CLIENT_AT);
    let client = |seq: u32, len: usize| Segment {
        seq,
        payload: vec![7; len],
        ..sides.client_sends()
    };
    // All of it, a part, and with more behind.
    for (seq, len) in [(start, 500), (end.wrapping_sub(1), 1), (start, 700)] {
        let ran = program.run(&client(seq, len).ip());
        ran.assert_dropped(Counter::TcEarly);
    }
    // Nor does it end before that, and what follows is behind the end all the same.
    let fin = Segment {
        flags: FIN | ACK,
        ..client(start, 0)
    };
    program.run(&fin.ip()).assert_dropped(Counter::TcEarly);
    let ran = program.run(&client(start.wrapping_add(100), 300).ip());
    ran.assert_dropped(Counter::TcEarly);
    // What comes behind, and acknowledgements, are the client's own.
    for sent in [client(end, 100), client(start, 0)] {
        let ran = program.run(&sent.ip());
        let expected = sides.endpoint_gets(&sent);
        ran.assert_sent(&expected.ip(), &[Counter::TcRedirected]);
    }
    // Once all has arrived, what comes again is nothing new to the endpoint.
    let acknowledged = sides.endpoint_sends();
    program.run(&acknowledged.ip());
    assert_eq!(program.flow(&sides.down()).own & sending, 0);
    let again = client(start, 500);
    let ran = program.run(&again.ip());
    let expected = sides.endpoint_gets(&again);
    ran.assert_sent(&expected.ip(), &[Counter::TcRedirected]);
}

/// A RST of the client's may be one that the endpoint never takes; after its own, it may be asked again.
#[rstest]
#[case::by_the_client(End::ClientReset, true)]
#[case::by_the_endpoint(End::EndpointReset, false)]
fn bytes_that_the_router_sent_are_guarded_though_the_flow_was_reset(
    #[case] end: End,
    #[case] is_guarded: bool,
) {
    let program = sending(own::GUARDED);
    let sides = program.sides;
    let from = match end {
        End::ClientReset => sides.client_sends(),
        _ => sides.endpoint_sends(),
    };
    let reset = Segment { flags: RST, ..from };
    assert_eq!(program.run(&reset.ip()).verdict, REDIRECT);
    assert_eq!(program.flow(&sides.up()).closed, end as u8);
    let other = Segment {
        seq: CLIENT_AT.wrapping_sub(100),
        payload: vec![7; 100],
        ..sides.client_sends()
    };
    let ran = program.run(&other.ip());
    match is_guarded {
        true => ran.assert_dropped(Counter::TcEarly),
        false => ran.assert_sent(&sides.endpoint_gets(&other).ip(), &[Counter::TcRedirected]),
    }
}

/// What does not acknowledge all of it is the client's to know, which has heard nothing of it yet.
#[test]
fn acknowledgements_of_what_is_guarded_are_the_clients() {
    let program = sending(own::GUARDED);
    let sides = program.sides;
    let mut sent = sides.endpoint_sends();
    sent.ack = sent.ack.wrapping_sub(1);
    let ran = program.run(&sent.ip());
    ran.assert_sent(&sides.client_gets(&sent).ip(), &[Counter::TcRedirected]);
    assert_eq!(program.flow(&sides.down()).own, own::GUARDED);
}

/// Its question goes to a position that the router chooses, for anybody who sends one; no byte may go there.
#[rstest]
fn syn_of_a_flow_that_lives_carries_nothing(
    #[values(1, 100)] payload: usize,
    #[values(SYN, SYN | FIN)] flags: u8,
) {
    let program = Program::load(Family::V4);
    let sides = program.sides;
    for from in [sides.client_sends(), sides.endpoint_sends()] {
        let syn = Segment {
            flags,
            seq: 0x1234_5678,
            payload: vec![0x3c; payload],
            ..from
        };
        let before = [sides.up(), sides.down()].map(|key| program.flow(&key));
        program.run(&syn.ip()).assert_dropped(Counter::TcEarly);
        let after = [sides.up(), sides.down()].map(|key| program.flow(&key));
        assert_eq!(after, before);
    }
}
