//! A packet of a flow.

use aya_ebpf::bindings::BPF_F_PSEUDO_HDR;
use aya_ebpf::helpers::bpf_l4_csum_replace;
use aya_ebpf::programs::TcContext;
use sni_router_common::counter::Counter;
use sni_router_common::flow::{End, Ended, Flow, FlowKey, before, option, own, peer};
use sni_router_common::icmp::Cause;
use sni_router_common::rewrite::{self, HOP, Ipv4, Ipv6, Replaced, Tcp, fold32};

use super::clock;
use super::intact::is_intact;
use super::leave::{leave, uncount, untag};
use super::options;
use super::packet::{ACK, FIN, Packet, RST, SYN, reach, segment};
use super::summed::{self, Summed};
use crate::count::{self, Mine};
use crate::maps::{ENDED, FLOWS};

/// What became of a packet of a flow.
pub enum Spliced {
    /// It is on its way; what the program returns to the kernel, and where that is counted.
    Redirected(i64, Mine),
    /// It is for the daemon's own socket, which still sends what it had received.
    Held,
    /// It comes in the place of what the daemon still sends: the same, or something else.
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
    if is_believed && packet.flags & (SYN | ACK) == SYN && flow.closed != 0 {
        remove(key, flow);
        return Spliced::Reopened;
    }
    if is_believed && is_held(packet, flow) {
        return Spliced::Held;
    }
    if packet.payload != 0 && flow.up == 1 && before(packet.seq, flow.end as u32) {
        // Rare, so that most packets need no other look-up.
        if flow.closed == 0 && is_being_sent(packet, flow) {
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

/// Takes notes of a packet that is passed on, unless its receiver will refuse it: whoever does not
/// see the connection can only guess where its streams are.
#[inline(always)] // as above
fn note(packet: &Packet, flow: &mut Flow, counts: Mine) {
    flow.seen = clock::tick();
    if packet.flags & SYN != 0 {
        // Another stream's, or it has come before.
        return;
    }
    if packet.flags & RST != 0 {
        return note_reset(packet, flow);
    }
    let has_fin = packet.flags & FIN != 0;
    let end = packet
        .seq
        .wrapping_add(packet.payload)
        .wrapping_add(u32::from(has_fin));
    let ahead = end.wrapping_sub(flow.end as u32) as i32;
    // Most packets start where the one before has ended, which nobody guesses.
    let is_next = ahead >= 0 && !before(flow.end as u32, packet.seq);
    if !is_next && !is_acceptable(packet, flow, end) {
        return;
    }
    if ahead > 0 && end != packet.seq {
        if flow.own & own::FIN != 0 {
            forget_fin(flow);
        }
        flow.end += ahead as u64;
        // The same as `Flow::bytes` comes to: a FIN has a number, and is no byte.
        let bytes = ahead as u64 - u64::from(has_fin);
        if flow.up == 1 {
            counts.add(Counter::TcBytesUp, bytes);
        } else {
            counts.add(Counter::TcBytesDown, bytes);
        }
    }
    if packet.flags & ACK != 0 {
        if before(flow.ack, packet.ack) {
            flow.ack = packet.ack;
        }
        let edge = flow.edge(packet.ack, packet.window);
        if before(flow.edge, edge) {
            flow.edge = edge;
        }
    }
    if has_fin && (flow.own & own::FIN == 0 || end != flow.end as u32) {
        note_fin(flow, end);
    }
    if awaits_ack_of_fin(flow) && packet.flags & ACK != 0 {
        note_ack_of_fin(packet, flow);
    }
}

/// Whether the other direction has sent a FIN that this one has not acknowledged yet.
#[inline(always)] // as above
const fn awaits_ack_of_fin(flow: &Flow) -> bool {
    flow.peer & peer::FIN != 0 && flow.own & own::ACKED_FIN == 0
}

/// A FIN is where a stream ends, whatever was believed before: it was summed up, which other packets are
/// not, and a damaged one that says that its header is short seems to carry more.
#[inline(never)] // rare, and has a stack frame of its own
fn note_fin(flow: &mut Flow, end: u32) {
    let ahead = end.wrapping_sub(flow.end as u32) as i32;
    flow.end = flow.end.wrapping_add_signed(ahead.into());
    flow.own |= own::FIN;
    tell_peer(flow, peer::FIN);
}

/// A stream that goes on has not ended: its receiver has refused the FIN, which may be somebody else's.
#[inline(never)] // as above
fn forget_fin(flow: &mut Flow) {
    flow.own &= !own::FIN;
    tell_peer(flow, 0);
}

/// Tells the other direction of this one's FIN, whose position is in the entry by now.
#[inline(always)] // as above
fn tell_peer(flow: &Flow, fin: u8) {
    if let Some(back) = FLOWS.get_ptr_mut(FlowKey::answers(flow)) {
        // SAFETY: as in `splice`.
        #[allow(unsafe_code, reason = "map values are raw pointers")]
        unsafe {
            (*back).peer = fin;
        }
    }
}

/// The connection is over when both directions have acknowledged where the other one ended.
#[inline(never)] // as above
fn note_ack_of_fin(packet: &Packet, flow: &mut Flow) {
    let Some(back) = FLOWS.get_ptr_mut(FlowKey::answers(flow)) else {
        return;
    };
    // SAFETY: as in `splice`.
    #[allow(unsafe_code, reason = "map values are raw pointers")]
    let back = unsafe { &mut *back };
    let end = (back.end as u32).wrapping_add(back.seq_add);
    if before(packet.ack, end) {
        return;
    }
    flow.own |= own::ACKED_FIN;
    // Not by the bits of either: where two CPUs have packets of one direction, as behind veth, one bit may take
    // the other back. What the other direction has been told, and has acknowledged, nobody else writes. It may
    // have acknowledged a FIN that does not count any more.
    let own_end = (flow.end as u32).wrapping_add(flow.seq_add);
    if back.peer & peer::FIN != 0 && !before(back.ack, own_end) {
        // A FIN is no byte.
        flow.own |= own::FIN;
        back.own |= own::FIN;
        close(flow, back, End::Finished);
    }
}

/// Whether the receiver takes a packet that is not the next one, of those that were lost or overtaken
/// on their way to us: it is where the receiver's window is, and acknowledges nothing that the
/// receiver has not sent (RFC 9293, section 3.10.7.4).
#[inline(never)] // rare, and has a stack frame of its own
fn is_acceptable(packet: &Packet, flow: &Flow, end: u32) -> bool {
    let Some(back) = FLOWS.get_ptr(FlowKey::answers(flow)) else {
        return false;
    };
    // SAFETY: as in `splice`.
    #[allow(unsafe_code, reason = "map values are raw pointers")]
    let back = unsafe { &*back };
    let is_in_window = !before(back.edge, packet.seq.wrapping_add(flow.seq_add))
        && !before(end.wrapping_add(flow.seq_add), back.ack);
    let acks_too_much =
        packet.flags & ACK != 0 && before(back.end as u32, packet.ack.wrapping_add(flow.ack_add));
    is_in_window && !acks_too_much
}

/// A RST ends the flow if its receiver takes it: if it is where the sender's stream ends, or where
/// the receiver's acknowledgements have come to (RFC 5961, section 3.2). Any other one is passed
/// on all the same; its receiver asks back.
#[inline(never)] // as above
fn note_reset(packet: &Packet, flow: &mut Flow) {
    let Some(back) = FLOWS.get_ptr_mut(FlowKey::answers(flow)) else {
        return;
    };
    // SAFETY: as in `splice`.
    #[allow(unsafe_code, reason = "map values are raw pointers")]
    let back = unsafe { &mut *back };
    if packet.seq != flow.end as u32 && packet.seq.wrapping_add(flow.seq_add) != back.ack {
        return;
    }
    let end = if flow.up == 1 {
        End::ClientReset
    } else {
        End::EndpointReset
    };
    close(flow, back, end);
}

/// The mapping stays, so that what is sent again is answered.
#[inline(always)] // as above
fn close(flow: &mut Flow, back: &mut Flow, end: End) {
    if flow.closed != 0 {
        return;
    }
    flow.closed = end as u8;
    back.closed = end as u8;
    tell(flow, back, end);
}

/// Both directions of a flow that has ended, and that the daemon was told of.
#[inline(never)] // as above
fn remove(key: &FlowKey, flow: &Flow) {
    let answers = FlowKey::answers(flow);
    // Fails only where another CPU was faster; here and below.
    let _ = FLOWS.remove(key);
    let _ = FLOWS.remove(answers);
}

#[inline(always)] // as above
fn tell(flow: &Flow, back: &Flow, end: End) {
    let (up, down) = if flow.up == 1 {
        (flow, back)
    } else {
        (back, flow)
    };
    let event = Ended {
        id: flow.id,
        end: end as u32,
        up: up.bytes(),
        down: down.bytes(),
    };
    if ENDED.output::<Ended>(&event, 0).is_err() {
        count::one(Counter::TcEventLost);
    }
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
        rest += rewrite::question(header, flow, packet.payload);
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
