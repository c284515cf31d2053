//! ICMP errors of our own: about packets that cannot go on, to who has sent them.

use aya_ebpf::helpers::generated::{
    bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use sni_router_common::counter::Counter;
use sni_router_common::icmp::{Answer, Cause, Quoted, has_budget};
use sni_router_common::rewrite::{Ipv4, Ipv6};

use super::leave::ETHER_HEADER;
use super::packet::Packet;
use crate::count;
use crate::maps::BUDGET;

/// Turns a packet into an error about itself, which goes back where it came from; or has it
/// dropped, where there were too many already or the kernel would not let us. What the program
/// returns.
///
/// The packet is cut behind its TCP header, without options; then the error's headers are put in
/// front. Cutting makes one piece of it, and no GSO packet any more.
///
/// `mtu` is what it does not fit into, or 0 if it has come too far. Not a [`Cause`]: half of one
/// may be in a register that nothing was put into, which the verifier does not let pass.
#[inline(never)] // rare, and has a stack frame of its own
fn answer(ctx: &TcContext, network: u32, is_v6: bool, mtu: u32, ifindex: u32) -> i64 {
    if !may_answer(mtu) {
        return TC_ACT_SHOT;
    }
    let cause = match mtu {
        0 => Cause::Expired,
        mtu => Cause::TooBig(mtu as u16),
    };
    let answered = if is_v6 {
        answer_v6(ctx, network, cause)
    } else {
        answer_v4(ctx, network, cause)
    };
    if answered.is_none() {
        return TC_ACT_SHOT;
    }
    count::one(Counter::TcAnswered);
    // SAFETY: without parameters the helper looks the next hop up itself.
    #[allow(unsafe_code, reason = "helpers are unsafe")]
    unsafe {
        bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0)
    }
}

/// Why a packet gets an answer, and where it is.
impl Packet {
    /// See [`answer`]. It leaves by `ifindex`.
    #[inline(always)] // part of a program's one fast path
    pub fn answer(&self, ctx: &TcContext, cause: Cause, ifindex: u32) -> i64 {
        let mtu = match cause {
            Cause::TooBig(mtu) => mtu.into(),
            Cause::Expired => 0,
        };
        answer(ctx, self.network, self.is_v6, mtu, ifindex)
    }
}

#[inline(always)] // as above
fn answer_v4(ctx: &TcContext, network: u32, cause: Cause) -> Option<()> {
    let mut quoted = cut::<Quoted<Ipv4>>(ctx, network)?;
    let answer: Answer<Ipv4> = quoted.answer(cause);
    store(ctx, network, &quoted)?;
    prepend(ctx, network, &answer)
}

#[inline(always)] // as above
fn answer_v6(ctx: &TcContext, network: u32, cause: Cause) -> Option<()> {
    let mut quoted = cut::<Quoted<Ipv6>>(ctx, network)?;
    let answer: Answer<Ipv6> = quoted.answer(cause);
    store(ctx, network, &quoted)?;
    prepend(ctx, network, &answer)
}

/// Cuts the packet behind the headers at `network`, and copies them.
#[inline(always)] // as above
fn cut<Q>(ctx: &TcContext, network: u32) -> Option<Q> {
    let len = network + size_of::<Q>() as u32;
    // One byte more first: a packet that is not cut keeps the sum of its bytes that the network card
    // has made, and that will be wrong.
    if ctx.len() == len {
        resize(ctx, len + 1)?;
    }
    resize(ctx, len)?;
    let mut headers = core::mem::MaybeUninit::<Q>::uninit();
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "helpers are unsafe"
    )]
    // SAFETY: the helper fills all of it or fails, and every value is a header.
    unsafe {
        let loaded = bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            network,
            headers.as_mut_ptr().cast(),
            size_of::<Q>() as u32,
        );
        (loaded == 0).then(|| headers.assume_init())
    }
}

#[inline(always)] // as above
fn resize(ctx: &TcContext, len: u32) -> Option<()> {
    // SAFETY: the helper checks what it is given.
    #[allow(unsafe_code, reason = "helpers are unsafe")]
    let resized = unsafe { bpf_skb_change_tail(ctx.skb.skb, len, 0) };
    (resized == 0).then_some(())
}

/// Puts headers in front of the one at `network`, and an Ethernet header that nobody reads.
#[inline(always)] // as above
fn prepend<A>(ctx: &TcContext, network: u32, headers: &A) -> Option<()> {
    let room = size_of::<A>() as u32 + ETHER_HEADER - network;
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "helpers are unsafe")]
    let made = unsafe { bpf_skb_change_head(ctx.skb.skb, room, 0) };
    if made != 0 {
        return None;
    }
    store(ctx, ETHER_HEADER, headers)
}

#[inline(always)] // as above
fn store<T>(ctx: &TcContext, at: u32, bytes: &T) -> Option<()> {
    let from: *const T = bytes;
    // SAFETY: the bytes are those of a reference.
    #[allow(unsafe_code, reason = "helpers are unsafe")]
    let stored =
        unsafe { bpf_skb_store_bytes(ctx.skb.skb, at, from.cast(), size_of::<T>() as u32, 0) };
    (stored == 0).then_some(())
}

/// Senders that have to learn what fits must not wait for others whose packets have come too far: those anybody can send.
fn may_answer(mtu: u32) -> bool {
    let Some(next) = BUDGET.get_ptr_mut(u32::from(mtu != 0)) else {
        return false;
    };
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "map values are raw pointers"
    )]
    // SAFETY: the entry belongs to this CPU; the helper has no arguments.
    unsafe {
        has_budget(&mut *next, bpf_ktime_get_coarse_ns())
    }
}

// include/uapi/linux/pkt_cls.h
const TC_ACT_SHOT: i64 = 2;
