//! The options of a packet of a flow: in the packet's own memory where they are where they mostly
//! are, else by a walk.

use aya_ebpf::helpers::bpf_skb_store_bytes;
use aya_ebpf::programs::TcContext;
use sni_router_common::flow::{Flow, option};
use sni_router_common::options::MAX_OPTIONS;
use sni_router_common::rewrite;

use super::packet::{Packet, TCP_HEADER, load_options, options_len, reach};
use crate::maps::OPTIONS;

/// Rewrites them; answers with the change of the checksum.
#[inline(always)] // part of a program's one fast path
pub fn rewrite(ctx: &TcContext, packet: &Packet, flow: &Flow) -> u64 {
    let (mut at, mut change) = (TCP_HEADER, 0);
    if let Some(clocks) = timestamps(ctx, packet, flow) {
        change += clocks;
        at += TIMESTAMPS;
    }
    if at < packet.header {
        change += match sack_blocks(ctx, packet, at, flow) {
            Some(edges) => edges,
            None => walk(ctx, packet, at, flow),
        };
    }
    change
}

/// Rewrites timestamps where Linux, and not only Linux, puts them: first, and with two NOPs in front.
/// `None` if there are none; here and below.
#[inline(always)] // as above
#[allow(unsafe_code, reason = "packet pointers are raw")]
fn timestamps(ctx: &TcContext, packet: &Packet, flow: &Flow) -> Option<u64> {
    if packet.header < TCP_HEADER + TIMESTAMPS || flow.options & option::TIMESTAMPS == 0 {
        return None;
    }
    let option: *mut [u32; 3] = reach(ctx, packet.transport + TCP_HEADER)?;
    // SAFETY: `reach` has checked that the bytes are there; here and below.
    let [kinds, values @ ..] = unsafe { &mut *option };
    (*kinds == u32::from_ne_bytes([NOP, NOP, 8, 10])).then(|| rewrite::timestamps(values, flow))
}

/// Rewrites SACK blocks where they are the last option, after two NOPs `at` bytes into the header.
#[inline(always)] // as above
#[allow(unsafe_code, reason = "packet pointers are raw")]
fn sack_blocks(ctx: &TcContext, packet: &Packet, at: u32, flow: &Flow) -> Option<u64> {
    let kinds: *mut u32 = reach(ctx, packet.transport + at)?;
    let size = packet.header - at - 2;
    // SAFETY: as above.
    let kinds = unsafe { *kinds };
    let is_last = kinds == u32::from_ne_bytes([NOP, NOP, 5, size as u8]);
    if !is_last || flow.options & option::NO_SACK != 0 {
        return None;
    }
    let at = packet.transport + at + 4;
    match size {
        10 => edges::<2>(ctx, at, flow),
        18 => edges::<4>(ctx, at, flow),
        26 => edges::<6>(ctx, at, flow),
        34 => edges::<8>(ctx, at, flow),
        _ => None,
    }
}

#[inline(always)] // as above
fn edges<const N: usize>(ctx: &TcContext, at: u32, flow: &Flow) -> Option<u64> {
    let edges: *mut [u32; N] = reach(ctx, at)?;
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "packet pointers are raw")]
    let edges = unsafe { &mut *edges };
    Some(rewrite::edges(edges, flow))
}

/// Copies the options from `at` on out, rewrites them, and puts them back. They stay as they are where
/// the kernel does not let us; the receiver then drops the packet for its checksum.
#[inline(never)] // with a stack frame of its own: a BPF function has 512 bytes
#[allow(
    unsafe_code,
    reason = "map values are raw pointers, and helpers unsafe"
)]
fn walk(ctx: &TcContext, packet: &Packet, at: u32, flow: &Flow) -> u64 {
    let Some(options) = load_options(ctx, packet, at) else {
        return 0;
    };
    // SAFETY: the entry belongs to this CPU; here and below.
    let before = unsafe { &*options }.sum();
    // SAFETY: as above.
    unsafe { &mut *options }.aim(flow);
    snir_walk_options();
    // SAFETY: as above.
    let after = unsafe { &*options }.sum();
    let Some(len) = options_len(packet, at) else {
        return 0;
    };
    let at = packet.transport + at;
    // SAFETY: as above.
    let words = unsafe { &raw const (*options).words };
    // SAFETY: `len` bytes of the buffer are there.
    unsafe {
        bpf_skb_store_bytes(ctx.skb.skb.cast(), at, words.cast(), len, 0);
    }
    // What was taken out counts as its complement, word by word.
    after + u64::from(u32::MAX) * (MAX_OPTIONS as u64 / 4) - before
}

/// Rewrites the options that lie in this CPU's place. A [global function](super).
#[unsafe(no_mangle)]
#[inline(never)]
#[allow(
    unsafe_code,
    reason = "map values are raw pointers, and names the linker's"
)]
pub extern "C" fn snir_walk_options() -> u32 {
    let Some(options) = OPTIONS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the entry belongs to this CPU.
    unsafe { &mut *options }.walk();
    0
}

/// Bytes of a timestamps option with two NOPs.
const TIMESTAMPS: u32 = 12;

const NOP: u8 = 1;
