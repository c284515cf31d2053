//! ICMP errors that others have made about a flow's packets.

use rstest::rstest;
use sni_router_common::counter::Counter;
use sni_router_common::flow::own;
use sni_router_tests::packet::{Segment, icmp};
use sni_router_tests::topology::Family;

use super::*;

/// Types and codes.
fn kinds(family: Family) -> [[u8; 2]; 4] {
    match family {
        Family::V4 => [[3, 0], [3, 4], [11, 0], [12, 0]],
        Family::V6 => [[1, 0], [2, 0], [3, 0], [4, 1]],
    }
}

/// The rest of the ICMP header: a next hop's MTU.
const WORD: u32 = 1300;

/// Bytes of an IP header.
fn header(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// A router on the way to the endpoint.
fn reporter(family: Family) -> IpAddr {
    match family {
        Family::V4 => "203.0.113.77".parse().expect("an address"),
        Family::V6 => "2001:db8:77::1".parse().expect("an address"),
    }
}

/// A packet of the client, of 1,000 bytes, that the flow has passed on.
fn sent(sides: Sides) -> Segment {
    Segment {
        options: vec![1; 4],
        payload: vec![0x5a; 1000],
        ..sides.client_sends()
    }
}

/// The start of a packet, as errors quote it.
fn cut(packet: &[u8], family: Family, tcp: usize) -> Vec<u8> {
    packet[..(header(family) + tcp).min(packet.len())].to_vec()
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn error_about_a_packet_reaches_its_sender_in_the_senders_own_words(#[case] family: Family) {
    let program = Program::load(family);
    let sides = program.sides;
    let sent = sent(sides);
    program.run(&sent.ip());
    let on_the_way = Segment {
        window: sent.window,
        ..sides.endpoint_gets(&sent)
    };
    // As the client sent it, one hop older.
    let own = Segment {
        ttl: sent.ttl - 1,
        ..sent
    };
    for kind in kinds(family) {
        for quoted in [8, 9, 19, 20, 24, 500, 2000] {
            let theirs = cut(&on_the_way.ip(), family, quoted);
            let mut ours = cut(&own.ip(), family, quoted);
            // A header that is not all there is turned back as far as every error quotes it.
            if quoted < 20 {
                let start = header(family) + 8;
                ours.truncate(start);
                ours.extend(&theirs[start..]);
            }
            let router = reporter(family);
            let came = icmp(router, sides.source.ip(), 60, kind, WORD, &theirs);
            let expected = icmp(sides.vip.ip(), sides.client.ip(), 59, kind, WORD, &ours);
            let ran = program.run(&came);
            ran.assert_sent(&expected, &[Counter::TcTranslated]);
        }
    }
}

#[rstest]
#[case::v4(Family::V4, [3, 1])]
#[case::v6(Family::V6, [1, 3])]
fn error_about_a_packet_of_the_endpoint_goes_to_the_endpoint(
    #[case] family: Family,
    #[case] kind: [u8; 2],
) {
    let program = Program::load(family);
    let sides = program.sides;
    let sent = sides.endpoint_sends();
    let on_the_way = Segment {
        window: sent.window,
        ..sides.client_gets(&sent)
    };
    let own = Segment {
        ttl: sent.ttl - 1,
        ..sent
    };
    let came = icmp(
        reporter(family),
        sides.vip.ip(),
        9,
        kind,
        0,
        &on_the_way.ip(),
    );
    let expected = icmp(
        sides.source.ip(),
        sides.endpoint.ip(),
        8,
        kind,
        0,
        &own.ip(),
    );
    let ran = program.run(&came);
    ran.assert_sent(&expected, &[Counter::TcTranslated]);
}

#[rstest]
#[case::v4(Family::V4, [3, 4])]
#[case::v6(Family::V6, [2, 0])]
fn error_about_a_packet_that_cannot_be_under_way_is_not_passed_on(
    #[case] family: Family,
    #[case] kind: [u8; 2],
) {
    let program = Program::load(family);
    let sides = program.sides;
    let sent = sent(sides);
    program.run(&sent.ip());
    let forged = |seq: u32| {
        let packet = Segment {
            seq,
            ..sides.endpoint_gets(&sent)
        };
        let quoted = cut(&packet.ip(), family, 8);
        icmp(reporter(family), sides.source.ip(), 60, kind, WORD, &quoted)
    };
    let acknowledged = CLIENT_AT.wrapping_add(UP_SEQ);
    let end = acknowledged.wrapping_add(1000);
    for seq in [
        end.wrapping_add(1),
        acknowledged.wrapping_sub(1 << 17),
        end.wrapping_add(1 << 30),
    ] {
        let forged = forged(seq);
        program
            .run(&forged)
            .assert_passed(&forged, Some(Counter::TcUnbelieved));
    }
    for seq in [end, acknowledged] {
        let ran = program.run(&forged(seq));
        ran.assert_counted([Counter::TcTranslated]);
    }
}

#[test]
fn error_about_a_packet_of_the_routers_own_socket_is_for_that_socket() {
    let mut program = Program::load(Family::V4);
    let sides = program.sides;
    let held = Flow {
        own: own::HELD,
        since_or_held: CLIENT_AT.wrapping_add(UP_SEQ),
        ack: CLIENT_AT.wrapping_add(UP_SEQ).wrapping_sub(500),
        ..down(sides)
    };
    program.insert(&up(sides), &held);
    let mut packet = sides.endpoint_gets(&sides.client_sends());
    packet.seq = packet.seq.wrapping_sub(1);
    let error = |packet: &Segment| {
        icmp(
            reporter(Family::V4),
            sides.source.ip(),
            60,
            [3, 4],
            WORD,
            &packet.ip(),
        )
    };
    let own = error(&packet);
    program.run(&own).assert_passed(&own, Some(Counter::TcHeld));
    packet.seq = packet.seq.wrapping_add(1);
    program
        .run(&error(&packet))
        .assert_counted([Counter::TcTranslated]);
}

#[rstest]
#[case::v4(Family::V4, [3, 4])]
#[case::v6(Family::V6, [2, 0])]
fn error_that_has_come_too_far_ends_here(#[case] family: Family, #[case] kind: [u8; 2]) {
    let program = Program::load(family);
    let sides = program.sides;
    let packet = sides.endpoint_gets(&sides.client_sends()).ip();
    let error = icmp(reporter(family), sides.source.ip(), 1, kind, WORD, &packet);
    program.run(&error).assert_dropped(Counter::TcTtlExceeded);
}

#[rstest]
#[case::v4(Family::V4, [[3, 4], [0, 0], [5, 1], [8, 0]])]
#[case::v6(Family::V6, [[2, 0], [128, 0], [129, 0], [137, 0]])]
fn other_icmp_is_the_stacks(#[case] family: Family, #[case] kinds: [[u8; 2]; 4]) {
    let mut program = Program::load(family);
    let sides = program.sides;
    let packet = sides.endpoint_gets(&sides.client_sends()).ip();
    let message = |kind| icmp(reporter(family), sides.source.ip(), 60, kind, WORD, &packet);
    for kind in &kinds[1..] {
        let message = message(*kind);
        program.run(&message).assert_passed(&message, None);
    }
    program.remove();
    let error = message(kinds[0]);
    program.run(&error).assert_passed(&error, None);
}
