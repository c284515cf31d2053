//! Remembering what handshakes and hellos look like, for the hand-over to come.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use sni_router_common::flow::{FlowKey, Seen, before, seen};
use sni_router_common::options::Facts;

use super::intact::is_intact;
use super::packet::{ACK, FIN, Packet, RST, SYN, TCP_HEADER, load_options};
use crate::maps::SEEN;

/// Takes notes of a packet that goes to the local stack.
#[inline(never)] // with a stack frame of its own: a BPF function has 512 bytes
pub fn observe(ctx: &TcContext, key: &FlowKey, packet: &Packet) {
    let is_syn = packet.flags & SYN != 0;
    if !is_syn {
        if let Some(known) = SEEN.get_ptr_mut(key)
            && is_intact(ctx, key, packet)
        {
            update(ctx, packet, known);
        }
        return;
    }
    if is_repeated(key, packet) {
        return;
    }
    let facts = read_options(ctx, packet);
    let next = Seen {
        // SAFETY: a helper without arguments.
        #[allow(unsafe_code, reason = "helpers are unsafe")]
        since: unsafe { bpf_ktime_get_ns() },
        isn: packet.seq,
        end: packet.seq.wrapping_add(1 + packet.payload),
        ack: packet.ack,
        tsval: facts.tsval,
        tsecr: facts.tsecr,
        ifindex: ifindex(ctx),
        flags: flags(&facts, packet),
        _pad: 0,
    };
    // Fails only for want of memory; the connection is then carried by another datapath.
    let _ = SEEN.insert(key, next, 0);
}

/// Whether a SYN comes again, behind what was sent after it: it takes nothing back.
#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "map values are raw pointers"
)]
fn is_repeated(key: &FlowKey, packet: &Packet) -> bool {
    let Some(known) = SEEN.get_ptr(key) else {
        return false;
    };
    // SAFETY: the pointer is into the map, and numbers are read whole.
    let (isn, end) = unsafe {
        (
            (&raw const (*known).isn).read_volatile(),
            (&raw const (*known).end).read_volatile(),
        )
    };
    isn == packet.seq && before(packet.seq.wrapping_add(1 + packet.payload), end)
}

#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "map values are raw pointers"
)]
fn update(ctx: &TcContext, packet: &Packet, known: *mut Seen) {
    let facts = read_options(ctx, packet);
    let fin = u32::from(packet.flags & FIN != 0);
    let end = packet.seq.wrapping_add(packet.payload).wrapping_add(fin);
    // SAFETY: the pointer is into the map; the packets of one side are received in order on one
    // CPU, and the daemon only reads.
    unsafe {
        if before((*known).end, end) {
            (*known).end = end;
        }
        if packet.flags & ACK != 0 {
            (*known).ack = packet.ack;
        }
        if facts.has_timestamps {
            (*known).tsval = facts.tsval;
            (*known).tsecr = facts.tsecr;
        }
        // Timestamps are agreed upon if a packet other than the SYN has them.
        let lasting = (*known).flags & !seen::TIMESTAMPS;
        (*known).flags = lasting | flags(&facts, packet);
    }
}

fn read_options(ctx: &TcContext, packet: &Packet) -> Facts {
    let mut facts = Facts::default();
    if let Some(options) = load_options(ctx, packet, TCP_HEADER) {
        // SAFETY: the entry belongs to this CPU.
        #[allow(unsafe_code, reason = "map values are raw pointers")]
        unsafe { &mut *options }.read(&mut facts);
    }
    facts
}

fn flags(facts: &Facts, packet: &Packet) -> u32 {
    let mut flags = 0;
    if facts.has_timestamps {
        flags |= seen::TIMESTAMPS;
    }
    if facts.is_signed {
        flags |= seen::SIGNED;
    }
    if packet.flags & FIN != 0 {
        flags |= seen::FIN;
    }
    if packet.flags & RST != 0 {
        flags |= seen::RST;
    }
    flags
}

fn ifindex(ctx: &TcContext) -> u32 {
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "context access"
    )]
    // SAFETY: the context is valid while the program runs.
    unsafe {
        (&raw const (*ctx.skb.skb).ifindex).read_volatile()
    }
}
