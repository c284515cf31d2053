//! What the daemon must know of this kernel before it loads what carries connections.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use aya_ebpf::programs::TcContext;
use sni_router_common::running::Told;

use super::summed;

/// Writes it into a packet. Also looks what the packet's checksum covers: a kernel that takes this takes that.
pub fn ask(ctx: &TcContext) -> Option<()> {
    core::hint::black_box(summed::of(ctx) as u32);
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "helpers are unsafe"
    )]
    // SAFETY: helpers without arguments.
    let told = unsafe {
        Told {
            jiffies: bpf_jiffies64(),
            nanoseconds: bpf_ktime_get_coarse_ns(),
        }
    };
    ctx.store(0, &told, 0).ok()
}
