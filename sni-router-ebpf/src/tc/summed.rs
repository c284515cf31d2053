//! What a packet's checksum covers.

use core::ffi::c_void;

use aya_ebpf::Global;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use sni_router_common::running::{self, inlined};

/// As the kernel has noted it.
pub enum Summed {
    /// The whole packet.
    Whole,
    /// The addresses only, not inverted (CHECKSUM_PARTIAL).
    Partial,
    /// The kernel keeps another sum, which it has to change itself, or it does not tell what there is.
    Ask,
}

/// Asks nobody, where the kernel lets programs read its own description of a packet (`bpf_cast_to_kern_ctx()`,
/// Linux 6.2).
#[inline(always)] // a few instructions
pub fn of(ctx: &TcContext) -> Summed {
    let known = SNI_SUMMED.load();
    if known.mask == 0 {
        return Summed::Ask;
    }
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "the loader makes instructions of these calls"
    )]
    // SAFETY: the constants say that it has, and the verifier checks what they are.
    let bits = unsafe {
        let skb: extern "C" fn(*mut __sk_buff) -> *const c_void =
            core::mem::transmute(inlined::SKB as usize);
        let summed: extern "C" fn(*const c_void) -> u32 =
            core::mem::transmute(inlined::SUMMED as usize);
        summed(skb(ctx.skb.skb)) & known.mask
    };
    if bits == known.partial {
        Summed::Partial
    } else if bits == known.complete {
        Summed::Ask
    } else {
        Summed::Whole
    }
}

/// The loader fills it in.
#[allow(unsafe_code, reason = "the loader finds it by its name")]
#[unsafe(no_mangle)]
static SNI_SUMMED: Global<running::Summed> = Global::new(running::Summed {
    mask: 0,
    partial: 0,
    complete: 0,
});
