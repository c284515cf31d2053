//! A packet of a flow.

use aya_ebpf::bindings::BPF_F_PSEUDO_HDR;
use aya_ebpf::helpers::bpf_l4_csum_replace;
use aya_ebpf::programs::TcContext;
use sni_router_common::flow::{End, Flow, FlowKey, before, option, own};
use sni_router_common::icmp::Cause;
use sni_router_common::rewrite::{self, HOP, Ipv4, Ipv6, Replaced, Tcp, fold32};

use super::intact::is_intact;
use super::leave::{leave, shortcut, uncount, untag};
use super::note::{awaits_ack_of_fin, note};
use super::options;
use super::packet::{ACK, FIN, Packet, RST, SYN, reach, segment};
use super::summed::{self, Summed};
use crate::count::Mine;
use crate::maps::FLOWS;

/// What became of a packet of a flow.
pub enum Spliced {
    /// It is on its way; what the program returns to the kernel, and where that is counted.
    Redirected(i64, Mine),
    /// It is for the daemon's own socket, which still sends what it had received.
    Held,
    /// It comes in the place of what the daemon still sends, be it the same or something else; or it would come in a
    /// place of our making.
    Repeated,
    /// It opens a new connection where one has ended; the flow is gone.
    Reopened,
    /// It has come too far; what the program returns to the kernel.
    TtlExceeded(i64),
    /// It does not fit into the interface it must leave by; as above.
    TooBig(i64),
    /// It has a congestion mark that its receiver cannot report.
    Marked,
    /// The kernel would not let us change it.
    Failed,
}

/// Judges, notes and rewrites a packet.
#[inline(always)] // the verifier follows packet pointers through one function only
#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "map values are raw pointers"
)]
pub fn splice(ctx: &TcContext, key: &FlowKey, packet: &Packet, flow: *mut Flow) -> Spliced {
    // SAFETY: the pointer is into the map. An entry that is deleted meanwhile stays readable until
    // the program has ended.
    let flow = unsafe { &mut *flow };
    let is_believed = !is_telling(packet, flow) || is_intact(ctx, key, packet);
    if packet.flags & (SYN | ACK) == SYN {
        if is_believed && flow.closed != 0 {
            remove(key, flow);
            return Spliced::Reopened;
        }
        if packet.payload != 0 {
            // What passes is a question, at a position of our making: these bytes would fill what was lost there,
            // whoever has sent them.
            return Spliced::Repeated;
        }
    }
    if is_believed && is_held(packet, flow) {
        return Spliced::Held;
    }
    let has_content = packet.payload != 0 || packet.flags & FIN != 0;
    if has_content && flow.up == 1 && before(packet.seq, flow.end as u32) {
        // Rare, so that most packets need no other look-up. An endpoint that has reset the connection may be asked for
        // that again; one that a client seems to have reset need not have taken it.
        if flow.closed != End::EndpointReset as u8 && is_being_sent(packet, flow) {
            return Spliced::Repeated;
        }
    }
    if packet.ttl <= 1 {
        return Spliced::TtlExceeded(packet.answer(ctx, Cause::Expired, way_back(flow)));
    }
    if !fits(ctx, packet, flow) {
        let cause = Cause::TooBig(flow.mtu);
        return Spliced::TooBig(packet.answer(ctx, cause, way_back(flow)));
    }
    let must_drop = must_drop(ctx, packet, flow);
    let Some(counts) = Mine::get() else {
        return Spliced::Failed;
    };
    if is_believed {
        note(packet, flow, counts);
    }
    if must_drop {
        // As if it was lost on the next link, where it would have been noted, too.
        return Spliced::Marked;
    }
    if untag(ctx).is_none() || rewrite(ctx, packet, flow).is_none() {
        return Spliced::Failed;
    }
    // A packet without an Ethernet header would come out as it is, where there has to be one.
    if flow.options & option::SHORTCUT != 0 && packet.network != 0 {
        return Spliced::Redirected(shortcut(ctx, flow.ifindex), counts);
    }
    match leave(ctx, packet.network, flow.ifindex) {
        Some(verdict) => Spliced::Redirected(verdict, counts),
        None => Spliced::Failed,
    }
}

