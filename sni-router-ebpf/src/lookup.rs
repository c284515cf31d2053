//! Steering new connections to the router's listening sockets.

use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use sni_router_common::names::{LISTEN_V4, LISTEN_V6};
use sni_router_common::rule::{RuleKey, v4_mapped};

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
    match LISTEN.redirect_sk_lookup(ctx, listen, 0) {
        Ok(()) => Steer::Taken,
        Err(errno) if errno == -ENOENT => Steer::NoSocket,
        Err(_) => Steer::AssignFailed,
    }
}

/// Local address and port, and which listening socket suits; `None` unless it is TCP over IP.
fn local(ctx: &SkLookupContext) -> Option<([u8; 16], u16, u32)> {
    let lookup: *const bpf_sk_lookup = ctx.lookup;
    // SAFETY: the context is valid while the program runs; the verifier rewrites and checks each
    // field access.
    #[allow(unsafe_code, clippy::multiple_unsafe_ops_per_block, reason = "context access")]
    unsafe {
        if (*lookup).protocol != IPPROTO_TCP {
            return None;
        }
        // local_port is in host order, the addresses are in network order (uapi/linux/bpf.h).
        let port = (*lookup).local_port as u16;
        match (*lookup).family {
            AF_INET => {
                Some((v4_mapped((*lookup).local_ip4.to_ne_bytes()), port, LISTEN_V4))
            }
            AF_INET6 => {
                let words = [
                    (*lookup).local_ip6[0],
                    (*lookup).local_ip6[1],
                    (*lookup).local_ip6[2],
                    (*lookup).local_ip6[3],
                ];
                Some((bytes(words), port, LISTEN_V6))
            }
            _ => None,
        }
    }
}

#[inline(always)] // keeps the array in registers
fn bytes(words: [u32; 4]) -> [u8; 16] {
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
        d[3],
    ]
}

const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const ENOENT: i32 = 2;
