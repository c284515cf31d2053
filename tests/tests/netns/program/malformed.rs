//! Packets that nobody in their right mind sends. The program must not change what it does not send
//! on, and send nothing on that is not of the flow.

use rstest::rstest;
use sni_router_tests::packet::{Segment, icmp, seal};
use sni_router_tests::topology::Family;

use super::*;

/// Of every kind that the program looks into.
fn packets(sides: Sides) -> Vec<Vec<u8>> {
    let sent = Segment {
        options: [
            &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2][..],
            &[1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4],
            &[1, 1, 1, 0],
        ]
        .concat(),
        payload: vec![9; 40],
        ..sides.client_sends()
    };
    let kind = if sides.vip.is_ipv4() { [3, 4] } else { [2, 0] };
    let about = sides.endpoint_gets(&sent).ip();
    let error = icmp(
        sides.endpoint.ip(),
        sides.source.ip(),
        64,
        kind,
        1300,
        &about,
    );
    vec![sent.ip(), error]
}

/// Checks what holds for every packet.
#[track_caller]
fn check(program: &Program, packet: &[u8], what: &str) -> Ran {
    let ran = program.run(packet);
    match ran.verdict {
        UNSPEC => assert!(ran.packet == ether(packet), "{what}: changed and passed"),
        SHOT => assert!(!ran.counted.is_empty(), "{what}: dropped, not counted"),
        REDIRECT => {
            let sent: u64 = ["tc_redirected", "tc_translated", "tc_answered"]
                .iter()
                .filter_map(|&name| ran.counted.get(name))
                .sum();
            assert_eq!(sent, 1, "{what}: {:?}", ran.counted);
        }
        other => panic!("{what}: {other}"),
    }
    ran
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn truncated_packet_is_not_sent_on(#[case] family: Family) {
    let program = Program::load(family);
    for whole in packets(program.sides) {
        // The kernel feeds no program with less than an IP header.
        let least = if family == Family::V4 { 20 } else { 40 };
        for len in least..whole.len() {
            let ran = check(&program, &whole[..len], &format!("{len} bytes"));
            // What an error quotes may end anywhere behind the ports; its header says how long it
            // is, though.
            assert_ne!(ran.verdict, REDIRECT, "{len} bytes of {}", whole.len());
        }
        let ran = check(&program, &whole, "all of it");
        assert_eq!(ran.verdict, REDIRECT);
        // The link layer may pad.
        let padded = [&whole[..], &[0; 9]].concat();
        let ran = check(&program, &padded, "padded");
        assert_eq!(ran.verdict, REDIRECT);
    }
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn any_bytes_in_headers_do_no_harm(#[case] family: Family, #[values(true, false)] has_flow: bool) {
    let mut program = Program::load(family);
    if !has_flow {
        program.remove();
    }
    let sides = program.sides;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut verdicts = BTreeMap::new();
    for round in 0..ROUNDS {
        for whole in packets(sides) {
            if has_flow {
                // A packet that got through may have closed it.
                program.insert(&up(sides), &down(sides));
            }
            let mut packet = whole.clone();
            let headers = packet.len().min(140);
            for _ in 0..=random.below(4) {
                packet[random.below(headers)] = random.below(256) as u8;
            }
            // Half of them with a right checksum, so that it does not matter.
            if round % 2 == 0 && family == Family::V4 {
                seal(&mut packet[..20]);
            }
            let what = format!("round {round}: {packet:02x?}");
            let ran = check(&program, &packet, &what);
            if !has_flow {
                assert_eq!(ran.verdict, UNSPEC, "{what}");
            }
            *verdicts.entry(ran.verdict).or_insert(0) += 1;
        }
    }
    // Or the changes were too many to show anything.
    let expected = if has_flow { 3 } else { 1 };
    assert_eq!(verdicts.len(), expected, "{verdicts:?}");
}

const ROUNDS: usize = 5000;

/// xorshift64: the same packets each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }
}
