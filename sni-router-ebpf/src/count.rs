//! Counting.

use core::hint::black_box;

use sni_router_common::counter::Counter;

use crate::maps::COUNT;

/// Adds one.
#[inline(always)] // as below
pub fn one(counter: Counter) {
    add(counter, 1);
}

/// Adds some. Nothing here can fail; the verifier wants the checks.
#[inline(always)] // a call would cost more than the addition
pub fn add(counter: Counter, more: u64) {
    let Some(counts) = COUNT.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the entry belongs to this CPU, and a BPF program is not interrupted by itself.
    #[allow(unsafe_code, reason = "map values are raw pointers")]
    let counts = unsafe { &mut *counts };
    // The compiler knows that there is no counter behind the last, and would leave the check away.
    if let Some(count) = counts.get_mut(black_box(counter as usize)) {
        *count += more;
    }
}
