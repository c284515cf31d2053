//! Packets that are no whole and plain TCP packets, but may be of a flow all the same: ICMP errors,
//! and those that the stack must not see.

use aya_ebpf::programs::TcContext;
use sni_router_common::flow::{Addr, FlowKey, v4};
use sni_router_common::rewrite::{Ipv4, Ipv6};

use super::packet::{
    ETH_P_IP, ETH_P_IPV6, IPPROTO_TCP, IPV4_HEADER, IPV6_HEADER, header, protocol,
};
use super::{errors, is_watched};
use crate::maps::FLOWS;

/// What became of such a packet.
pub enum Other {
    /// It is not of a flow.
    NotOurs,
    /// It is of a flow, and neither can it be sent on nor may the stack see it.
    Odd,
    /// It was an ICMP error, and is on its way; what the program returns to the kernel.
    Translated(i64),
    /// It is an ICMP error about a packet of the daemon's own socket.
    Held,
    /// It is an ICMP error about a packet that cannot be under way.
    Unbelieved,
    /// It is an ICMP error that has come too far. Nobody is told: there are no errors about errors.
    Expired,
    /// The kernel would not let us change it.
    Failed,
}

/// Judges a packet that [`parse`](super::packet::parse) does not know.
#[inline(always)] // the verifier follows packet pointers through one function only
pub fn judge(ctx: &TcContext, network: u32) -> Other {
    match protocol(ctx) {
        ETH_P_IP => judge_v4(ctx, network),
        ETH_P_IPV6 => judge_v6(ctx, network),
        _ => Other::NotOurs,
    }
}

#[inline(always)] // as above
fn judge_v4(ctx: &TcContext, network: u32) -> Other {
    let Some(ip) = header::<Ipv4>(ctx, network, network + IPV4_HEADER) else {
        return Other::NotOurs;
    };
    // SAFETY: `header` has checked that the bytes are there.
    #[allow(unsafe_code, reason = "packet pointers are raw")]
    let ip = unsafe { &*ip };
    let [version, ..] = ip[0].to_ne_bytes();
    let [_, protocol, _, _] = ip[2].to_ne_bytes();
    if protocol == IPPROTO_ICMP {
        return errors::judge_v4(ctx, network);
    }
    // Later fragments have no ports. Without their first one the stack cannot put them together,
    // and drops them in time.
    let is_later = ip[1] & u32::from_be(0x1fff) != 0;
    if version >> 4 != 4 || protocol != IPPROTO_TCP || is_later {
        return Other::NotOurs;
    }
    let (src, dst) = (v4(ip[3]), v4(ip[4]));
    let transport = network + u32::from(version & 0xf) * 4;
    judge_odd(ctx, transport, src, dst)
}

#[inline(always)] // as above
fn judge_v6(ctx: &TcContext, network: u32) -> Other {
    let Some(ip) = header::<Ipv6>(ctx, network, network + IPV6_HEADER) else {
        return Other::NotOurs;
    };
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "packet pointers are raw")]
    let ip = unsafe { &*ip };
    let [_, _, next, _] = ip[1].to_ne_bytes();
    if next == IPPROTO_ICMPV6 {
        return errors::judge_v6(ctx, network);
    }
    let src = [ip[2], ip[3], ip[4], ip[5]];
    let dst = [ip[6], ip[7], ip[8], ip[9]];
    match behind_extensions(ctx, next, network + IPV6_HEADER) {
        0 => Other::NotOurs,
        transport => judge_odd(ctx, transport, src, dst),
    }
}

/// Where the TCP header is, behind extension headers (RFC 8200, section 4); 0 if there is none, or
/// if this is a later fragment. More headers than a sender has any use for are not looked behind:
/// whoever sends them on purpose has nothing of it but a reset, which it could send itself.
#[inline(always)] // as above
fn behind_extensions(ctx: &TcContext, mut next: u8, mut at: u32) -> u32 {
    for _ in 0..EXTENSIONS {
        if next == IPPROTO_TCP {
            return at;
        }
        let Ok(header) = ctx.load::<[u8; 4]>(at as usize) else {
            return 0;
        };
        let [following, length, offset0, offset1] = header;
        at += match next {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => (u32::from(length) + 1) * 8,
            AUTHENTICATION => (u32::from(length) + 2) * 4,
            FRAGMENT if u16::from_be_bytes([offset0, offset1]) >> 3 == 0 => 8,
            _ => return 0,
        };
        next = following;
    }
    0
}

/// A packet with a TCP header at `transport` that is not as [`parse`](super::packet::parse) wants it.
#[inline(always)] // as above
fn judge_odd(ctx: &TcContext, transport: u32, src: Addr, dst: Addr) -> Other {
    let Ok(ports) = ctx.load::<u32>(transport as usize) else {
        return Other::NotOurs;
    };
    let key = FlowKey { src, dst, ports };
    if is_watched(&key) && FLOWS.get_ptr(key).is_some() {
        Other::Odd
    } else {
        Other::NotOurs
    }
}

const EXTENSIONS: u32 = 8;

// https://www.iana.org/assignments/protocol-numbers
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
