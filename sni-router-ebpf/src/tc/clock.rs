//! What time it is, about.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use sni_router_common::flow;
use sni_router_common::running::Clock;

/// Now, in [ticks](flow::tick).
///
/// The kernel makes one load of the first helper (`do_misc_fixups()`, kernel/bpf/verifier.c), while the other one
/// is a call of two functions.
#[inline(always)] // a few instructions
pub fn tick() -> u32 {
    let clock = SNI_CLOCK.load();
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "helpers are unsafe"
    )]
    // SAFETY: helpers without arguments.
    unsafe {
        if clock.period == 0 {
            return flow::tick(bpf_ktime_get_coarse_ns());
        }
        clock.tick(bpf_jiffies64())
    }
}

/// The loader fills it in.
#[allow(unsafe_code, reason = "the loader finds it by its name")]
#[unsafe(no_mangle)]
static SNI_CLOCK: Global<Clock> = Global::new(Clock {
    period: 0,
    offset: 0,
});
