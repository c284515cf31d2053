//! What is remembered of handshakes.

use std::sync::atomic::Ordering;

use aya::maps::Map;
use rstest::rstest;
use rustix::param::page_size;
use sni_router_common::handshake::{self, Seen, Slot, Tag, WAYS, seen, word};
use sni_router_tests::packet::{ACK, FIN, SYN};
use sni_router_tests::topology::Family;

use super::ecn::with_ae;
use super::shared::SharedArray;
use super::*;

const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
pub(super) const ISN: u32 = 0xffff_ffc0;

/// Two NOPs, and a timestamps option with TSval 1 and TSecr 2 in the last byte each.
const CLOCKS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

/// The program and its memory of handshakes, and no flow.
pub(super) struct Memory {
    pub(super) program: Program,
    slots: Array<MapData, Slot>,
    /// The same.
    shared: SharedArray,
}

impl Memory {
    fn new(family: Family) -> Self {
        let mut program = Program::load(family);
        program.remove();
        let slots = program.ebpf.take_map(names::MAP_SEEN).expect("the map");
        let Map::Array(slots) = slots else {
            panic!("no array");
        };
        let bytes = handshake::ENTRIES as usize * size_of::<Slot>();
        let shared = SharedArray::map(slots.fd(), bytes.next_multiple_of(page_size()));
        Self {
            program,
            slots: Array::try_from(Map::Array(slots)).expect("an array"),
            shared: shared.expect("map the array"),
        }
    }

    /// What the daemon does first.
    pub(super) fn with_secret(family: Family) -> Self {
        let mut memory = Self::new(family);
        let mut slot = Slot::default();
        slot[..2].copy_from_slice(&SECRET);
        memory.slots.set(0, slot, 0).expect("set the secret");
        memory
    }

    /// A client's SYN from this port.
    pub(super) fn syn(&self, port: u16) -> Segment {
        let client = SocketAddr::new(self.program.sides.client.ip(), port);
        Segment {
            seq: ISN,
            flags: SYN,
            options: CLOCKS.to_vec(),
            ..Segment::new(client, self.program.sides.vip)
        }
    }

    /// The packet goes to the stack, as it was.
    #[track_caller]
    fn pass(&self, segment: &Segment) {
        let packet = segment.ip();
        self.program.run(&packet).assert_passed(&packet, None);
    }

    pub(super) fn seen(&self, segment: &Segment) -> Option<Seen> {
        let tag = tag(segment);
        self.set(tag).iter().find_map(|slot| Seen::read(tag, slot))
    }
}

impl Memory {
    /// Remembers this of the sender of a packet.
    pub(super) fn put(&mut self, segment: &Segment, seen: &Seen) {
        let tag = tag(segment);
        self.slots
            .set(tag.first(), seen.slot(tag), 0)
            .expect("set a slot");
    }

