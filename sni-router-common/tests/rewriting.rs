//! Properties of the rewriting: there and back is the identity, checksums are always right, and
//! nothing but what must change does.

mod support;

use proptest::prelude::*;
use sni_router_common::flow::{Flow, option};
use sni_router_common::handshake::seen;
use sni_router_common::options::{Facts, MAX_OPTIONS, Options};
use sni_router_common::rewrite::{
    self, Replaced, Timestamps, apply, edges, fold32, is_marked_v6, no_ecn_v6, replaced,
    timestamps, window,
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::support::{Packet, flow, packet, sum, undoing};

/// A flow that loses nothing: windows are not scaled, SACK blocks and ECN stay.
fn faithful() -> impl Strategy<Value = Flow> {
    flow().prop_map(|flow| Flow {
        shift: 0,
        options: flow.options & !(option::NO_SACK | option::NO_ECN),
        ..flow
    })
}

/// What options say, as one would read who has all the bytes.
fn read(bytes: &[u8]) -> Facts {
    let mut facts = Facts::default();
    let mut rest = bytes;
    while let Some((&kind, behind)) = rest.split_first() {
        if kind == 0 {
            break;
        }
        if kind == 1 {
            rest = behind;
            continue;
        }
        let size = behind.first().map_or(0, |&size| usize::from(size));
        let Some((one, behind)) = rest.split_at_checked(size).filter(|_| size >= 2) else {
            break;
        };
        match (kind, &one[2..]) {
            (2, &[high, low]) => facts.flags |= seen::segments(u16::from_be_bytes([high, low])),
            (3, &[bits]) => facts.flags |= seen::scaled(bits),
            (4, []) => facts.flags |= seen::SACK,
            (8, &[a, b, c, d, e, f, g, h]) => {
                facts.flags |= seen::TIMESTAMPS;
                facts.tsval = u32::from_be_bytes([a, b, c, d]);
                facts.tsecr = u32::from_be_bytes([e, f, g, h]);
            }
            (19 | 29, _) => facts.flags |= seen::SIGNED,
            _ => {}
        }
        rest = behind;
    }
    facts
}

/// What an option of the walker's becomes: the same, written as one would who has all the bytes.
fn naive(bytes: &[u8], flow: &Flow) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let add = |out: &mut [u8], at: usize, by: u32| {
        if let Some(field) = out.get_mut(at..at + 4) {
            let value = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            field.copy_from_slice(&value.wrapping_add(by).to_be_bytes());
        }
    };
    let mut at = 0;
    while let Some(&kind) = bytes.get(at) {
        if kind == 0 {
            break;
        }
        if kind == 1 {
            at += 1;
            continue;
        }
        let Some(&size) = bytes.get(at + 1) else {
            break;
        };
        let end = at + usize::from(size);
        if size < 2 || end > bytes.len() {
            break;
        }
        match kind {
            8 if size == 10 && flow.options & option::TIMESTAMPS != 0 => {
                add(&mut out, at + 2, flow.ts_add);
                add(&mut out, at + 6, flow.ecr_add);
            }
            5 if flow.options & option::NO_SACK != 0 => out[at..end].fill(1),
            5 if (end - at) % 8 == 2 => {
                for edge in (at + 2..end).step_by(4) {
                    add(&mut out, edge, flow.ack_add);
                }
            }
            _ => {}
        }
        at = end;
    }
    out
}

/// What a packet is but for what rewriting is about.
fn untouched(packet: &Packet) -> Packet {
    let mut rest = packet.clone();
    if packet.is_v6() {
        rest.ip[7..40].fill(0);
    } else {
        rest.ip[8] = 0;
        rest.ip[10..20].fill(0);
    }
    // Ports, positions, window, checksum, options.
    rest.tcp[..12].fill(0);
    rest.tcp[14..18].fill(0);
    let header = packet.header();
    rest.tcp[20..header].fill(0);
    rest
}

/// As in include/net/checksum.h.
fn csum_add(sum: u32, more: u32) -> u32 {
    let (sum, has_carry) = sum.overflowing_add(more);
    sum + u32::from(has_carry)
}

/// As in include/asm-generic/checksum.h.
fn csum_fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}

#[test]
fn blanking_comes_to_the_last_byte_however_many_options_there_are() {
    let flow = Flow {
        options: option::NO_SACK,
        ..Flow::new_zeroed()
    };
    for size in [2, 4, 5, 8, 10, 20, 40] {
        let mut bytes = [0; MAX_OPTIONS];
        bytes.chunks_mut(size).for_each(|option| {
            option[..2].copy_from_slice(&[5, size as u8]);
        });
        let mut options = Options::new(bytes, MAX_OPTIONS as u32);
        options.rewrite(&flow);
        assert_eq!(options.words.as_bytes(), [1; MAX_OPTIONS], "{size} each");
    }
}

