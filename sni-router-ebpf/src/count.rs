//! Counting.

use sni_router_common::counter::Counter;

use crate::maps::COUNT;

/// Adds one.
#[inline(always)] // as below
pub fn one(counter: Counter) {
    add(counter, 1);
}

/// Adds some. The array has an entry, so the look-up cannot fail; the verifier wants the check.
#[inline(always)] // a call would cost more than the addition
pub fn add(counter: Counter, more: u64) {
    if let Some(counts) = COUNT.get_ptr_mut(0) {
        // SAFETY: the entry belongs to this CPU, and a BPF program is not interrupted by itself.
        #[allow(unsafe_code, reason = "map values are raw pointers")]
        let counts = unsafe { &mut *counts };
        counts[counter as usize] += more;
    }
}