    /// Forgets what was [put](Self::put), as the daemon does.
    pub(super) fn forget(&self, segment: &Segment) {
        let slot = tag(segment).first() as usize * size_of::<Slot>();
        for index in [word::ISN, word::END] {
            let word = self.shared.word(slot + index * size_of::<u64>());
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The slots in which a key can be.
    fn set(&self, tag: Tag) -> [Slot; WAYS] {
        let slot = |way| self.slots.get(&(tag.first() + way as u32), 0);
        std::array::from_fn(|way| slot(way).expect("a slot"))
    }
}

fn tag(segment: &Segment) -> Tag {
    Tag::of(&key(segment.src, segment.dst), SECRET)
}

#[rstest]
fn handshake_and_what_follows_are_remembered(#[values(Family::V4, Family::V6)] family: Family) {
    let memory = Memory::with_secret(family);
    let syn = memory.syn(40_000);
    memory.pass(&Segment {
        flags: ACK,
        ..syn.clone()
    });
    assert_eq!(memory.seen(&syn), None, "no SYN yet");
    memory.pass(&syn);
    let first = memory.seen(&syn).expect("it is remembered");
    assert_eq!((first.isn, first.end), (ISN, ISN + 1));
    assert_eq!(
        (first.tsval, first.tsecr, first.flags),
        (1, 2, seen::TIMESTAMPS)
    );

    let hello = Segment {
        seq: ISN + 1,
        ack: 77,
        flags: ACK,
        payload: vec![0x16; 100],
        options: Vec::new(),
        ..syn.clone()
    };
    memory.pass(&hello);
    let second = memory.seen(&syn).expect("it is still there");
    let end = hello.seq.wrapping_add(100);
    assert_eq!((second.isn, second.end, second.ack), (ISN, end, 77));
    assert_eq!((second.since, second.flags), (first.since, seen::PASSED));
    // An old SYN, and an old packet, take nothing back.
    memory.pass(&syn);
    assert_eq!(memory.seen(&syn), Some(second));
    memory.pass(&Segment {
        payload: vec![0x16; 50],
        ..hello.clone()
    });
    assert_eq!(memory.seen(&syn), Some(second));
    memory.pass(&Segment {
        seq: end,
        flags: FIN | ACK,
        payload: Vec::new(),
        ..hello
    });
    let third = memory.seen(&syn).expect("it is still there");
    let expected = (end.wrapping_add(1), seen::PASSED | seen::FIN);
    assert_eq!((third.end, third.flags), expected);
    // Another connection from the same port.
    let again = Segment {
        seq: 5,
        ..syn.clone()
    };
    memory.pass(&again);
    let again = memory.seen(&syn).expect("it is remembered");
    assert_eq!((again.isn, again.end, again.ack), (5, 6, 0));
}

#[test]
fn nothing_is_remembered_without_a_secret() {
    let memory = Memory::new(Family::V4);
    let syn = memory.syn(40_000);
    memory.pass(&syn);
    let is_empty = |tag| memory.set(tag) == [Slot::default(); WAYS];
    // Where it would be: with any secret that nobody has put in.
    assert!(is_empty(Tag::of(&key(syn.src, syn.dst), [0; 2])));
    assert!(is_empty(tag(&syn)));
}

#[test]
fn oldest_of_a_set_makes_room() {
    let memory = Memory::with_secret(Family::V4);
    let from = |host| {
        let syn = memory.syn(0);
        let ports = 1..=u16::MAX;
        ports.map(move |port| Segment {
            src: SocketAddr::from(([192, 0, 2, host], port)),
            ..syn.clone()
        })
    };
    let set = tag(&memory.syn(1)).first();
    // Of the ports of an address, four fall into a set on average.
    let met: Vec<_> = (1..=u8::MAX)
        .flat_map(from)
        .filter(|syn| tag(syn).first() == set)
        .take(WAYS + 2)
        .collect();
    assert_eq!(met.len(), WAYS + 2);
    for (count, syn) in met.iter().enumerate() {
        // The clock of ages is one of milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(3));
        memory.pass(syn);
        let there: Vec<_> = met.iter().map(|syn| memory.seen(syn).is_some()).collect();
        let oldest = (count + 1).saturating_sub(WAYS);
        let expected: Vec<_> = (0..met.len())
            .map(|at| (oldest..=count).contains(&at))
            .collect();
        assert_eq!(there, expected, "after {}", count + 1);
    }
}

/// However many SYNs come: the stack would reset it.
#[test]
fn connection_that_is_being_opened_keeps_its_place() {
    let mut memory = Memory::with_secret(Family::V4);
    let now = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        sni_router_common::handshake::millis(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    };
    let opening = memory.syn(40_000);
    let set = tag(&opening).first();
    let from = |host| {
        let syn = memory.syn(0);
        (1..=u16::MAX).map(move |port| Segment {
            src: SocketAddr::from(([192, 0, 2, host], port)),
            ..syn.clone()
        })
    };
    let others: Vec<_> = (2..=u8::MAX)
        .flat_map(from)
        .filter(|syn| tag(syn).first() == set)
        .take(3 * WAYS)
        .collect();
    for (age, flags, stays) in [
        (2_000, seen::TAKEN, true),
        (2_000, seen::AWAITED, true),
        (2_000, seen::TIMESTAMPS, false),
        (4_000, seen::TAKEN, false),
    ] {
        let seen = Seen {
            isn: ISN,
            end: ISN + 1,
            ack: 0,
            tsval: 0,
            tsecr: 0,
            ifindex: 1,
            flags,
            since: now().wrapping_sub(age),
        };
        memory.put(&opening, &seen);
        for syn in &others {
            memory.pass(syn);
        }
        assert_eq!(memory.seen(&opening).is_some(), stays, "{flags} {age}");
    }
}

/// By RFC 9768: who answers a SYN with CWR or AE counts marks, and so does whose counter is there. A SYN
/// only asks for it.
#[test]
fn who_counts_marks_is_known_by_its_answer_and_its_counter() {
    let memory = Memory::with_secret(Family::V4);
    let all = [SYN, SYN | ACK, ACK].into_iter().flat_map(|flags| {
        let marks = [0, ECE, CWR, ECE | CWR].into_iter();
        marks.map(move |marks| (flags, marks))
    });
    for (port, (flags, marks)) in (40_000..).zip(all) {
        let syn = memory.syn(port);
        memory.pass(&syn);
        memory.pass(&Segment {
            seq: syn.seq.wrapping_add(u32::from(flags & SYN == 0)),
            flags: flags | marks,
            ..syn.clone()
        });
        let seen = memory.seen(&syn).expect("it is remembered");
        let is_answer = flags == SYN | ACK && marks & CWR != 0;
        assert_eq!(seen.flags & seen::COUNTS_MARKS != 0, is_answer, "{seen:?}");
    }
}

#[test]
fn counter_of_marks_is_known_by_its_highest_bit() {
    let memory = Memory::with_secret(Family::V4);
    let syn = memory.syn(40_000);
    let pass = |packet: Vec<u8>| memory.program.run(&packet).assert_passed(&packet, None);
    pass(with_ae(syn.ip()));
    let counts = || memory.seen(&syn).expect("it is remembered").flags & seen::COUNTS_MARKS;
    assert_eq!(counts(), 0, "it only asks");
    let next = Segment {
        seq: ISN + 1,
        flags: ACK,
        ..syn.clone()
    };
    pass(with_ae(next.ip()));
    assert_eq!(counts(), seen::COUNTS_MARKS);
    // Three marks later it has wrapped to 0.
    pass(next.ip());
    assert_eq!(counts(), seen::COUNTS_MARKS);
}

const ECE: u8 = 64;
const CWR: u8 = 128;
