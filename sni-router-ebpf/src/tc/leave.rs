//! How packets leave.

use aya_ebpf::helpers::{
    bpf_csum_update, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_head, bpf_skb_vlan_pop,
};
use aya_ebpf::programs::TcContext;

/// Sends a packet on by an interface, to the next hop that the kernel finds. Its IP header is at
/// `network`. Answers with what the program returns; `None` where the kernel would not have it.
#[inline(always)] // part of a program's one fast path
#[allow(unsafe_code, reason = "helpers are unsafe")]
pub fn leave(ctx: &TcContext, network: u32, ifindex: u32) -> Option<i64> {
    if network == 0 {
        // The helper takes off an Ethernet header, whatever the interface has, and drops packets
        // without one (__bpf_redirect_neigh, net/core/filter.c).
        // SAFETY: the helper checks what it is given.
        let made = unsafe { bpf_skb_change_head(ctx.skb.skb, ETHER_HEADER, 0) };
        if made != 0 {
            return None;
        }
    }
    // SAFETY: without parameters the helper looks the next hop up itself.
    Some(unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) })
}

/// Has a packet come in at the other end of a veth pair of which this interface is one, with the Ethernet header that
/// it has. To whom that is addressed does not matter to a stack there: that the packet was for its receiver was seen when
/// it came in here (eth_type_trans, net/ethernet/eth.c).
#[inline(always)] // as above
#[allow(unsafe_code, reason = "as above")]
pub fn shortcut(ctx: &TcContext, ifindex: u32) -> i64 {
    // It means something on this host, and the link would have taken it off (skb_scrub_packet, net/core/skbuff.c).
    ctx.skb.set_mark(0);
    // SAFETY: the helper takes numbers only.
    unsafe { bpf_redirect_peer(ifindex, 0) }
}

/// Takes off a tag without a number, which has only a priority in it: it was for the link that the
/// packet came by.
#[inline(always)] // as above
#[allow(unsafe_code, reason = "helpers are unsafe")]
pub fn untag(ctx: &TcContext) -> Option<()> {
    #[allow(clippy::multiple_unsafe_ops_per_block, reason = "context access")]
    // SAFETY: the context is valid while the program runs.
    let has_tag = unsafe { (&raw const (*ctx.skb.skb).vlan_present).read_volatile() };
    if has_tag == 0 {
        return Some(());
    }
    // SAFETY: the helper checks what it is given.
    let popped = unsafe { bpf_skb_vlan_pop(ctx.skb.skb) };
    (popped == 0).then_some(())
}

/// Tells the kernel of a change that no checksum in the packet makes up for, in case the network
/// card has summed up all its bytes.
#[inline(always)] // as above
pub fn uncount(ctx: &TcContext, change: u32) {
    // Fails where there is no such sum, which is as good.
    // SAFETY: the helper takes numbers only.
    #[allow(unsafe_code, reason = "helpers are unsafe")]
    let _ = unsafe { bpf_csum_update(ctx.skb.skb, change) };
}

/// Bytes of an Ethernet header.
pub const ETHER_HEADER: u32 = 14;
