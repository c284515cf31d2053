//! Finding the headers of a packet.

use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use sni_router_common::flow::{Addr, FlowKey, v4};
use sni_router_common::options::{MAX_OPTIONS, Options};
use sni_router_common::rewrite::{Ipv4, Ipv6, Tcp};

use crate::maps::OPTIONS;

/// Where things are in a packet, and what its TCP header says. Offsets are in bytes from the start
/// of the packet's data. In memory as here, without holes: a global function has the verifier look at all of it.
#[repr(C)]
pub struct Packet {
    /// Of the IP header.
    pub network: u32,
    /// Of the TCP header.
    pub transport: u32,
    /// Bytes of the TCP header, options included.
    pub header: u32,
    /// Bytes behind the TCP header.
    pub payload: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement.
    pub ack: u32,
    /// FIN, SYN, RST, PSH, ACK … as in the header's 14th byte.
    pub flags: u8,
    /// The flag before them, AE.
    pub has_ae: bool,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether it is IPv6.
    pub is_v6: bool,
    /// The window's field.
    pub window: u16,
    /// The checksum, as in memory.
    pub sum: u16,
}

const _: () = assert!(size_of::<Packet>() == 6 * 4 + 4 + 2 * 2, "a hole");

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;
pub const ECE: u8 = 64;
pub const CWR: u8 = 128;

/// The headers of a whole TCP packet; `None` for anything else. IPv4 options, IPv6 extension
/// headers and fragments are something else: nobody sends them on a TCP connection, and a
/// connection that was handed over would not survive half of its packets being treated differently.
#[inline(always)] // the verifier follows packet pointers through one function only
pub fn parse(ctx: &TcContext, network: u32) -> Option<(FlowKey, Packet)> {
    match protocol(ctx) {
        ETH_P_IP => parse_v4(ctx, network),
        ETH_P_IPV6 => parse_v6(ctx, network),
        _ => None,
    }
}

#[inline(always)] // as above
fn parse_v4(ctx: &TcContext, network: u32) -> Option<(FlowKey, Packet)> {
    let transport = network + IPV4_HEADER;
    let ip: *const Ipv4 = header(ctx, network, transport + TCP_HEADER)?;
    // SAFETY: `header` has checked that the bytes are there.
    #[allow(unsafe_code, reason = "packet pointers are raw")]
    let ip = unsafe { &*ip };
    let [version, _, total0, total1] = ip[0].to_ne_bytes();
    let is_fragment = ip[1] & u32::from_be(0x3fff) != 0;
    let [ttl, protocol, _, _] = ip[2].to_ne_bytes();
    if version != 0x45 || protocol != IPPROTO_TCP || is_fragment {
        return None;
    }
    let total = u32::from(u16::from_be_bytes([total0, total1]));
    let room = if total == 0 {
        oversized(ctx, transport)?
    } else {
        total.checked_sub(IPV4_HEADER)?
    };
    let (src, dst) = (v4(ip[3]), v4(ip[4]));
    tcp(ctx, network, transport, room, ttl, src, dst)
}

#[inline(always)] // as above
fn parse_v6(ctx: &TcContext, network: u32) -> Option<(FlowKey, Packet)> {
    let transport = network + IPV6_HEADER;
    let ip: *const Ipv6 = header(ctx, network, transport + TCP_HEADER)?;
    // SAFETY: `header` has checked that the bytes are there.
    #[allow(unsafe_code, reason = "packet pointers are raw")]
    let ip = unsafe { &*ip };
    let [version, ..] = ip[0].to_ne_bytes();
    let [room0, room1, next, hops] = ip[1].to_ne_bytes();
    if version >> 4 != 6 || next != IPPROTO_TCP {
        return None;
    }
    let room = match u32::from(u16::from_be_bytes([room0, room1])) {
        0 => oversized(ctx, transport)?,
        room => room,
    };
    let src = [ip[2], ip[3], ip[4], ip[5]];
    let dst = [ip[6], ip[7], ip[8], ip[9]];
    // Nobody's on the wire (RFC 4291, section 2.5.5.2), but an IPv4 address in keys.
    if src[..3] == v4(0)[..3] {
        return None;
    }
    tcp(ctx, network, transport, room, hops, src, dst)
}

/// What is behind the IP header of a GSO packet that is larger than this header can say ("BIG TCP", `iph_totlen()` in
/// include/linux/ip.h).
#[inline(always)] // as above
fn oversized(ctx: &TcContext, transport: u32) -> Option<u32> {
    (segment(ctx) != 0).then(|| ctx.len() - transport)
}

/// Bytes of payload of each packet that a GSO packet becomes; 0 if it is none.
#[inline(always)] // as above
pub fn segment(ctx: &TcContext) -> u32 {
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "context access"
    )]
    // SAFETY: the context is valid while the program runs.
    unsafe {
        (&raw const (*ctx.skb.skb).gso_size).read_volatile()
    }
}

