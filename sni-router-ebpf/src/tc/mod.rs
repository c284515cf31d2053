//! The `tc` datapath: packets of connections that were handed over become packets of the other
//! connection, and leave. Everything else goes on to whoever is next.
//!
//! `docs/datapaths.md` has the states of a flow and their order.
//!
//! What the verifier follows anew for everything that may be known where it is called adds up to seconds: loops, and
//! what comes after many decisions. Such functions are "global" (`do_check_subprogs()`, kernel/bpf/verifier.c): it
//! follows them once, on their own, knowing nothing of their arguments but the types, and nothing of what they
//! answer. Their types (BTF) say so, as the linker exports their names, `snir_…`. What they are given are numbers, the
//! context, or pointers to structs without holes, which may be null (Linux 5.13).

mod answer;
mod ask;
mod clock;
mod errors;
mod intact;
mod lead;
mod leave;
mod note;
mod observe;
mod options;
mod other;
mod packet;
mod request;
mod splice;
mod summed;
mod take;

use aya_ebpf::programs::TcContext;
use sni_router_common::flow::FlowKey;

use crate::maps::{FLOWS, PORTS};

pub use ask::ask;
pub use lead::lead;
pub use observe::Observed;
pub use other::Other;
pub use splice::Spliced;

/// What became of a packet.
pub enum Fate {
    /// Not a packet of a flow: the stack goes on as usual.
    NotOurs,
    /// It is of a flow.
    Ours(Spliced),
    /// It is of no flow, and opens one.
    Opens(Observed),
    /// It is no plain TCP packet.
    Unlike(Other),
}

/// Judges a packet whose IP header starts at `l2`.
#[inline(always)] // the verifier follows packet pointers through one function only
pub fn judge(ctx: &TcContext, l2: u32) -> Fate {
    let Some((key, packet)) = packet::parse(ctx, l2) else {
        return Fate::Unlike(other::judge(ctx, l2));
    };
    if !is_watched(&key) {
        return Fate::NotOurs;
    }
    // Not a copy of it.
    let place = &key;
    let flow = match FLOWS.get_ptr_mut(place) {
        Some(flow) => flow,
        None => match observe::observe(ctx, &key, &packet) {
            // A flow may be there by now: the daemon makes it, and then forgets the handshake. The stack knows neither.
            Observed::Unknown => match FLOWS.get_ptr_mut(place) {
                Some(flow) => flow,
                None => return Fate::Opens(Observed::Unknown),
            },
            observed => return Fate::Opens(observed),
        },
    };
    let spliced = splice::splice(ctx, &key, &packet, flow);
    if matches!(spliced, Spliced::Reopened) {
        observe::observe(ctx, &key, &packet);
    }
    Fate::Ours(spliced)
}

/// Whether a packet's port is one of ours. Keeps everybody else's packets out of the hash maps.
fn is_watched(key: &FlowKey) -> bool {
    let port = key.dport();
    let Some(word) = PORTS.get_ptr(u32::from(port >> 6)) else {
        return false;
    };
    // SAFETY: the pointer is into an array map, and a word is read whole.
    #[allow(unsafe_code, reason = "map values are raw pointers")]
    let word = unsafe { word.read_volatile() };
    word & (1 << (port & 63)) != 0
}
