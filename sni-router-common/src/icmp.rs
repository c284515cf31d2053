//! ICMP errors about packets of flows: translating those that come in, and making those that a
//! packet asks for.
//!
//! An error quotes the packet that it is about as we sent it. It belongs to the direction whose
//! packets answer that one: its entry, `back` here, leads to whoever sent the packet, and has all
//! that turns the quoted header into what the sender knows.
//!
//! The error then comes from the address that the sender talks to, not from the router in the
//! network that made it. A sender asks only whether the quoted packet is its own (for Linux:
//! `tcp_v4_err()`), and a router of the other network may be one that it has no route to, which a
//! reverse path filter on the way would not let through.

use crate::flow::{Addr, Flow, FlowKey, before};
use crate::rewrite::{self, ACK, Ipv4, Ipv6, Tcp, add, apply, fold32, swap};

/// An ICMP header: type, code, checksum, and a word that depends on them.
pub type Icmp = [u32; 2];
/// The first 8 bytes of a TCP header, which every error quotes: ports and sequence number.
pub type Start = [u32; 2];
/// What follows them in a whole TCP header without its options.
pub type Rest = [u32; 3];

/// An ICMP error, as far as it is always there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error<Ip> {
    /// The error's own header.
    pub ip: Ip,
    /// The ICMP header.
    pub icmp: Icmp,
    /// The header of the packet that it is about.
    pub quoted: Ip,
    /// The start of that packet's TCP header.
    pub start: Start,
}

/// The headers that an error of ours quotes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<Ip> {
    /// Of IP.
    pub ip: Ip,
    /// Of TCP, without options.
    pub tcp: Tcp,
}

/// What an error of ours starts with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<Ip> {
    /// Of IP.
    pub ip: Ip,
    /// Of ICMP.
    pub icmp: Icmp,
}

/// Why a packet cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It does not fit into this many bytes.
    TooBig(u16),
    /// Its TTL or hop limit has run out.
    Expired,
}

impl Error<Ipv4> {
    /// Whether it is an error, about the start of a TCP packet as we send them: without options.
    #[inline(always)] // part of a program
    pub fn is_about_tcp(&self) -> bool {
        let [kind, ..] = self.icmp[0].to_ne_bytes();
        let [version, ..] = self.quoted[0].to_ne_bytes();
        let [_, protocol, ..] = self.quoted[2].to_ne_bytes();
        let is_later_fragment = self.quoted[1] & u32::from_be(0x1fff) != 0;
        matches!(kind, 3 | 11 | 12) && version == 0x45 && protocol == TCP && !is_later_fragment
    }

    /// The key of the packets that answer the one that this is about.
    #[inline(always)] // as above
    pub fn answers(&self) -> FlowKey {
        FlowKey {
            src: crate::flow::v4(self.quoted[4]),
            dst: crate::flow::v4(self.quoted[3]),
            ports: self.start[0].rotate_left(16),
        }
    }

    /// Turns it into an error about what the sender has sent. `rest` is the rest of the quoted TCP
    /// header, where that is quoted.
    #[inline(always)] // as above
    pub fn translate(&mut self, rest: Option<&mut Rest>, back: &Flow) {
        rewrite::ipv4(&mut self.ip, back);
        let addresses =
            swap(&mut self.quoted[3], back.dst[3]) + swap(&mut self.quoted[4], back.src[3]);
        let [ttl, protocol, sum0, sum1] = self.quoted[2].to_ne_bytes();
        let [sum0, sum1] = apply(u16::from_ne_bytes([sum0, sum1]), addresses).to_ne_bytes();
        let sum = swap(
            &mut self.quoted[2],
            u32::from_ne_bytes([ttl, protocol, sum0, sum1]),
        );
        let tcp = unsend(&mut self.start, rest, addresses, back);
        correct(&mut self.icmp, addresses + sum + tcp);
    }
}

impl Error<Ipv6> {
    /// Whether it is an error, about a TCP packet as we send them: without extension headers.
    #[inline(always)] // as above
    pub fn is_about_tcp(&self) -> bool {
        let [kind, ..] = self.icmp[0].to_ne_bytes();
        let [version, ..] = self.quoted[0].to_ne_bytes();
        let [_, _, next, _] = self.quoted[1].to_ne_bytes();
        matches!(kind, 1..=4) && version >> 4 == 6 && next == TCP
    }

