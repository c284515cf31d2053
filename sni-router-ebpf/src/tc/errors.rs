//! ICMP errors that others have made about packets of flows.

use aya_ebpf::programs::TcContext;
use sni_router_common::flow::{Flow, FlowKey, before, own};
use sni_router_common::icmp::{self, Error, Rest};
use sni_router_common::rewrite::{HOP, Ipv4, Ipv6};

use super::is_watched;
use super::leave::{leave, uncount};
use super::other::Other;
use super::packet::{header, reach};
use crate::maps::FLOWS;

/// Judges an ICMP packet.
#[inline(always)] // the verifier follows packet pointers through one function only
#[allow(unsafe_code, reason = "packet pointers are raw")]
pub fn judge_v4(ctx: &TcContext, network: u32) -> Other {
    let end = network + size_of::<Error<Ipv4>>() as u32;
    let Some(error) = header::<Error<Ipv4>>(ctx, network, end) else {
        return Other::NotOurs;
    };
    // SAFETY: `header` has checked that the bytes are there.
    let error = unsafe { &*error };
    let [version, _, total0, total1] = error.ip[0].to_ne_bytes();
    let [ttl, ..] = error.ip[2].to_ne_bytes();
    let is_fragment = error.ip[1] & u32::from_be(0x3fff) != 0;
    let total = u32::from(u16::from_be_bytes([total0, total1]));
    if version != 0x45 || is_fragment || !error.is_about_tcp() {
        return Other::NotOurs;
    }
    if network + total < end || network + total > ctx.len() {
        return Other::NotOurs;
    }
    let back = match find(&error.answers(), u32::from_be(error.start[1])) {
        Ok(back) => back,
        Err(other) => return other,
    };
    if ttl <= 1 {
        return Other::Expired;
    }
    let rest = rest(ctx, end, network + total);
    let Some(error) = reach::<Error<Ipv4>>(ctx, network) else {
        return Other::Failed;
    };
    // SAFETY: `reach` has checked that the bytes are there; the rest is behind them.
    unsafe { &mut *error }.translate(rest, back);
    send(ctx, network, back)
}

/// The same for ICMPv6.
#[inline(always)] // as above
#[allow(unsafe_code, reason = "packet pointers are raw")]
pub fn judge_v6(ctx: &TcContext, network: u32) -> Other {
    let end = network + size_of::<Error<Ipv6>>() as u32;
    let Some(error) = header::<Error<Ipv6>>(ctx, network, end) else {
        return Other::NotOurs;
    };
    // SAFETY: as above.
    let error = unsafe { &*error };
    let [length0, length1, _, hops] = error.ip[1].to_ne_bytes();
    let total = IPV6_HEADER + u32::from(u16::from_be_bytes([length0, length1]));
    if !error.is_about_tcp() || network + total < end || network + total > ctx.len() {
        return Other::NotOurs;
    }
    let back = match find(&error.answers(), u32::from_be(error.start[1])) {
        Ok(back) => back,
        Err(other) => return other,
    };
    if hops <= 1 {
        return Other::Expired;
    }
    let rest = rest(ctx, end, network + total);
    let Some(error) = reach::<Error<Ipv6>>(ctx, network) else {
        return Other::Failed;
    };
    // SAFETY: as above.
    unsafe { &mut *error }.translate(rest, back);
    uncount(ctx, HOP);
    send(ctx, network, back)
}

/// The direction that answers the quoted packet; or why the error is none for a flow.
#[inline(always)] // as above
#[allow(unsafe_code, reason = "map values are raw pointers")]
fn find<'f>(key: &FlowKey, seq: u32) -> Result<&'f Flow, Other> {
    if !is_watched(key) {
        return Err(Other::NotOurs);
    }
    let back = FLOWS.get_ptr(key).ok_or(Other::NotOurs)?;
    // SAFETY: the pointer is into the map. An entry that is deleted meanwhile stays readable until
    // the program has ended.
    let back = unsafe { &*back };
    if back.own & own::HELD != 0 && before(seq, back.since_or_held) {
        return Err(Other::Held);
    }
    let forth = FLOWS
        .get_ptr(FlowKey::answers(back))
        .ok_or(Other::Unbelieved)?;
    // SAFETY: as above.
    let forth = unsafe { &*forth };
    if icmp::is_under_way(seq, back, forth) {
        Ok(back)
    } else {
        Err(Other::Unbelieved)
    }
}

/// The rest of the quoted TCP header at `at`, if the packet, which ends at `end`, has it.
#[inline(always)] // as above
fn rest<'p>(ctx: &TcContext, at: u32, end: u32) -> Option<&'p mut Rest> {
    if at + size_of::<Rest>() as u32 > end {
        return None;
    }
    let rest = reach::<Rest>(ctx, at)?;
    // SAFETY: `reach` has checked that the bytes are there.
    #[allow(unsafe_code, reason = "packet pointers are raw")]
    Some(unsafe { &mut *rest })
}

#[inline(always)] // as above
fn send(ctx: &TcContext, network: u32, back: &Flow) -> Other {
    match leave(ctx, network, back.ifindex) {
        Some(verdict) => Other::Translated(verdict),
        None => Other::Failed,
    }
}

const IPV6_HEADER: u32 = size_of::<Ipv6>() as u32;
