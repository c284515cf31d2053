//! Steering new connections to the router's listening sockets.

use aya_ebpf::bindings::{BPF_SK_LOOKUP_F_REPLACE, bpf_sk_lookup};
use aya_ebpf::programs::SkLookupContext;
use sni_router_common::names::{LISTEN_V4, LISTEN_V6};
use sni_router_common::rule::{RuleKey, network_words};

use crate::maps::{LISTEN, RULES};

/// What became of a look-up.
pub enum Steer {
    /// No rule: the kernel goes on as usual.
    NotOurs,
    /// The router's socket group takes the connection.
    Taken,
    /// A rule, but the router has no socket for it (yet, or any more).
    NoSocket,
    /// A rule and a socket that the kernel refused.
    AssignFailed,
}

/// Looks for a rule of the exact address, then for one of every address.
pub fn steer(ctx: &SkLookupContext) -> Steer {
    let Some((addr, port, listen)) = local(ctx) else {
        return Steer::NotOurs;
    };
    if RULES.get_ptr(RuleKey::new(addr, port)).is_none()
        && RULES.get_ptr(RuleKey::any(port)).is_none()
    {
        return Steer::NotOurs;
    }
    // The programs of two routers run one after the other while one takes over. Without the flag the
    // older one's choice would stand.
    match LISTEN.redirect_sk_lookup(ctx, listen, REPLACE) {
        Ok(()) => Steer::Taken,
        Err(errno) if errno == -ENOENT => Steer::NoSocket,
        Err(_) => Steer::AssignFailed,
    }
}

/// Local address and port, and which listening socket suits; `None` unless it is TCP over IP.
#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "context access"
)]
fn local(ctx: &SkLookupContext) -> Option<([u8; 16], u16, u32)> {
    let lookup: *const bpf_sk_lookup = ctx.lookup;
    // Every field is loaded before any is looked at, and volatile: the verifier takes loads of
    // whole fields at fixed offsets only, and the compiler likes to merge the loads of two
    // branches into one through a computed pointer.
    // SAFETY: the context is valid while the program runs.
    let (protocol, family, port, v4, v6) = unsafe {
        (
            (&raw const (*lookup).protocol).read_volatile(),
            (&raw const (*lookup).family).read_volatile(),
            (&raw const (*lookup).local_port).read_volatile(),
            (&raw const (*lookup).local_ip4).read_volatile(),
            [
                (&raw const (*lookup).local_ip6[0]).read_volatile(),
                (&raw const (*lookup).local_ip6[1]).read_volatile(),
                (&raw const (*lookup).local_ip6[2]).read_volatile(),
                (&raw const (*lookup).local_ip6[3]).read_volatile(),
            ],
        )
    };
    if protocol != IPPROTO_TCP {
        return None;
    }
    // The port is in host order, the addresses are in network order (uapi/linux/bpf.h).
    let port = port as u16;
    match family {
        AF_INET => Some((network_words([0, 0, V4_MAPPED, v4]), port, LISTEN_V4)),
        AF_INET6 => Some((network_words(v6), port, LISTEN_V6)),
        _ => None,
    }
}

const REPLACE: u64 = BPF_SK_LOOKUP_F_REPLACE as u64;
const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const ENOENT: i32 = 2;

/// The third word of `::ffff:a.b.c.d`.
const V4_MAPPED: u32 = 0xffff_u32.to_be();
