//! What is taken of connections that are being opened without sockets. A client's first packet needs a request
//! of the stack's, which a packet that is fed in has none of: `opening.rs` has those.

use aya::maps::RingBuf;
use rstest::rstest;
use rustix::time::{ClockId, clock_gettime};
use sni_router_common::handshake::{Seen, millis, seen};
use sni_router_common::taken::{Taken, kind};
use sni_router_tests::packet::{ACK, FIN, RST, SYN};
use sni_router_tests::topology::Family;
use zerocopy::FromBytes as _;

use super::handshakes::{ISN, Memory};
use super::*;

/// A place in memory where the daemon, or an earlier packet, has put flags.
pub(super) struct Flagged {
    pub(super) memory: Memory,
    ring: RingBuf<MapData>,
}

impl Flagged {
    pub(super) fn new(family: Family) -> Self {
        let mut memory = Memory::with_secret(family);
        let ring = memory.program.ebpf.take_map(names::MAP_TAKEN);
        let ring = RingBuf::try_from(ring.expect("the map")).expect("a ring");
        Self { memory, ring }
    }

    /// Has the sender of `segment` have sent a SYN `age` ms ago, and then everything before it.
    pub(super) fn flag(&mut self, segment: &Segment, flags: u32, age: u32) {
        let now = clock_gettime(ClockId::Monotonic);
        let now = millis(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64);
        self.memory.put(
            segment,
            &Seen {
                isn: ISN,
                end: ISN.wrapping_add(1),
                ack: 0,
                tsval: 0,
                tsecr: 0,
                ifindex: 1,
                flags,
                since: now.wrapping_sub(age),
            },
        );
    }

    /// What is in the ring, with its payload.
    fn taken(&mut self) -> Vec<(Taken, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(item) = self.ring.next() {
            let (taken, payload) = Taken::read_from_prefix(&item).expect("a packet");
            all.push((taken, payload[..taken.len.into()].to_vec()));
        }
        all
    }

    #[track_caller]
    fn run(&self, segment: &Segment) -> Ran {
        self.memory.program.run(&segment.ip())
    }

    #[track_caller]
    fn pass(&self, segment: &Segment) {
        let packet = segment.ip();
        self.run(segment).assert_passed(&packet, None);
    }

    /// What an endpoint answers to a SYN whose number is [`ISN`].
    fn answer(&self, flags: u8) -> Segment {
        let sides = self.memory.program.sides;
        Segment {
            seq: 77,
            ack: ISN.wrapping_add(1),
            flags,
            options: [
                2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 9,
            ]
            .to_vec(),
            ..Segment::new(sides.endpoint, sides.source)
        }
    }

    /// What a client says next.
    fn next(&self, payload: usize) -> Segment {
        Segment {
            seq: ISN.wrapping_add(1),
            flags: ACK,
            payload: (0..payload).map(|at| at as u8).collect(),
            ..self.memory.syn(40_000)
        }
    }
}

#[rstest]
fn answer_that_is_waited_for_is_taken_once(#[values(Family::V4, Family::V6)] family: Family) {
    let mut flagged = Flagged::new(family);
    for (flags, expected) in [(SYN | ACK, kind::ANSWER), (RST | ACK, kind::REFUSAL)] {
        let answer = flagged.answer(flags);
        flagged.flag(&answer, seen::AWAITED, 10);
        flagged.run(&answer).assert_dropped(Counter::TcTaken);
        let [(taken, _)] = flagged.taken().try_into().expect("one packet");
        assert_eq!(
            (taken.kind, taken.seq, taken.ack),
            (expected, 77, ISN.wrapping_add(1))
        );
        assert_eq!(taken.key, key(answer.src, answer.dst));
        if flags & SYN != 0 {
            let agreed = seen::TIMESTAMPS | seen::SACK | seen::scaled(9) | seen::segments(1460);
            assert_eq!(taken.flags & !seen::AWAITED, agreed);
            assert_eq!((taken.tsval, taken.tsecr), (1, 2));
        }
        flagged.run(&answer).assert_dropped(Counter::TcEarly);
        assert_eq!(flagged.taken(), []);
    }
}

/// Of an older connection from the same port, or somebody's who does not know the number.
#[test]
fn other_packets_of_an_endpoint_are_the_stacks() {
    let mut flagged = Flagged::new(Family::V4);
    let answer = flagged.answer(SYN | ACK);
    let others = [
        Segment {
            ack: ISN,
            ..answer.clone()
        },
        Segment {
            flags: ACK,
            ..answer.clone()
        },
        Segment {
            flags: RST,
            ack: 0,
            ..answer.clone()
        },
        Segment {
            flags: SYN | ACK,
            payload: vec![1; 10],
            ..answer.clone()
        },
        Segment {
            flags: FIN | ACK,
            ..answer.clone()
        },
    ];
    for other in &others {
        flagged.flag(&answer, seen::AWAITED, 10);
        flagged.pass(other);
        assert_eq!(flagged.taken(), [], "{other:?}");
    }
    flagged.flag(&answer, seen::AWAITED, 10);
    let mut damaged = answer.ip();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    flagged
        .memory
        .program
        .run(&damaged)
        .assert_passed(&damaged, None);
    assert_eq!(flagged.taken(), []);
}

