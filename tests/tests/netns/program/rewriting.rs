//! TCP packets of a flow.

use rstest::rstest;
use sni_router_common::counter::Counter;
use sni_router_common::flow::{option, own, peer};
use sni_router_tests::packet::{ACK, FIN, RST, SYN, Segment};
use sni_router_tests::topology::Family;

use super::*;

/// NOP, NOP, timestamps.
fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    let mut options = vec![1, 1, 8, 10];
    options.extend(value.to_be_bytes());
    options.extend(echo.to_be_bytes());
    options
}

/// NOP, NOP, a SACK block.
fn sack(left: u32, right: u32) -> Vec<u8> {
    let mut options = vec![1, 1, 5, 10];
    options.extend(left.to_be_bytes());
    options.extend(right.to_be_bytes());
    options
}

/// What no endpoint knows: a Fast Open cookie, and an experiment (RFC 6994).
const UNKNOWN: [u8; 8] = [34, 4, 1, 2, 253, 4, 3, 4];

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn packet_of_a_flow_becomes_one_of_the_other_connection(
    #[case] family: Family,
    #[values(true, false)] is_told: bool,
) {
    let program = Program::load_as(family, is_told);
    let sides = program.sides;
    let clocks = |value: u32, echo: u32| {
        let value = value.wrapping_add(UP_CLOCK);
        timestamps(value, echo.wrapping_sub(DOWN_CLOCK))
    };
    let edge = |edge: u32| edge.wrapping_sub(DOWN_SEQ);
    let cases = [
        (vec![], vec![]),
        (timestamps(9, 8), clocks(9, 8)),
        (
            [timestamps(9, 8), sack(500, 0xffff_ffff)].concat(),
            [clocks(9, 8), sack(edge(500), edge(0xffff_ffff))].concat(),
        ),
        (sack(500, 600), sack(edge(500), edge(600))),
        (UNKNOWN.to_vec(), UNKNOWN.to_vec()),
        (
            [sack(500, 600), timestamps(9, 8)].concat(),
            [sack(edge(500), edge(600)), clocks(9, 8)].concat(),
        ),
        (
            [timestamps(9, 8), UNKNOWN.to_vec(), sack(1, 2)].concat(),
            [clocks(9, 8), UNKNOWN.to_vec(), sack(edge(1), edge(2))].concat(),
        ),
    ];
    // As many blocks as there is room for, with timestamps and without.
    let blocks = |count: u32, edge: &dyn Fn(u32) -> u32| {
        let mut options = vec![1, 1, 5, count as u8 * 8 + 2];
        for number in 0..count * 2 {
            options.extend(edge(number * 1000).to_be_bytes());
        }
        options
    };
    let many = (1..=4).map(|count| (blocks(count, &|edge| edge), blocks(count, &edge)));
    let both = many.clone().take(3).map(|(sent, rewritten)| {
        let sent = [timestamps(9, 8), sent].concat();
        (sent, [clocks(9, 8), rewritten].concat())
    });
    for (options, rewritten) in cases.into_iter().chain(many).chain(both) {
        for payload in [0, 1, 700, 1400] {
            let sent = Segment {
                options: options.clone(),
                payload: vec![0xa5; payload],
                // URG, ECE and CWR are nobody's business here.
                flags: ACK | 0xe0,
                window: 5001,
                ..sides.client_sends()
            };
            let expected = Segment {
                options: rewritten.clone(),
                ..sides.endpoint_gets(&sent)
            };
            let ran = program.run(&sent.ip());
            ran.assert_sent(&expected.ip(), &[Counter::TcRedirected]);
        }
    }
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn answer_of_the_endpoint_becomes_one_to_the_client(#[case] family: Family) {
    let program = Program::load(family);
    let sides = program.sides;
    let sent = Segment {
        options: timestamps(1, 2),
        payload: vec![7; 99],
        ..sides.endpoint_sends()
    };
    let (value, echo) = (1_u32.wrapping_add(DOWN_CLOCK), 2_u32.wrapping_sub(UP_CLOCK));
    let expected = Segment {
        options: timestamps(value, echo),
        ..sides.client_gets(&sent)
    };
    let ran = program.run(&sent.ip());
    ran.assert_sent(&expected.ip(), &[Counter::TcRedirected]);
    let flow = program.flow(&sides.down());
    assert_eq!(flow.end, u64::from(ENDPOINT_AT) + 99);
    assert_eq!(
        flow.edge,
        sent.ack.wrapping_add(u32::from(sent.window) << 3)
    );
}

#[test]
fn sack_blocks_are_blanked_for_a_receiver_that_did_not_agree_to_them() {
    let mut program = Program::load(Family::V4);
    let sides = program.sides;
    let agreed = option::TIMESTAMPS | option::NO_SACK;
    let blind = Flow {
        options: agreed,
        ..up(sides)
    };
    program.insert(&blind, &down(sides));
    let sent = Segment {
        options: sack(1, 2),
        ..sides.client_sends()
    };
    let expected = Segment {
        options: vec![1; 12],
        ..sides.endpoint_gets(&sent)
    };
    let ran = program.run(&sent.ip());
    ran.assert_sent(&expected.ip(), &[Counter::TcRedirected]);
}

#[test]
fn acknowledgement_of_the_routers_own_bytes_is_for_its_own_socket() {
    let mut program = Program::load(Family::V4);
    let sides = program.sides;
    let held = Flow {
        own: own::HELD,
        since_or_held: CLIENT_AT.wrapping_add(UP_SEQ),
        ..down(sides)
    };
    program.insert(&up(sides), &held);
    let mut sent = sides.endpoint_sends();
    sent.ack = sent.ack.wrapping_sub(1);
    let ran = program.run(&sent.ip());
    ran.assert_passed(&sent.ip(), Some(Counter::TcHeld));
    sent.ack = sent.ack.wrapping_add(1);
    let ran = program.run(&sent.ip());
    ran.assert_sent(&sides.client_gets(&sent).ip(), &[Counter::TcRedirected]);
}

/// Two CPUs that have packets of one direction at once may take a bit of each other's back.
#[test]
fn flow_ends_also_where_a_bit_was_lost() {
    let mut program = Program::load(Family::V4);
    let sides = program.sides;
    let (up, down) = (up(sides), down(sides));
    let ended = Flow {
        peer: peer::FIN,
        end: up.end + 1,
        ..up
    };
    let answered = Flow {
        peer: peer::FIN,
        end: down.end + 1,
        ack: sides.endpoint_sends().ack.wrapping_add(1),
        ..down
    };
    program.insert(&ended, &answered);
    let mut last = sides.client_sends();
    last.seq = last.seq.wrapping_add(1);
    last.ack = last.ack.wrapping_add(1);
    program.run(&last.ip());
    let [up, down] = [sides.up(), sides.down()].map(|key| program.flow(&key));
    assert_eq!((up.closed, down.closed), (1, 1));
    assert_eq!(up.bytes(), ended.bytes() - 1, "a FIN is no byte");
    assert_eq!(down.bytes(), answered.bytes() - 1, "a FIN is no byte");
}

#[test]
fn fins_and_resets_close_a_flow_and_a_new_syn_removes_it() {
    let mut program = Program::load(Family::V4);
    let sides = program.sides;
    let sent = Segment {
        flags: RST | ACK,
        ..sides.client_sends()
    };
    let ran = program.run(&sent.ip());
    ran.assert_sent(&sides.endpoint_gets(&sent).ip(), &[Counter::TcRedirected]);
    assert_eq!(program.flow(&sides.down()).closed, 2);

    program.insert(&up(sides), &down(sides));
    let fin = Segment {
        flags: FIN | ACK,
        ..sides.client_sends()
    };
    program.run(&fin.ip());
    let mut fin_back = Segment {
        flags: FIN | ACK,
        ..sides.endpoint_sends()
    };
    fin_back.ack = fin_back.ack.wrapping_add(1);
    program.run(&fin_back.ip());
    assert_eq!(program.flow(&sides.up()).closed, 0);
    let mut last = sides.client_sends();
    last.seq = last.seq.wrapping_add(1);
    // All but the FIN is acknowledged.
    program.run(&last.ip());
    assert_eq!(program.flow(&sides.up()).own, own::FIN);
    last.ack = last.ack.wrapping_add(1);
    program.run(&last.ip());
    assert_eq!(program.flow(&sides.up()).closed, 1);

    let syn = Segment {
        flags: SYN,
        ..sides.client_sends()
    };
    let ran = program.run(&syn.ip());
    ran.assert_passed(&syn.ip(), Some(Counter::TcReopened));
    // Nobody reads the ring here, so it gets full some time, and that is counted.
    let mut lost = 0;
    for _ in 0..ENDED_RING_BYTES / 16 {
        program.insert(&up(sides), &down(sides));
        let ran = program.run(&sent.ip());
        lost += ran.counted.get("tc_event_lost").copied().unwrap_or(0);
    }
    assert!(lost > 0, "a full ring was not noticed");
}

/// Whoever has forgotten the connection must not open another one to a SYN: nobody would judge its hello.
#[rstest]
fn syn_of_a_flow_that_lives_asks_whether_it_does(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(SYN, SYN | FIN, SYN | RST, SYN | 0xc0)] flags: u8,
) {
    let program = Program::load(family);
    let sides = program.sides;
    let syn = Segment {
        flags,
        seq: 0x1234_5678,
        ack: 0,
        payload: Vec::new(),
        ..sides.client_sends()
    };
    let before = [sides.up(), sides.down()].map(|key| program.flow(&key));
    let ran = program.run(&syn.ip());
    let asked = Segment {
        flags: ACK,
        seq: CLIENT_AT.wrapping_sub(1),
        ack: sides.client_sends().ack,
        ..syn
    };
    let mut question = sides.endpoint_gets(&asked);
    question.window = asked.window >> 1;
    ran.assert_sent(&question.ip(), &[Counter::TcRedirected]);
    let after = [sides.up(), sides.down()].map(|key| program.flow(&key));
    assert_eq!(after.map(|flow| Flow { seen: 0, ..flow }), before);
    // Its answer where nobody knows the connection.
    let refusal = Segment {
        flags: RST,
        seq: question.ack,
        ack: 0,
        ..sides.endpoint_sends()
    };
    assert_eq!(program.run(&refusal.ip()).verdict, REDIRECT);
    assert_eq!(program.flow(&sides.up()).closed, 3);
}

