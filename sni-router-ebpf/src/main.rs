//! The kernel programs of sni-router. Every program is an attribute, one call and one `match`
//! from what happened to what the kernel shall do.
//!
//! On the host this compiles to an empty program, so that lints and unit tests see the code.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod count;
mod lookup;
mod maps;
mod tc;
mod verdict;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::macros::{classifier, sk_lookup, stream_verdict};
use aya_ebpf::programs::{SkBuffContext, SkLookupContext, TcContext};
use aya_log_ebpf::debug;
use sni_router_common::counter::Counter;

use crate::lookup::Steer;
use crate::tc::{Fate, Observed, Other, Spliced};
use crate::verdict::Verdict;

/// (VIP, port) → the router's listening sockets.
#[sk_lookup]
pub fn snir_lookup(ctx: SkLookupContext) -> u32 {
    match lookup::steer(&ctx) {
        Steer::NotOurs => SK_PASS,
        Steer::Taken => {
            debug!(&ctx, "a connection is steered to the router");
            count::one(Counter::LookupSteered);
            SK_PASS
        }
        // Never fall through into another program's socket on the same address.
        Steer::NoSocket => {
            debug!(&ctx, "a rule matched, but no socket listens: dropped");
            count::one(Counter::LookupNoSocket);
            SK_DROP
        }
        Steer::AssignFailed => {
            debug!(&ctx, "the kernel refused the listening socket: dropped");
            count::one(Counter::LookupAssignFailed);
            SK_DROP
        }
    }
}

/// Redirects what a carried socket receives to its peer.
#[stream_verdict]
pub fn snir_verdict(ctx: SkBuffContext) -> u32 {
    let counter = match verdict::decide(&ctx) {
        Verdict::Empty => return SK_DROP,
        Verdict::Redirected => Counter::VerdictRedirected,
        Verdict::OverLimit => {
            debug!(&ctx, "the limit is reached: {} bytes passed up", ctx.len());
            Counter::VerdictPassed
        }
        Verdict::NoSlot => {
            debug!(
                &ctx,
                "a socket without a slot: {} bytes passed up",
                ctx.len()
            );
            Counter::VerdictNoSlot
        }
        Verdict::NoPeer => {
            debug!(&ctx, "the peer has left: {} bytes passed up", ctx.len());
            Counter::VerdictNoPeer
        }
    };
    count::one(counter);
    // No byte is ever dropped here: what is not redirected goes to the daemon.
    SK_PASS
}

/// Sends packets of handed-over connections on, from interfaces with an Ethernet header.
#[classifier]
pub fn snir_tc_ether(ctx: TcContext) -> i32 {
    verdict_of(tc::judge(&ctx, ETHER_HEADER))
}

/// The same from interfaces whose packets start with the IP header.
#[classifier]
pub fn snir_tc_ip(ctx: TcContext) -> i32 {
    verdict_of(tc::judge(&ctx, 0))
}

/// Tells the daemon what the others must know of this kernel. Never attached.
#[classifier]
pub fn snir_ask(ctx: TcContext) -> i32 {
    match tc::ask(&ctx) {
        Some(()) => TC_ACT_OK,
        None => TC_ACT_SHOT,
    }
}

/// Changes by which interface a direction of a flow leaves, as the daemon says in a packet. Never attached.
#[classifier]
pub fn snir_lead(ctx: TcContext) -> i32 {
    match tc::lead(&ctx) {
        Some(()) => TC_ACT_OK,
        None => TC_ACT_SHOT,
    }
}

#[inline(always)] // part of both programs
fn verdict_of(fate: Fate) -> i32 {
    let (counter, verdict) = match fate {
        Fate::NotOurs => return TC_ACT_UNSPEC,
        Fate::Ours(Spliced::Redirected(verdict, counts)) => {
            counts.add(Counter::TcRedirected, 1);
            return verdict as i32;
        }
        Fate::Ours(Spliced::Held) => (Counter::TcHeld, TC_ACT_UNSPEC),
        Fate::Ours(Spliced::Repeated) => (Counter::TcEarly, TC_ACT_SHOT),
        Fate::Ours(Spliced::Reopened) => (Counter::TcReopened, TC_ACT_UNSPEC),
        Fate::Ours(Spliced::TtlExceeded(verdict)) => (Counter::TcTtlExceeded, verdict as i32),
        Fate::Ours(Spliced::TooBig(verdict)) => (Counter::TcTooBig, verdict as i32),
        Fate::Ours(Spliced::Marked) => (Counter::TcMarked, TC_ACT_SHOT),
        Fate::Ours(Spliced::Failed) => (Counter::TcFailed, TC_ACT_SHOT),
        Fate::Opens(Observed::Passed | Observed::Unknown) => return TC_ACT_UNSPEC,
        Fate::Opens(Observed::Taken) => (Counter::TcTaken, TC_ACT_SHOT),
        Fate::Opens(Observed::Ended) => (Counter::TcTaken, TC_ACT_UNSPEC),
        Fate::Opens(Observed::Early) => (Counter::TcEarly, TC_ACT_SHOT),
        Fate::Unlike(Other::NotOurs) => return TC_ACT_UNSPEC,
        Fate::Unlike(Other::Odd) => (Counter::TcOdd, TC_ACT_SHOT),
        Fate::Unlike(Other::Translated(verdict)) => (Counter::TcTranslated, verdict as i32),
        Fate::Unlike(Other::Held) => (Counter::TcHeld, TC_ACT_UNSPEC),
        Fate::Unlike(Other::Unbelieved) => (Counter::TcUnbelieved, TC_ACT_UNSPEC),
        Fate::Unlike(Other::Expired) => (Counter::TcTtlExceeded, TC_ACT_SHOT),
        Fate::Unlike(Other::Failed) => (Counter::TcFailed, TC_ACT_SHOT),
    };
    count::one(counter);
    verdict
}

const ETHER_HEADER: u32 = 14;

// include/uapi/linux/pkt_cls.h
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_OK: i32 = 0;
const TC_ACT_SHOT: i32 = 2;

/// Some helpers are for GPL-compatible programs only.
#[allow(unsafe_code, reason = "the loader finds the licence by its section")]
#[cfg_attr(target_arch = "bpf", unsafe(link_section = "license"))]
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("these are kernel programs; sni-router loads them");
    std::process::exit(1);
}
