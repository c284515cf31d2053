//! Counting.

use core::hint::black_box;

use sni_router_common::counter::{Counter, Counts};

use crate::maps::COUNT;

/// The counters of this CPU: for who counts more than one thing.
#[derive(Clone, Copy)]
pub struct Mine(*mut Counts);

impl Mine {
    /// `None` is for the verifier, which wants the check.
    #[inline(always)] // a call would cost more than the look-up
    pub fn get() -> Option<Self> {
        COUNT.get_ptr_mut(0).map(Self)
    }

    /// Adds some. Nothing here can fail; the verifier wants the check.
    #[inline(always)] // as above
    pub fn add(self, counter: Counter, more: u64) {
        // SAFETY: the entry belongs to this CPU, and a BPF program is not interrupted by itself.
        #[allow(unsafe_code, reason = "map values are raw pointers")]
        let counts = unsafe { &mut *self.0 };
        // The compiler knows that there is no counter behind the last, and would leave the check away.
        if let Some(count) = counts.get_mut(black_box(counter as usize)) {
            *count += more;
        }
    }
}

/// Adds one.
#[inline(always)] // as below
pub fn one(counter: Counter) {
    add(counter, 1);
}

/// Adds some.
#[inline(always)] // a call would cost more than the addition
pub fn add(counter: Counter, more: u64) {
    if let Some(mine) = Mine::get() {
        mine.add(counter, more);
    }
}