    /// The key of the packets that answer the one that this is about.
    #[inline(always)] // as above
    pub fn answers(&self) -> FlowKey {
        let [_, _, s0, s1, s2, s3, d0, d1, d2, d3] = self.quoted;
        FlowKey {
            src: [d0, d1, d2, d3],
            dst: [s0, s1, s2, s3],
            ports: self.start[0].rotate_left(16),
        }
    }

    /// As over IPv4. The checksum covers the error's own addresses, too (RFC 4443, section 2.3).
    #[inline(always)] // as above
    pub fn translate(&mut self, rest: Option<&mut Rest>, back: &Flow) {
        let outer = rewrite::ipv6(&mut self.ip, back);
        let addresses = put(&mut self.quoted, 2, &back.dst) + put(&mut self.quoted, 6, &back.src);
        let tcp = unsend(&mut self.start, rest, addresses, back);
        correct(&mut self.icmp, outer + addresses + tcp);
    }
}

/// Whether a packet with this sequence number, as we sent it, may be under way: a forged error must
/// do no more harm than to any connection, and there the kernel asks the same. `back` answers it,
/// `forth` is the way it took.
pub fn is_under_way(seq: u32, back: &Flow, forth: &Flow) -> bool {
    let end = (forth.end as u32).wrapping_add(forth.seq_add);
    !before(seq, back.ack.wrapping_sub(LATE)) && !before(end, seq)
}

impl Quoted<Ipv4> {
    /// The headers that make an error of it.
    #[inline(always)] // as above
    pub fn answer(&mut self, cause: Cause) -> Answer<Ipv4> {
        fix_checksum(&mut self.tcp);
        let total = (size_of::<Answer<Ipv4>>() + size_of::<Self>()) as u16;
        let [t0, t1] = total.to_be_bytes();
        let mut ip = [
            u32::from_ne_bytes([0x45, CONTROL, t0, t1]),
            // Never in fragments, so the identification can be 0 (RFC 6864, section 4.1).
            0x4000_u32.to_be(),
            u32::from_ne_bytes([HOPS, ICMP, 0, 0]),
            self.ip[4],
            self.ip[3],
        ];
        let [s0, s1] = apply(0xffff, sum(&ip)).to_ne_bytes();
        ip[2] = u32::from_ne_bytes([HOPS, ICMP, s0, s1]);
        // RFC 1191, section 4, and RFC 792.
        let mut icmp = match cause {
            Cause::TooBig(mtu) => [u32::from_ne_bytes([3, 4, 0, 0]), u32::from(mtu).to_be()],
            Cause::Expired => [u32::from_ne_bytes([11, 0, 0, 0]), 0],
        };
        start_checksum(&mut icmp, sum(&self.ip) + sum(&self.tcp));
        Answer { ip, icmp }
    }
}

impl Quoted<Ipv6> {
    /// The headers that make an error of it. RFC 4443 (section 2.4) asks to quote as much as fits
    /// into 1280 bytes; what is behind the headers says nothing to anybody.
    #[inline(always)] // as above
    pub fn answer(&mut self, cause: Cause) -> Answer<Ipv6> {
        fix_checksum(&mut self.tcp);
        let length = (size_of::<Icmp>() + size_of::<Self>()) as u16;
        let [l0, l1] = length.to_be_bytes();
        let [_, _, s0, s1, s2, s3, d0, d1, d2, d3] = self.ip;
        let ip = [
            0x6000_0000_u32.to_be(),
            u32::from_ne_bytes([l0, l1, ICMPV6, HOPS]),
            d0,
            d1,
            d2,
            d3,
            s0,
            s1,
            s2,
            s3,
        ];
        let mut icmp = match cause {
            Cause::TooBig(mtu) => [u32::from_ne_bytes([2, 0, 0, 0]), u32::from(mtu).to_be()],
            Cause::Expired => [u32::from_ne_bytes([3, 0, 0, 0]), 0],
        };
        let pseudo =
            sum(&ip[2..]) + u64::from(u32::from(length).to_be() + u32::from(ICMPV6).to_be());
        start_checksum(&mut icmp, pseudo + sum(&self.ip) + sum(&self.tcp));
        Answer { ip, icmp }
    }
}

