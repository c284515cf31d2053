//! Whether a packet is as it was sent.
//!
//! A packet that was damaged on its way is for its receiver to drop, which sums it up. But what it
//! says must not be believed here either: a flipped bit makes a RST of an acknowledgement, and would
//! end a flow whose two ends go on.

use aya_ebpf::bindings::{__sk_buff, BPF_CSUM_LEVEL_QUERY};
use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_csum_level, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use sni_router_common::flow::{Addr, FlowKey};
use sni_router_common::rewrite::fold32;

use super::packet::{IPPROTO_TCP, Packet, segment};
use crate::maps::{CHUNK, CHUNK_BYTES};

/// Sums a packet up, unless somebody has done so before, or nobody can. Costs time in proportion to
/// its bytes: for packets that say something rare.
#[inline(never)] // with a stack frame of its own: a BPF function has 512 bytes
#[allow(unsafe_code, reason = "helpers are unsafe")]
pub fn is_intact(ctx: &TcContext, key: &FlowKey, packet: &Packet) -> bool {
    // What the kernel has merged it has summed up, and what it will cut it will sum up later.
    if segment(ctx) != 0 {
        return true;
    }
    // SAFETY: the helper takes numbers only.
    if unsafe { bpf_csum_level(ctx.skb.skb, BPF_CSUM_LEVEL_QUERY.into()) } >= 0 {
        // The network card has.
        return true;
    }
    let room = packet.header + packet.payload;
    let pseudo = words(&key.src)
        + words(&key.dst)
        + u64::from(room.to_be())
        + u64::from(u32::from(IPPROTO_TCP).to_be());
    if u64::from(packet.sum) == u64::from(fold16(fold32(pseudo))) {
        // Of a host that leaves it to its network card (CHECKSUM_PARTIAL): nothing is on a wire yet.
        return true;
    }
    let sum = snir_sum(ctx.skb.skb, packet.transport, room);
    sum == UNKNOWN || fold16(fold32(pseudo + sum)) == 0xffff
}

/// Adds up bytes of a packet, in the byte order of memory. [`UNKNOWN`] if there are too many, more than network cards
/// send, or fewer. A [global function](super).
#[unsafe(no_mangle)]
#[inline(never)]
#[allow(unsafe_code, reason = "the name is the linker's")]
pub extern "C" fn snir_sum(skb: *mut __sk_buff, at: u32, len: u32) -> u64 {
    sum(&TcContext::new(skb), at, len).map_or(UNKNOWN, u64::from)
}

#[inline(always)] // as above
fn sum(ctx: &TcContext, at: u32, len: u32) -> Option<u32> {
    let chunk = CHUNK.get_ptr_mut(0)?;
    let mut walk = Walk {
        at,
        left: len,
        sum: 0,
        chunk: chunk.cast(),
    };
    for _ in 0..MOST_CHUNKS {
        if walk.left < CHUNK_BYTES {
            break;
        }
        walk.add::<CHUNK_BYTES>(ctx)?;
    }
    if walk.left >= CHUNK_BYTES {
        return None;
    }
    // Sizes that are constants: the verifier wants to know what a helper is given.
    walk.add_if::<256>(ctx)?;
    walk.add_if::<128>(ctx)?;
    walk.add_if::<64>(ctx)?;
    walk.add_if::<32>(ctx)?;
    walk.add_if::<16>(ctx)?;
    walk.add_if::<8>(ctx)?;
    walk.add_if::<4>(ctx)?;
    walk.add_if::<2>(ctx)?;
    walk.add_if::<1>(ctx)?;
    Some(walk.sum)
}

struct Walk {
    at: u32,
    left: u32,
    sum: u32,
    chunk: *mut u32,
}

impl Walk {
    #[inline(always)] // as above
    fn add_if<const BYTES: u32>(&mut self, ctx: &TcContext) -> Option<()> {
        if self.left & BYTES == 0 {
            return Some(());
        }
        self.add::<BYTES>(ctx)
    }

    #[inline(always)] // as above
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "map values are raw pointers, and helpers unsafe"
    )]
    fn add<const BYTES: u32>(&mut self, ctx: &TcContext) -> Option<()> {
        // SAFETY: the entry belongs to this CPU, and has room for this many bytes. Zeroes behind
        // them add nothing.
        let sum = unsafe {
            *self.chunk = 0;
            if bpf_skb_load_bytes(ctx.skb.skb.cast(), self.at, self.chunk.cast(), BYTES) != 0 {
                return None;
            }
            bpf_csum_diff(
                core::ptr::null_mut(),
                0,
                self.chunk,
                BYTES.next_multiple_of(4),
                self.sum,
            )
        };
        self.sum = sum as u32;
        self.at += BYTES;
        self.left -= BYTES;
        Some(())
    }
}

/// Of an IPv4 address, what is in front of it adds up to nothing.
#[inline(always)] // as above
fn words(addr: &Addr) -> u64 {
    u64::from(addr[0]) + u64::from(addr[1]) + u64::from(addr[2]) + u64::from(addr[3])
}

#[inline(always)] // as above
fn fold16(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// More than any sum.
const UNKNOWN: u64 = u64::MAX;

/// Of a packet of 9,216 bytes, the most that network cards have.
const MOST_CHUNKS: u32 = 18;
