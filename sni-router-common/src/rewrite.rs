//! Rewriting a packet of one connection into a packet of the other.
//!
//! Pure functions over header bytes, for the kernel program and for the host's tests. Each answers
//! with the change of the Internet checksum (RFC 1071) it made: the one's complement sum of what
//! was taken out and what was put in, in the byte order of memory. How it is applied is up to the
//! caller, since only the kernel knows whether a checksum is complete yet; [`replaced`] tells by
//! what the kernel has done.

use crate::flow::{Flow, option};

/// An IPv4 header without options, as words of bytes in network order.
pub type Ipv4 = [u32; 5];
/// An IPv6 header.
pub type Ipv6 = [u32; 10];
/// A TCP header without its options.
pub type Tcp = [u32; 5];
/// The values of a timestamps option: TSval and TSecr.
pub type Timestamps = [u32; 2];

/// Rewrites addresses and TTL of an IPv4 header, its checksum included, and takes ECN out where the
/// receiver did not agree to it. The answer is the change of the addresses, which is that of the TCP
/// checksum's pseudo-header.
#[inline(always)] // part of a program's one fast path
pub fn ipv4(header: &mut Ipv4, flow: &Flow) -> u64 {
    let addresses = swap(&mut header[3], flow.src[3]) + swap(&mut header[4], flow.dst[3]);
    let [ttl, protocol, sum0, sum1] = header[2].to_ne_bytes();
    let less = ttl.wrapping_sub(1);
    // The TTL shares its 16 bits with the protocol.
    let mut change = addresses
        + u64::from(!u16::from_ne_bytes([ttl, protocol]))
        + u64::from(u16::from_ne_bytes([less, protocol]));
    if flow.options & option::NO_ECN != 0 {
        change += clear(&mut header[0], ECN_V4);
    }
    let [sum0, sum1] = apply(u16::from_ne_bytes([sum0, sum1]), change).to_ne_bytes();
    header[2] = u32::from_ne_bytes([less, protocol, sum0, sum1]);
    addresses
}

/// Rewrites addresses and hop limit of an IPv6 header; see [`no_ecn_v6`] for the rest. The answer is the
/// change of the addresses.
#[inline(always)] // as above
pub fn ipv6(header: &mut Ipv6, flow: &Flow) -> u64 {
    let [length0, length1, next, hops] = header[1].to_ne_bytes();
    header[1] = u32::from_ne_bytes([length0, length1, next, hops.wrapping_sub(1)]);
    swap(&mut header[2], flow.src[0])
        + swap(&mut header[3], flow.src[1])
        + swap(&mut header[4], flow.src[2])
        + swap(&mut header[5], flow.src[3])
        + swap(&mut header[6], flow.dst[0])
        + swap(&mut header[7], flow.dst[1])
        + swap(&mut header[8], flow.dst[2])
        + swap(&mut header[9], flow.dst[3])
}

/// Takes ECN out of an IPv6 header, for a receiver that did not agree to it. The answer is the change of
/// the header, which no checksum of the packet covers; see [`HOP`].
#[inline(always)] // as above
pub fn no_ecn_v6(header: &mut Ipv6) -> u64 {
    clear(&mut header[0], ECN_V6)
}

/// Whether an IPv4 header has a congestion mark (CE; RFC 3168, section 5).
#[inline(always)] // as above
pub const fn is_marked_v4(header: &Ipv4) -> bool {
    header[0] & ECN_V4 == ECN_V4
}

/// The same of an IPv6 header.
#[inline(always)] // as above
pub const fn is_marked_v6(header: &Ipv6) -> bool {
    header[0] & ECN_V6 == ECN_V6
}

/// Rewrites ports, sequence number, acknowledgement and window of a TCP header, and takes flags of ECN
/// out where the receiver did not agree to it.
#[inline(always)] // as above
pub fn tcp(header: &mut Tcp, flow: &Flow) -> u64 {
    let mut change = swap(&mut header[0], flow.ports) + add(&mut header[1], flow.seq_add);
    if flow.options & option::NO_ECN != 0 {
        change += clear(&mut header[3], ECN_TCP);
    }
    let [offset, flags, w0, w1] = header[3].to_ne_bytes();
    if flags & ACK != 0 {
        change += add(&mut header[2], flow.ack_add);
    }
    // The window of a SYN is not scaled (RFC 7323, section 2.2).
    if flags & SYN == 0 && flow.shift != 0 {
        let field = window(u16::from_be_bytes([w0, w1]), flow.shift);
        let [w0, w1] = field.to_be_bytes();
        change += swap(&mut header[3], u32::from_ne_bytes([offset, flags, w0, w1]));
    }
    change
}

