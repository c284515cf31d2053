//! What the programs are told of the kernel that runs.

use std::borrow::Cow;
use std::fs;

use aya::EbpfLoader;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use rustix::time::{ClockId, clock_getres};
use sni_router_common::names::{self, GLOBAL_CLOCK, GLOBAL_SUMMED};
use sni_router_common::running::{Clock, Summed, Told, inlined};
use sni_router_common::taken::Request;
use tracing::{debug, info};
use zerocopy::FromBytes as _;

use super::inline::{Inlined, Instruction, inline};
use super::types::Types;
use super::untyped::untyped;
use super::verified::verified;

/// What is known. Without any of it the programs ask the kernel.
#[derive(Debug, Default)]
pub struct Running {
    /// Where a request has what is read of it.
    pub request: Option<Request>,
    /// Where the kernel notes what a checksum covers, and the instructions that get there.
    summed: Option<(Summed, Inlined)>,
    /// How jiffies become the monotonic clock, once the programs were told.
    pub clock: Clock,
    /// Whether the kernel has types, by which it knows a context where it is an argument.
    has_types: bool,
}

impl Running {
    /// By the types of the kernel.
    pub fn find() -> Self {
        let bytes = fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
        let types = Types::read(&bytes);
        Self {
            request: types.as_ref().and_then(request),
            summed: types.as_ref().and_then(summed),
            clock: Clock::default(),
            has_types: types.is_some(),
        }
    }

    /// Tells the programs, and answers with the object as it is to be loaded.
    ///
    /// First a small one of them is run: whether the kernel takes instructions that depend on its version shows where
    /// only they are lost if it does not.
    pub fn tell<'a>(&'a mut self, loader: &mut EbpfLoader<'a>, object: &'a [u8]) -> Cow<'a, [u8]> {
        let Self {
            summed,
            clock,
            has_types,
            ..
        } = self;
        for (map, _) in LARGE {
            // They take long to make.
            loader.map_max_entries(map, 1);
        }
        let mut told = Err("nothing is known".into());
        let mut found = Cow::Borrowed(object);
        if let Some((summed, inlined)) = &*summed {
            match inline(object, inlined) {
                Some(inlined) => {
                    loader.override_global(GLOBAL_SUMMED, summed, true);
                    told = ask(loader, &inlined);
                    found = Cow::Owned(inlined);
                }
                None => debug!("the programs have no calls to be replaced"),
            }
        }
        if let Err(error) = &told {
            info!(%error, "the programs ask the kernel what checksums cover");
            loader.override_global(GLOBAL_SUMMED, &UNKNOWN, true);
            found = Cow::Borrowed(object);
            told = ask(loader, object);
        }
        match (told, period()) {
            (Ok(told), Some(period)) => *clock = told.clock(period),
            (Ok(_), None) => {}
            // Whoever loads the others will say it, too.
            (Err(error), _) => debug!(%error, "the programs ask the kernel for the time"),
        }
        debug!(?summed, ?clock, "what the programs are told");
        loader.override_global(GLOBAL_CLOCK, &*clock, true);
        for (map, entries) in LARGE {
            loader.map_max_entries(map, entries);
        }
        if *has_types {
            return found;
        }
        untyped(&found).map_or(found, Cow::Owned)
    }
}

#[cfg(test)]
impl Running {
    /// As on a kernel whose types promise more than it keeps.
    #[allow(dead_code, reason = "for tests that may load programs")]
    pub fn wrong() -> Self {
        let mut wrong = Self::find();
        let nobody = Instruction::call_of_kernel(i32::MAX as u32);
        if let (Some((_, inlined)), Some(nobody)) = (&mut wrong.summed, nobody) {
            inlined[0].1 = nobody;
        }
        wrong
    }
}

/// Runs the program that tells what the kernel counts, and whose instructions it must take.
fn ask(loader: &mut EbpfLoader<'_>, object: &[u8]) -> Result<Told, Box<dyn std::error::Error>> {
    let mut ebpf = loader.load(object)?;
    let program = ebpf.program_mut(names::PROG_ASK);
    let program: &mut SchedClassifier = program.ok_or("it is not there")?.try_into()?;
    verified(|| program.load())?;
    let mut packet = [0; 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&[0; 64]);
    options.data_out = Some(&mut packet);
    let ran = program.test_run(options)?;
    if ran.return_value != 0 {
        return Err("it could not say so".into());
    }
    let (told, _) = Told::read_from_prefix(&packet).map_err(|_| "it has said less")?;
    Ok(told)
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

/// Maps that the program that is run first does without, and how many entries they have for the others.
const LARGE: [(&str, u32); 5] = [
    (names::MAP_RULES, names::MAX_RULES),
    (names::MAP_SOCKS, names::MAX_SLOTS),
    (names::MAP_SLOTS, names::MAX_SLOTS),
    (names::MAP_STREAMS, names::MAX_SLOTS),
    (names::MAP_FLOWS, names::MAX_FLOWS),
];

const UNKNOWN: Summed = Summed {
    mask: 0,
    partial: 0,
    complete: 0,
};

// include/linux/skbuff.h
const CHECKSUM_COMPLETE: u32 = 2;
const CHECKSUM_PARTIAL: u32 = 3;

#[cfg(test)]
mod tests {
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
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
        let Some((summed, _)) = Running::find().summed else {
            let is_before = |it| release.starts_with(it);
            assert!(
                ["5.", "6.0", "6.1."].into_iter().any(is_before),
                "{release}"
            );
            return;
        };
        assert_eq!(summed.mask, summed.partial);
        assert_eq!(summed.mask.count_ones(), 2);
        assert_eq!(summed.complete.count_ones(), 1);
    }
}