/// Whether a packet says more than that its stream goes on where it was: then it must not be
/// believed if it was damaged.
///
/// What is left out repairs itself: acknowledgements that are too high are caught up with, and a stream
/// that seems longer than it is ends where its FIN says.
#[inline(always)] // as above
fn is_telling(packet: &Packet, flow: &Flow) -> bool {
    let ahead = packet.seq.wrapping_sub(flow.end as u32) as i32;
    packet.flags & (SYN | FIN | RST) != 0
        || ahead > 0
        || flow.own & SENDING != 0
        || (flow.own & own::FIN != 0 && packet.payload != 0)
        || awaits_ack_of_fin(flow)
}

/// Acknowledgements of what the daemon itself sends go to the daemon's socket; the client has had
/// its own from us. A SYN-ACK that comes again wants our handshake's ACK again.
#[inline(always)] // as above
fn is_held(packet: &Packet, flow: &mut Flow) -> bool {
    if flow.own & SENDING == 0 || packet.flags & ACK == 0 {
        return false;
    }
    if !before(packet.ack, flow.since_or_held) {
        flow.own &= !SENDING;
        return false;
    }
    flow.own & own::HELD != 0 && packet.flags & (FIN | RST) == 0 && packet.payload == 0
}

/// Whether a client's packet has bytes that the daemon was left to send: those are what was judged, and the endpoint
/// must not get others instead.
#[inline(never)] // rare, and has a stack frame of its own
fn is_being_sent(packet: &Packet, flow: &Flow) -> bool {
    let Some(back) = FLOWS.get_ptr(FlowKey::answers(flow)) else {
        return false;
    };
    // SAFETY: as in `splice`.
    #[allow(unsafe_code, reason = "map values are raw pointers")]
    let back = unsafe { &*back };
    back.own & SENDING != 0 && before(packet.seq.wrapping_add(flow.seq_add), back.since_or_held)
}

/// The interface that packets to the sender leave by: where it came in may be a port of that, which no route
/// leads by.
#[inline(never)] // as above
fn way_back(flow: &Flow) -> u32 {
    let Some(back) = FLOWS.get_ptr(FlowKey::answers(flow)) else {
        return 0;
    };
    // SAFETY: as in `splice`.
    #[allow(unsafe_code, reason = "map values are raw pointers")]
    unsafe {
        (*back).ifindex
    }
}

/// Whether a packet has to be dropped, since a router has marked it instead of dropping it, and its receiver
/// did not agree to that, and so tells nobody: as at the end of a tunnel (RFC 6040, section 4.2).
///
/// Only the first time that its bytes come: a path that marks everything lets something through.
#[inline(always)] // as above
fn must_drop(ctx: &TcContext, packet: &Packet, flow: &Flow) -> bool {
    let end = packet.seq.wrapping_add(packet.payload);
    flow.options & option::NO_ECN != 0
        && packet.payload != 0
        && before(flow.end as u32, end)
        && is_marked(ctx, packet)
}

#[inline(always)] // as above
#[allow(unsafe_code, reason = "packet pointers are raw")]
fn is_marked(ctx: &TcContext, packet: &Packet) -> bool {
    if packet.is_v6 {
        let header = reach::<Ipv6>(ctx, packet.network);
        // SAFETY: `reach` has checked that the bytes are there; here and below.
        header.is_some_and(|header| rewrite::is_marked_v6(unsafe { &*header }))
    } else {
        let header = reach::<Ipv4>(ctx, packet.network);
        // SAFETY: as above.
        header.is_some_and(|header| rewrite::is_marked_v4(unsafe { &*header }))
    }
}

/// Whether every packet this one becomes on the wire fits.
#[inline(always)] // as above
fn fits(ctx: &TcContext, packet: &Packet, flow: &Flow) -> bool {
    let headers = packet.transport - packet.network + packet.header;
    let mtu = u32::from(flow.mtu);
    // How a packet will be cut is in memory that nothing else here needs.
    headers + packet.payload <= mtu || (1..=mtu.saturating_sub(headers)).contains(&segment(ctx))
}