/// `room` is what the IP header says is behind it.
#[inline(always)] // as above
fn tcp(
    ctx: &TcContext,
    network: u32,
    transport: u32,
    room: u32,
    ttl: u8,
    src: Addr,
    dst: Addr,
) -> Option<(FlowKey, Packet)> {
    let tcp: *mut Tcp = reach(ctx, transport)?;
    // SAFETY: `reach` has checked that the bytes are there.
    #[allow(unsafe_code, reason = "packet pointers are raw")]
    let tcp = unsafe { &*tcp };
    let [offset, flags, w0, w1] = tcp[3].to_ne_bytes();
    let [sum0, sum1, _, _] = tcp[4].to_ne_bytes();
    let header = u32::from(offset >> 4) * 4;
    // A packet that is shorter than it says is for the stack to drop. One that is longer carries
    // padding of the link layer.
    if header < TCP_HEADER || header > room || transport + room > ctx.len() {
        return None;
    }
    let key = FlowKey {
        src,
        dst,
        ports: tcp[0],
    };
    let packet = Packet {
        network,
        transport,
        header,
        payload: room - header,
        seq: u32::from_be(tcp[1]),
        ack: u32::from_be(tcp[2]),
        flags,
        has_ae: offset & 1 != 0,
        ttl,
        is_v6: transport - network == IPV6_HEADER,
        window: u16::from_be_bytes([w0, w1]),
        sum: u16::from_ne_bytes([sum0, sum1]),
    };
    Some((key, packet))
}

/// A pointer to a header at `at`, once `upto` bytes of the packet are where they can be reached.
///
/// IP and TCP headers are aligned to four bytes: drivers leave NET_IP_ALIGN in front of the
/// Ethernet header, and where that is 0 unaligned access is cheap (include/linux/skbuff.h).
#[inline(always)] // as above
pub fn header<T>(ctx: &TcContext, at: u32, upto: u32) -> Option<*const T> {
    if ctx.data() + upto as usize > ctx.data_end() {
        if upto > ctx.len() {
            return None;
        }
        ctx.skb.pull_data(upto).ok()?;
    }
    reach(ctx, at).map(<*mut T>::cast_const)
}

/// The same, where they can be reached already.
#[inline(always)] // as above
pub fn reach<T>(ctx: &TcContext, at: u32) -> Option<*mut T> {
    let start = ctx.data() + at as usize;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    Some(start as *mut T)
}

/// Copies the options, from `at` in the header on, to where they can be walked; `None` if there are
/// none.
#[inline(always)] // as above
pub fn load_options(ctx: &TcContext, packet: &Packet, at: u32) -> Option<*mut Options> {
    let options = OPTIONS.get_ptr_mut(0)?;
    let len = options_len(packet, at)?;
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "map values are raw pointers"
    )]
    // SAFETY: the entry belongs to this CPU; zeroes are options, and `len` bytes of it are there.
    // Not by aya's method: it may ask for no bytes at all, which the verifier refuses.
    let loaded = unsafe {
        (*options).len.store(len);
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            packet.transport + at,
            (&raw mut (*options).words).cast(),
            len,
        )
    };
    (loaded == 0).then_some(options)
}

/// Bytes of options from `at` on; `None` if there are none.
#[inline(always)] // as above
pub fn options_len(packet: &Packet, at: u32) -> Option<u32> {
    bounded(packet.header - at, MAX_OPTIONS as u32)
}

/// A number of bytes as a helper wants it, from one to `most`; `None` if it is not within.
///
/// The compiler knows some of it and would leave the check away, or make it in some register or other;
/// the verifier wants to see it on the number that the helper is given. And on one less: that a number
/// is not zero teaches it nothing before Linux 6.8, and what it learns of a sum, nothing of its parts
/// before 6.10 (`reg_set_min_max()` and `sync_linked_regs()`, kernel/bpf/verifier.c).
#[inline(always)] // as above
pub fn bounded(bytes: u32, most: u32) -> Option<u32> {
    let less = core::hint::black_box(u64::from(bytes).wrapping_sub(1));
    (less < u64::from(most)).then(|| less as u32 + 1)
}

/// The packet's EtherType; 0 if it is not for us to look at.
///
/// A packet with a VLAN tag is not. The kernel has taken the tag out of line by now, also where the
/// network card does not do it (`__netif_receive_skb_core()`, net/core/dev.c). The packet comes by
/// again on the VLAN's interface, without the tag and with the program attached there, too; of two
/// tags (802.1ad) the first goes like this on the first interface, the second on the second. A tag
/// of VLAN 0 has only a priority in it. Such a packet does not come by again: the stack takes it as
/// if it had none.
///
/// Neither is one for another station, which promiscuous interfaces and ports of bridges see. What
/// a bridge then takes for itself comes by again on the bridge's interface.
#[inline(always)] // as above
pub fn protocol(ctx: &TcContext) -> u16 {
    let skb = ctx.skb.skb;
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "context access"
    )]
    // SAFETY: the context is valid while the program runs.
    unsafe {
        if (&raw const (*skb).vlan_present).read_volatile() != 0
            && (&raw const (*skb).vlan_tci).read_volatile() & VLAN_VID_MASK != 0
        {
            return 0;
        }
        if (&raw const (*skb).pkt_type).read_volatile() != PACKET_HOST {
            return 0;
        }
        u16::from_be((&raw const (*skb).protocol).read_volatile() as u16)
    }
}

pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_IPV6: u16 = 0x86dd;
pub const IPPROTO_TCP: u8 = 6;
pub const IPV4_HEADER: u32 = 20;
pub const IPV6_HEADER: u32 = 40;
/// include/linux/if_vlan.h
const VLAN_VID_MASK: u32 = 0xfff;
/// include/uapi/linux/if_packet.h
const PACKET_HOST: u32 = 0;
/// Bytes of a TCP header without options.
pub const TCP_HEADER: u32 = 20;
/// Where its flags are.
pub const TCP_FLAGS: u32 = 13;
/// Where the checksum is.
pub const TCP_SUM: u32 = 16;