/// Whether an error more may be made at `now`, in ns. `next` is kept from call to call: the time at
/// which errors would have gone out evenly.
pub fn has_budget(next: &mut u64, now: u64) -> bool {
    let due = if *next > now { *next } else { now };
    if due - now > BURST * GAP_NS {
        return false;
    }
    *next = due + GAP_NS;
    true
}

/// Turns the quoted TCP header back. `addresses` is how much the addresses have changed.
#[inline(always)] // as above
fn unsend(start: &mut Start, rest: Option<&mut Rest>, addresses: u64, back: &Flow) -> u64 {
    let mut change = swap(&mut start[0], back.ports.rotate_left(16));
    change += add(&mut start[1], back.ack_add);
    let Some(rest) = rest else {
        return change;
    };
    let [_, flags, _, _] = rest[1].to_ne_bytes();
    if flags & ACK != 0 {
        change += add(&mut rest[0], back.seq_add);
    }
    // Timestamps and window stay as they are, and the checksum goes with what is quoted.
    let [s0, s1, urgent0, urgent1] = rest[2].to_ne_bytes();
    let [s0, s1] = apply(u16::from_ne_bytes([s0, s1]), addresses + change).to_ne_bytes();
    change + swap(&mut rest[2], u32::from_ne_bytes([s0, s1, urgent0, urgent1]))
}

/// Puts an address into a header.
#[inline(always)] // as above
fn put(header: &mut Ipv6, at: usize, addr: &Addr) -> u64 {
    swap(&mut header[at], addr[0])
        + swap(&mut header[at + 1], addr[1])
        + swap(&mut header[at + 2], addr[2])
        + swap(&mut header[at + 3], addr[3])
}

/// Puts a checksum right after a change.
#[inline(always)] // as above
fn correct(icmp: &mut Icmp, change: u64) {
    let [kind, code, s0, s1] = icmp[0].to_ne_bytes();
    let [s0, s1] = apply(u16::from_ne_bytes([s0, s1]), change).to_ne_bytes();
    icmp[0] = u32::from_ne_bytes([kind, code, s0, s1]);
}

/// Puts a checksum where there is none yet. `rest` is the sum of what it covers besides.
#[inline(always)] // as above
fn start_checksum(icmp: &mut Icmp, rest: u64) {
    let [kind, code, _, _] = icmp[0].to_ne_bytes();
    let [s0, s1] = apply(0xffff, sum(icmp) + rest).to_ne_bytes();
    icmp[0] = u32::from_ne_bytes([kind, code, s0, s1]);
}

/// Sets a quoted checksum to the one value that nobody changes: whoever computes it over this
/// header, as a network card does if the kernel has left the packet's checksum to it, finds it.
/// The payload that it was about is not quoted, so what it was says nothing.
#[inline(always)] // as above
fn fix_checksum(tcp: &mut Tcp) {
    let [_, _, urgent0, urgent1] = tcp[4].to_ne_bytes();
    tcp[4] = u32::from_ne_bytes([0, 0, urgent0, urgent1]);
    // A value v with v = !(sum + v) in one's complement is half of !sum; 0xffff is odd, so there is
    // always one.
    let twice = u32::from(apply(0xffff, sum(tcp)));
    let half = if twice & 1 == 0 {
        twice / 2
    } else {
        (twice + 0xffff) / 2
    };
    // Where it comes out as 0, 0xffff is written.
    let half = if half == 0 { 0xffff } else { half as u16 };
    let [s0, s1] = half.to_ne_bytes();
    tcp[4] = u32::from_ne_bytes([s0, s1, urgent0, urgent1]);
}

#[inline(always)] // as above
fn sum(words: &[u32]) -> u64 {
    let mut sum = 0;
    for &word in words {
        sum += u64::from(word);
    }
    u64::from(fold32(sum))
}

/// An error takes its time to come, and what it is about may have been acknowledged meanwhile.
const LATE: u32 = 1 << 16;

/// As the kernel limits its own: a thousand a second, fifty at once (`icmp_msgs_per_sec` and
/// `icmp_msgs_burst`, Documentation/networking/ip-sysctl.rst).
const GAP_NS: u64 = 1_000_000;
const BURST: u64 = 50;

const HOPS: u8 = 64;
/// Internetwork control (RFC 1812, section 4.3.2.5).
const CONTROL: u8 = 0xc0;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

const _: () = assert!(size_of::<Error<Ipv4>>() == 56);
const _: () = assert!(size_of::<Error<Ipv6>>() == 96);