/// Makes a question of a SYN that comes on a connection which lives: an acknowledgement of what its receiver has had long
/// ago, as keep-alives are (RFC 9293, section 3.8.4). Who knows the connection answers by an acknowledgement; who has
/// forgotten it, by a RST that ends it here as well, where it would have opened another one to the SYN.
///
/// Not of one that carries anything, which would come there instead of what its receiver may have missed.
#[inline(always)] // as above
pub fn question(header: &mut Tcp, flow: &Flow) -> u64 {
    let seq = (flow.end as u32).wrapping_sub(1);
    let [offset, _, w0, w1] = header[3].to_ne_bytes();
    swap(&mut header[1], seq.to_be())
        + swap(&mut header[2], flow.ack.to_be())
        + swap(
            &mut header[3],
            u32::from_ne_bytes([offset & !AE, ACK, w0, w1]),
        )
}

/// Rewrites the two values of a timestamps option (RFC 7323, section 3.2).
#[inline(always)] // as above
pub fn timestamps(values: &mut Timestamps, flow: &Flow) -> u64 {
    add(&mut values[0], flow.ts_add) + add(&mut values[1], flow.ecr_add)
}

/// Rewrites the edges of SACK blocks (RFC 2018, section 3).
#[inline(always)] // as above
pub fn edges<const N: usize>(values: &mut [u32; N], flow: &Flow) -> u64 {
    let mut change = 0;
    for edge in values {
        change += add(edge, flow.ack_add);
    }
    change
}

/// A window field, in the scale of the other connection. Rounds down, for what is announced must
/// fit; saturates, since a field holds no more.
pub const fn window(field: u16, shift: i8) -> u16 {
    if shift >= 0 {
        // Scales are at most 14 (RFC 7323, section 2.3).
        let wide = (field as u32) << (shift as u32 & 15);
        if wide > 0xffff { 0xffff } else { wide as u16 }
    } else {
        field >> ((-shift) as u32 & 15)
    }
}

/// A change as the kernel's helpers take it: 32 bits, carries added in.
#[inline(always)] // three instructions
pub const fn fold32(change: u64) -> u32 {
    let once = (change & 0xffff_ffff) + (change >> 32);
    (once & 0xffff_ffff) as u32 + (once >> 32) as u32
}

/// A sum of the addresses only, which is not inverted, after a change of them.
#[inline(always)] // as above
pub const fn partial(sum: u16, change: u64) -> u16 {
    !apply(!sum, change)
}

/// A checksum after a change (RFC 1624, equation 3).
#[inline(always)] // as above
pub const fn apply(sum: u16, change: u64) -> u16 {
    let mut total = (!sum) as u64 + fold32(change) as u64;
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    !(total as u16)
}

/// What a checksum is, by what the kernel has made of it when it was told that addresses have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// That of the whole packet.
    Whole,
    /// That of the addresses only, not inverted. The network card, or who receives the packet, adds the
    /// rest (CHECKSUM_PARTIAL).
    Partial,
    /// It cannot be told: the change is one that looks the same in both, or neither fits.
    Either,
}

/// Which it is (`inet_proto_csum_replace_by_diff()`, net/core/utils.c).
#[inline(always)] // as above
pub const fn replaced(before: u16, after: u16, change: u64) -> Replaced {
    let whole = apply(before, change);
    let partial = partial(before, change);
    match (after == whole, after == partial) {
        (true, false) => Replaced::Whole,
        (false, true) => Replaced::Partial,
        _ => Replaced::Either,
    }
}

/// What one hop less changes in an IPv6 header, as a sum. No checksum of the packet covers it, but
/// one that a network card has made of all its bytes does. Not for a hop limit of 0.
pub const HOP: u32 = !u16::from_ne_bytes([0, 1]) as u32;

/// The last two bits of the second byte: of the type of service.
const ECN_V4: u32 = u32::from_ne_bytes([0, 3, 0, 0]);
/// The last two bits of the traffic class, which begins with the second half of the first byte.
const ECN_V6: u32 = u32::from_ne_bytes([0, 0x30, 0, 0]);
/// AE, CWR and ECE.
const ECN_TCP: u32 = u32::from_ne_bytes([AE, 0xc0, 0, 0]);
/// The last bit of the byte that has the header's size.
const AE: u8 = 1;

const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;

/// Puts a word in, and answers with the change.
#[inline(always)] // as above
pub(crate) fn swap(word: &mut u32, new: u32) -> u64 {
    let old = *word;
    *word = new;
    u64::from(!old) + u64::from(new)
}

/// Takes bits out, and answers with the change.
#[inline(always)] // as above
fn clear(word: &mut u32, bits: u32) -> u64 {
    let new = *word & !bits;
    swap(word, new)
}

/// Adds to a number in network order, and answers with the change.
#[inline(always)] // as above
pub(crate) fn add(word: &mut u32, by: u32) -> u64 {
    swap(word, u32::from_be(*word).wrapping_add(by).to_be())
}
