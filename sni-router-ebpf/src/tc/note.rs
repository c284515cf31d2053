//! What a packet says of its flow: how far its streams have come, and whether they have ended.

use sni_router_common::counter::Counter;
use sni_router_common::flow::{End, Ended, Flow, FlowKey, before, own, peer};

use super::clock;
use super::packet::{ACK, FIN, Packet, RST, SYN};
use crate::count::{self, Mine};
use crate::maps::{ENDED, FLOWS};

/// Takes notes of a packet that is passed on, unless its receiver will refuse it: whoever does not
/// see the connection can only guess where its streams are.
#[inline(always)] // most packets pay for no call
pub fn note(packet: &Packet, flow: &mut Flow, counts: Mine) {
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
pub const fn awaits_ack_of_fin(flow: &Flow) -> bool {
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
        // SAFETY: the pointer is into the map. An entry that is deleted meanwhile stays readable until
        // the program has ended.
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
    // SAFETY: as above.
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
    // SAFETY: as above.
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
    // SAFETY: as above.
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