#[rstest]
fn client_that_was_taken_goes_on_in_order(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(1, 100, 3_000)] payload: usize,
) {
    let mut flagged = Flagged::new(family);
    let next = flagged.next(payload);
    flagged.flag(&next, seen::TAKEN, 10);
    flagged.run(&next).assert_dropped(Counter::TcTaken);
    let [(taken, bytes)] = flagged.taken().try_into().expect("one packet");
    assert_eq!((taken.kind, taken.seq), (kind::NEXT, next.seq));
    assert_eq!(bytes, next.payload);
    // Again, and what is behind a gap.
    flagged.run(&next).assert_dropped(Counter::TcEarly);
    let end = next.seq.wrapping_add(payload as u32);
    let later = Segment {
        seq: end.wrapping_add(5),
        ..next.clone()
    };
    flagged.run(&later).assert_dropped(Counter::TcEarly);
    assert_eq!(flagged.taken(), []);
    let behind = Segment { seq: end, ..next };
    flagged.run(&behind).assert_dropped(Counter::TcTaken);
    assert_eq!(flagged.taken().len(), 1);
}

#[test]
fn what_is_of_no_use_waits_until_the_connection_is_open() {
    let mut flagged = Flagged::new(Family::V4);
    let next = flagged.next(0);
    flagged.flag(&next, seen::TAKEN, 10);
    for packet in [
        next.clone(),
        Segment {
            flags: FIN | ACK,
            ..next.clone()
        },
        // The SYN, once more.
        Segment {
            seq: ISN,
            flags: SYN,
            ..next.clone()
        },
    ] {
        flagged.run(&packet).assert_dropped(Counter::TcEarly);
    }
    assert_eq!(flagged.taken(), []);
    let memory = flagged.memory.seen(&next).expect("it is there");
    assert_eq!(memory.flags, seen::TAKEN);
    // Somebody's who does not know the number, or who says more.
    for forged in [
        Segment {
            seq: next.seq.wrapping_add(1),
            flags: RST,
            ..next.clone()
        },
        Segment {
            flags: RST,
            payload: vec![0; 9],
            ..next.clone()
        },
    ] {
        flagged.run(&forged).assert_dropped(Counter::TcEarly);
        let memory = flagged.memory.seen(&next).expect("it is there");
        assert_eq!((memory.flags, memory.end), (seen::TAKEN, next.seq));
    }
    // That it has gone is noted.
    let reset = Segment {
        flags: RST,
        ..next.clone()
    };
    flagged.run(&reset).assert_dropped(Counter::TcEarly);
    let memory = flagged.memory.seen(&next).expect("it is there");
    assert_eq!(memory.flags, seen::TAKEN | seen::RST | seen::TIMESTAMPS);
}

#[test]
fn new_connection_or_one_that_nobody_serves_is_the_stacks() {
    let mut flagged = Flagged::new(Family::V4);
    let next = flagged.next(100);
    flagged.flag(&next, seen::TAKEN, 3_100);
    flagged.pass(&next);
    flagged.flag(&next, seen::TAKEN, 10);
    let again = Segment {
        seq: 5,
        flags: SYN,
        payload: Vec::new(),
        ..next.clone()
    };
    // It may be anybody's, unless the client has reset the connection before.
    flagged.run(&again).assert_dropped(Counter::TcEarly);
    flagged.flag(&next, seen::TAKEN | seen::RST, 10);
    flagged.pass(&again);
    let memory = flagged.memory.seen(&next).expect("it is there");
    assert_eq!((memory.isn, memory.flags & seen::TAKEN), (5, 0));
    assert_eq!(flagged.taken(), []);
}

/// Nor does the daemon stop waiting for an answer, whoever sends a SYN with the endpoint's address.
#[test]
fn foreign_syn_does_not_end_the_wait_for_an_answer() {
    let mut flagged = Flagged::new(Family::V4);
    let answer = flagged.answer(SYN | ACK);
    for (flags, ack) in [(SYN, 0), (SYN | ACK, ISN)] {
        flagged.flag(&answer, seen::AWAITED, 10);
        flagged.pass(&Segment {
            seq: 5,
            flags,
            ack,
            ..answer.clone()
        });
        flagged.run(&answer).assert_dropped(Counter::TcTaken);
        assert_eq!(flagged.taken().len(), 1);
        // Nobody waits any more.
        flagged.flag(&answer, seen::AWAITED, 3_100);
        flagged.pass(&Segment {
            seq: 5,
            flags,
            ack,
            ..answer.clone()
        });
        let memory = flagged.memory.seen(&answer).expect("it is there");
        assert_eq!((memory.isn, memory.flags & seen::AWAITED), (5, 0));
    }
}

/// Without a request of the stack's, whatever the daemon wants.
#[test]
fn first_packet_that_the_stack_does_not_wait_for_is_not_taken() {
    let mut flagged = Flagged::new(Family::V4);
    let agreed = seen::TIMESTAMPS | seen::SACK | seen::scaled(7);
    let next = flagged.next(100);
    flagged.flag(&next, agreed, 10);
    flagged.pass(&next);
    assert_eq!(flagged.taken(), []);
}
