//! What the programs are told of the kernel that runs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};

use rustix::time::{ClockId, clock_getres};
use sni_router_common::running::{Clock, Summed, inlined};
use sni_router_common::taken::Request;

use super::inline::{Inlined, Instruction};
use super::types::Types;

/// What is known. Without any of it the programs ask the kernel.
#[derive(Debug, Default)]
pub struct Running {
    /// Where a request has what is read of it.
    pub request: Option<Request>,
    /// How jiffies become the monotonic clock.
    pub clock: Option<Clock>,
    /// Where the kernel notes what a checksum covers, and the instructions that get there. For kernels that compile
    /// programs; an interpreter cannot call what is no helper.
    pub summed: Option<(Summed, Inlined)>,
}

impl Running {
    pub fn find() -> Self {
        let timers = File::open("/proc/timer_list").ok();
        let clock = timers.and_then(|file| clock_of(BufReader::new(file), period()?));
        let bytes = fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
        let types = Types::read(&bytes);
        Self {
            request: types.as_ref().and_then(request),
            clock,
            summed: types.as_ref().and_then(summed),
        }
    }
}

/// Where a request has what the program reads of it; `None` where the kernel does not say, or nobody may read
/// its memory: the program then has no instruction that does.
fn request(types: &Types<'_>) -> Option<Request> {
    if is_confidential() {
        return None;
    }
    // A request of TCP begins with one of IP, and that with what all have.
    let bits = types.bits("inet_request_sock", "rcv_wscale")?;
    let byte = |member| Some(types.bits("tcp_request_sock", member)? / 8);
    Some(Request {
        received: byte("rcv_isn")?,
        sent: byte("snt_isn")?,
        scale: bits / 8,
        shift: bits % 8,
    })
}

/// Whether not even root may read the kernel's memory (kernel_lockdown(7)).
fn is_confidential() -> bool {
    let mode = fs::read_to_string("/sys/kernel/security/lockdown");
    mode.is_ok_and(|mode| mode.contains("[confidentiality]"))
}

/// Where the kernel notes what a packet's checksum covers, if programs may look.
fn summed(types: &Types<'_>) -> Option<(Summed, Inlined)> {
    // Bits are counted from the other end elsewhere, and not every kernel can compile calls of what is no helper.
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return None;
    }
    let function = types.function("bpf_cast_to_kern_ctx")?;
    let bits = types.bits("sk_buff", "ip_summed")?;
    let offset = i16::try_from(bits / 8).ok()?;
    let shift = bits % 8;
    // Two bits of a byte (include/linux/skbuff.h).
    if shift > 6 {
        return None;
    }
    let summed = Summed {
        mask: 3 << shift,
        partial: CHECKSUM_PARTIAL << shift,
        complete: CHECKSUM_COMPLETE << shift,
    };
    let inlined = [
        (inlined::SKB, Instruction::call_of_kernel(function)?),
        (inlined::SUMMED, Instruction::load_byte(offset)),
    ];
    Some((summed, inlined))
}

/// Nanoseconds from one jiffy to the next: what clocks are exact to that are read by timer interrupts.
fn period() -> Option<u64> {
    let period = clock_getres(ClockId::MonotonicCoarse);
    let period = u64::try_from(period.tv_nsec).ok()?;
    (period > 0).then_some(period)
}

/// How they become the monotonic clock, by /proc/timer_list (kernel/time/timer_list.c), which begins with both as they
/// are when it is read. On large machines it is long, and the kernel makes it while it is read.
fn clock_of(timers: impl BufRead, period: u64) -> Option<Clock> {
    let mut now = None;
    for line in timers.lines() {
        let line = line.ok()?;
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next(), words.next(), now) {
            (Some("now"), Some("at"), Some(nanoseconds), _) => {
                now = Some(nanoseconds.parse().ok()?)
            }
            (Some("jiffies:"), Some(count), None, Some(now)) => {
                let count: u64 = count.parse().ok()?;
                let offset = u64::wrapping_sub(now, count.wrapping_mul(period));
                return Some(Clock { period, offset });
            }
            _ => {}
        }
    }
    None
}

// include/linux/skbuff.h
const CHECKSUM_COMPLETE: u32 = 2;
const CHECKSUM_PARTIAL: u32 = 3;

#[cfg(test)]
mod tests {
    use sni_router_common::flow::tick;

    use super::*;

    #[test]
    fn this_kernel_says_where_a_request_has_its_numbers() {
        let request = Running::find().request.expect("a kernel with BTF");
        // Side by side for as long as there are both.
        assert_eq!(request.sent, request.received + 4);
        assert!(request.scale < request.received, "{request:?}");
        assert_eq!(request.shift, 4);
    }

    #[test]
    fn this_kernel_says_what_a_checksum_covers() {
        let (summed, _) = Running::find().summed.expect("Linux 6.2");
        assert_eq!(summed.mask, summed.partial);
        assert_eq!(summed.mask.count_ones(), 2);
        assert_eq!(summed.complete.count_ones(), 1);
    }

    #[test]
    fn jiffies_become_the_clock_that_everybody_reads() {
        let text = "Timer List Version: v0.10\nnow at 7500000000 nsecs\n\ncpu: 0\n  .jiffies: no\n\
                    jiffies: 4294893671\njiffies: 1\n";
        let clock = clock_of(text.as_bytes(), 4_000_000).unwrap();
        assert_eq!(clock.tick(4_294_893_671), tick(7_500_000_000));
        assert_eq!(clock.tick(4_294_893_671 + 1_000), tick(11_500_000_000));
        for text in [
            "",
            "now at x nsecs\njiffies: 5",
            "jiffies: 5",
            "now at 5 nsecs\n",
        ] {
            assert_eq!(clock_of(text.as_bytes(), 4_000_000), None, "{text:?}");
        }
    }
}
