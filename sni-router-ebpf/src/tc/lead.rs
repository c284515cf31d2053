//! What the daemon changes of a flow that lives.
//!
//! In place: an entry that is replaced is another flow's a moment later, whereas a packet that is being judged still has
//! it in hand; and what the packet notes would be lost.

use aya_ebpf::programs::TcContext;
use sni_router_common::flow::{Led, option};

use crate::maps::FLOWS;

/// Has a direction leave by another interface, as a packet says. `None` where there is no such flow, or it has ended.
pub fn lead(ctx: &TcContext) -> Option<()> {
    let led: Led = ctx.load(0).ok()?;
    let flow = FLOWS.get_ptr_mut(led.key)?;
    // SAFETY: the pointer is into the map. An entry that is deleted meanwhile stays readable until
    // the program has ended.
    #[allow(unsafe_code, reason = "map values are raw pointers")]
    let flow = unsafe { &mut *flow };
    if flow.id != led.id || flow.closed != 0 {
        return None;
    }
    flow.ifindex = led.ifindex;
    flow.mtu = led.mtu;
    flow.options = match led.shortcut {
        0 => flow.options & !option::SHORTCUT,
        _ => flow.options | option::SHORTCUT,
    };
    Some(())
}