#[test]
fn what_follows_a_damaged_sack_option_is_read_all_the_same() {
    let flow = Flow {
        ack_add: 1,
        ts_add: 1,
        ecr_add: 1,
        options: option::TIMESTAMPS,
        ..Flow::new_zeroed()
    };
    let mut bytes = [0; MAX_OPTIONS];
    // One byte more than an edge, which is no option's kind.
    bytes[..7].copy_from_slice(&[5, 7, 0, 0, 0, 0, 254]);
    bytes[7..17].copy_from_slice(&[8, 10, 0, 0, 0, 6, 0, 0, 0, 7]);
    let mut options = Options::new(bytes, 20);
    options.rewrite(&flow);
    let expected = [5, 7, 0, 0, 0, 0, 254, 8, 10, 0, 0, 0, 7, 0, 0, 0, 8];
    assert_eq!(options.words.as_bytes()[..17], expected);
}

proptest! {
    #[test]
    fn change_of_what_no_checksum_covers_is_that_of_the_bytes(header: [u32; 10]) {
        let mut without = header;
        let change = no_ecn_v6(&mut without);
        let was = u64::from(sum(header.as_bytes()).to_be());
        let is = u64::from(sum(without.as_bytes()).to_be());
        prop_assert_eq!(u64::from(fold32(change + was)) % 0xffff, is % 0xffff);
        prop_assert_eq!(without.as_bytes()[1] & 0x30, 0);
        prop_assert!(!is_marked_v6(&without));
    }

    #[test]
    fn there_and_back_is_the_identity(packet in packet(), flow in faithful()) {
        let mut rewritten = packet.clone();
        rewritten.rewrite(&flow);
        rewritten.rewrite(&undoing(&flow, &packet));
        let mut expected = packet;
        let ttl = if expected.is_v6() { 7 } else { 8 };
        expected.ip[ttl] -= 2;
        expected.seal();
        // A sum of zero has two forms.
        let at = 16..18;
        if expected.tcp[at.clone()] == [0, 0] || expected.tcp[at.clone()] == [0xff, 0xff] {
            rewritten.tcp[at.clone()].copy_from_slice(&expected.tcp[at]);
        }
        if !expected.is_v6() && rewritten.ip[10..12] == [0xff, 0xff] {
            rewritten.ip[10..12].fill(0);
        }
        prop_assert_eq!(rewritten, expected);
    }

    #[test]
    fn checksums_are_right(packet in packet(), flow in flow()) {
        let mut packet = packet;
        prop_assert!(packet.is_intact());
        packet.rewrite(&flow);
        prop_assert!(packet.is_intact());
    }

    #[test]
    fn wrong_checksum_stays_wrong(packet in packet(), flow in flow(), by in 1..0xffff_u16) {
        let mut packet = packet;
        let value = u16::from_be_bytes([packet.tcp[16], packet.tcp[17]]);
        // Not by 0xffff, which is zero, too.
        let wrong = value.checked_add(by).unwrap_or_else(|| value.wrapping_add(by) + 1);
        packet.tcp[16..18].copy_from_slice(&wrong.to_be_bytes());
        prop_assume!(!packet.is_intact());
        packet.rewrite(&flow);
        prop_assert!(!packet.is_intact());
    }

    #[test]
    fn what_a_checksum_is_shows_in_what_the_kernel_makes_of_it(
        before: u16,
        // Never nothing: what is taken out counts as its complement.
        change in prop_oneof![1..=u32::MAX, Just(0xffff), Just(u32::MAX)],
    ) {
        let whole = csum_fold(csum_add(change, !u32::from(before)));
        let partial = !csum_fold(csum_add(change, before.into()));
        let told = |after| replaced(before, after, change.into());
        prop_assert_eq!(rewrite::apply(before, change.into()), whole);
        prop_assert_eq!(rewrite::partial(before, change.into()), partial);
        if whole == partial {
            prop_assert_eq!(told(whole), Replaced::Either);
        } else {
            prop_assert_eq!(told(whole), Replaced::Whole);
            prop_assert_eq!(told(partial), Replaced::Partial);
        }
    }

    #[test]
    fn nothing_else_is_touched(packet in packet(), flow in flow()) {
        let mut rewritten = packet.clone();
        rewritten.rewrite(&flow);
        let mut packet = packet;
        if flow.options & option::NO_ECN != 0 {
            packet.clear_ecn();
        }
        prop_assert_eq!(untouched(&rewritten), untouched(&packet));
        let header = packet.header();
        prop_assert_eq!(&rewritten.tcp[header..], &packet.tcp[header..]);
    }

    #[test]
    fn options_are_walked_as_one_would(
        bytes in prop_oneof![support::options(), prop::collection::vec(any::<u8>(), 0..=MAX_OPTIONS)],
        flow in flow(),
    ) {
        let mut all = [0xaa; MAX_OPTIONS];
        all[..bytes.len()].copy_from_slice(&bytes);
        let mut options = Options::new(all, bytes.len() as u32);
        options.rewrite(&flow);
        let walked = options.words.as_bytes();
        prop_assert_eq!(&walked[..bytes.len()], &naive(&bytes, &flow)[..]);
        prop_assert_eq!(&walked[bytes.len()..], &all[bytes.len()..]);
    }

    #[test]
    fn any_bytes_can_be_read_as_options(bytes: [u8; MAX_OPTIONS], len in 0..=MAX_OPTIONS as u32) {
        let mut options = Options::new(bytes, len);
        options.read();
        prop_assert_eq!(options.words.as_bytes(), &bytes[..]);
    }

    #[test]
    fn options_are_read_as_one_would(
        bytes in prop_oneof![support::options(), support::of_a_syn()],
    ) {
        let mut all = [0xaa; MAX_OPTIONS];
        all[..bytes.len()].copy_from_slice(&bytes);
        let mut options = Options::new(all, bytes.len() as u32);
        options.read();
        let (facts, expected) = (options.facts(), read(&bytes));
        prop_assert_eq!(facts.flags, expected.flags);
        if facts.flags & seen::TIMESTAMPS != 0 {
            prop_assert_eq!(facts, expected);
        }
    }

    #[test]
    fn timestamps_where_they_mostly_are_become_what_the_walk_makes_of_them(
        values: Timestamps,
        flow in flow(),
    ) {
        let flow = Flow { options: option::TIMESTAMPS, ..flow };
        let mut bytes = [0; MAX_OPTIONS];
        bytes[..4].copy_from_slice(&[1, 1, 8, 10]);
        bytes[4..12].copy_from_slice(values.as_bytes());
        let mut options = Options::new(bytes, 12);
        options.rewrite(&flow);
        let mut fast = values;
        let change = timestamps(&mut fast, &flow);
        prop_assert_eq!(fast.as_bytes(), &options.words.as_bytes()[4..12]);
        // The change is that of the bytes.
        let was = u64::from(sum(values.as_bytes()).to_be());
        let is = u64::from(sum(fast.as_bytes()).to_be());
        prop_assert_eq!(u64::from(fold32(change + was)) % 0xffff, is % 0xffff);
    }

    #[test]
    fn sack_blocks_at_the_end_become_what_the_walk_makes_of_them(
        values: [u32; 4],
        flow in faithful(),
    ) {
        let mut bytes = [0; MAX_OPTIONS];
        bytes[..4].copy_from_slice(&[1, 1, 5, 18]);
        bytes[4..20].copy_from_slice(values.as_bytes());
        let mut options = Options::new(bytes, 20);
        options.rewrite(&flow);
        let mut fast = values;
        let change = edges(&mut fast, &flow);
        prop_assert_eq!(fast.as_bytes(), &options.words.as_bytes()[4..20]);
        let was = u64::from(sum(values.as_bytes()).to_be());
        let is = u64::from(sum(fast.as_bytes()).to_be());
        prop_assert_eq!(u64::from(fold32(change + was)) % 0xffff, is % 0xffff);
    }

    #[test]
    fn window_never_announces_more_than_there_is(field: u16, shift in -14..=14_i8) {
        let scaled = window(field, shift);
        let exact = if shift >= 0 {
            u64::from(field) << shift
        } else {
            u64::from(field) >> -shift
        };
        prop_assert_eq!(u64::from(scaled), exact.min(0xffff));
    }

    #[test]
    fn change_applies_like_a_new_sum(words in prop::collection::vec(any::<u32>(), 1..20), at: prop::sample::Index, new: u32) {
        let mut words = words;
        let before = !sum(words.as_bytes());
        let at = at.index(words.len());
        let change = u64::from(!words[at]) + u64::from(new);
        words[at] = new;
        let after = !sum(words.as_bytes());
        let applied = u16::from_be(apply(before.to_be(), change));
        prop_assert_eq!(applied % 0xffff, after % 0xffff);
    }
}