/// A FIN that its receiver has refused: an old one, or somebody else's.
#[test]
fn stream_that_goes_on_has_not_ended() {
    let program = Program::load(Family::V4);
    let sides = program.sides;
    let run = |sent: &Segment| assert_eq!(program.run(&sent.ip()).verdict, REDIRECT);
    let mut sent = Segment {
        flags: FIN | ACK,
        ..sides.client_sends()
    };
    run(&sent);
    assert_eq!(program.flow(&sides.down()).peer, peer::FIN);
    let mut back = Segment {
        flags: FIN | ACK,
        ..sides.endpoint_sends()
    };
    back.ack = back.ack.wrapping_add(1);
    run(&back);
    let both = own::FIN | own::ACKED_FIN;
    assert_eq!(program.flow(&sides.down()).own, both);

    sent.flags = ACK;
    sent.payload = vec![0x3c; 100];
    run(&sent);
    let up = program.flow(&sides.up());
    assert_eq!((up.own, up.bytes()), (0, 100));
    assert_eq!(program.flow(&sides.down()).peer, 0);
    // The endpoint's FIN is acknowledged, and the client's stream goes on.
    sent.ack = sent.ack.wrapping_add(1);
    sent.seq = sent.seq.wrapping_add(100);
    run(&sent);
    let up = program.flow(&sides.up());
    assert_eq!((up.own, up.closed, up.bytes()), (own::ACKED_FIN, 0, 200));
}
