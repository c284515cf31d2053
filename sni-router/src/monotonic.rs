//! The monotonic clock as a number: half as long as an [`Instant`](std::time::Instant), and the same
//! for other processes and for the programs in the kernel.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine has started, the time left out in which it slept.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