/// Both directions of a flow that has ended, and that the daemon was told of.
#[inline(never)] // as above
fn remove(key: &FlowKey, flow: &Flow) {
    let answers = FlowKey::answers(flow);
    // Fails only where another CPU was faster; here and below.
    let _ = FLOWS.remove(key);
    let _ = FLOWS.remove(answers);
}

/// Headers first, through the packet's own memory, then the checksum.
#[inline(always)] // as above
#[allow(unsafe_code, reason = "packet pointers are raw")]
fn rewrite(ctx: &TcContext, packet: &Packet, flow: &Flow) -> Option<()> {
    let addresses = if packet.is_v6 {
        let header: *mut Ipv6 = reach(ctx, packet.network)?;
        // SAFETY: `reach` has checked that the bytes are there; here and below.
        let header = unsafe { &mut *header };
        let addresses = rewrite::ipv6(header, flow);
        uncount(ctx, HOP);
        if flow.options & option::NO_ECN != 0 {
            uncount(ctx, fold32(rewrite::no_ecn_v6(header)));
        }
        addresses
    } else {
        let header: *mut Ipv4 = reach(ctx, packet.network)?;
        // SAFETY: as above.
        rewrite::ipv4(unsafe { &mut *header }, flow)
    };
    let header: *mut Tcp = reach(ctx, packet.transport)?;
    // SAFETY: as above.
    let header = unsafe { &mut *header };
    let mut rest = 0;
    if packet.flags & (SYN | ACK) == SYN {
        rest += rewrite::question(header, flow);
    }
    rest += rewrite::tcp(header, flow);
    rest += options::rewrite(ctx, packet, flow);
    let at = packet.transport + TCP_CHECKSUM;
    let sum: *mut u16 = reach(ctx, at)?;
    // SAFETY: as above.
    let sum = unsafe { &mut *sum };
    match summed::of(ctx) {
        Summed::Whole => *sum = rewrite::apply(*sum, addresses + rest),
        Summed::Partial => *sum = rewrite::partial(*sum, addresses),
        Summed::Ask => ask(ctx, packet, at, addresses, rest)?,
    }
    Some(())
}

/// Changes the checksum by a helper that knows what there is to do about the addresses; what it has done tells
/// us about the rest.
#[inline(always)] // as above
#[allow(unsafe_code, reason = "packet pointers are raw")]
fn ask(ctx: &TcContext, packet: &Packet, at: u32, addresses: u64, rest: u64) -> Option<()> {
    let pseudo = u64::from(BPF_F_PSEUDO_HDR);
    let with_v6 = if packet.is_v6 {
        pseudo | BPF_F_IPV6
    } else {
        pseudo
    };
    if replace(ctx, at, addresses, with_v6).is_none() {
        // Kernels before 6.16 do not know the flag.
        replace(ctx, at, addresses, pseudo)?;
    }
    let sum: *mut u16 = reach(ctx, at)?;
    // SAFETY: as above.
    let sum = unsafe { &mut *sum };
    match rewrite::replaced(packet.sum, *sum, addresses) {
        Replaced::Whole => *sum = rewrite::apply(*sum, rest),
        Replaced::Partial => {}
        Replaced::Either => replace(ctx, at, rest, 0)?,
    }
    Some(())
}

#[inline(always)] // as above
fn replace(ctx: &TcContext, at: u32, change: u64, flags: u64) -> Option<()> {
    // SAFETY: the helper checks the offset. A size of 0 says that the change is a sum.
    #[allow(unsafe_code, reason = "helpers are unsafe")]
    let replaced =
        unsafe { bpf_l4_csum_replace(ctx.skb.skb.cast(), at, 0, fold32(change).into(), flags) };
    (replaced == 0).then_some(())
}

/// The daemon is still sending what it had received.
const SENDING: u8 = own::HELD | own::GUARDED;

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: u32 = 16;

/// include/uapi/linux/bpf.h
const BPF_F_IPV6: u64 = 1 << 7;
