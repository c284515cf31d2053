//! Redirecting between the two sockets of a connection. `sni_router_common::stream` says why
//! there is a limit and how bytes keep their order.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SkBuffContext;
use sni_router_common::counter::Counter;
use sni_router_common::stream::Stream;

use crate::count;
use crate::maps::{EVENTS, SLOTS, SOCKS, STREAMS};

/// What became of a socket buffer.
pub enum Verdict {
    /// It goes to the peer.
    Redirected,
    /// It goes to the daemon: the peer is slow, or passed bytes are still on their way.
    OverLimit,
    /// It carries no bytes, only a FIN, which the socket itself remembers. The backlog of a sock
    /// map takes a buffer that "sends" nothing for a broken peer (sk_psock_backlog,
    /// net/core/skmsg.c).
    Empty,
    /// It goes to the daemon: the socket is not one of ours (any more).
    NoSlot,
    /// It goes to the daemon: the peer's socket has left the map.
    NoPeer,
}

/// Runs under the receiving socket's lock, so that no second buffer of this direction is judged at
/// the same time.
#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "a field of a map value is reached and written in one expression"
)]
pub fn decide(ctx: &SkBuffContext) -> Verdict {
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let Some(slot) = SLOTS.get_ptr(cookie) else {
        return Verdict::NoSlot;
    };
    // SAFETY: a map value stays readable until the program ends; the daemon never changes it.
    let slot = unsafe { *slot };
    let Some(stream) = STREAMS.get_ptr_mut(slot) else {
        return Verdict::NoSlot;
    };
    let len = u64::from(ctx.len());
    if len == 0 {
        return Verdict::Empty;
    }
    let before = Progress::read(stream);
    // SAFETY: only this program writes the field, under the socket's lock.
    unsafe { (&raw mut (*stream).packets).write_volatile(before.packets + 1) };
    if before.passed != before.consumed || before.redirected + len > before.limit {
        return pass(stream, slot, len, &before);
    }
    // Counted first: once the buffer is with the peer, userspace may look at once.
    let after = before.redirected + len;
    // SAFETY: as above.
    unsafe { (&raw mut (*stream).redirected).write_volatile(after) };
    if SOCKS.redirect_skb(ctx, slot ^ 1, 0) != i64::from(SK_PASS) {
        // SAFETY: as above.
        unsafe { (&raw mut (*stream).redirected).write_volatile(before.redirected) };
        pass(stream, slot, len, &before);
        return Verdict::NoPeer;
    }
    // Even slots are clients' (`names::MAP_SOCKS`).
    if slot & 1 == 0 {
        count::add(Counter::VerdictBytesUp, len);
    } else {
        count::add(Counter::VerdictBytesDown, len);
    }
    if before.redirected < before.notify_at && after >= before.notify_at {
        notify(slot);
    }
    Verdict::Redirected
}

/// Lets the buffer go to the daemon, and tells it when it has nothing else to copy.
#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "a field of a map value is reached and written in one expression"
)]
fn pass(stream: *mut Stream, slot: u32, len: u64, before: &Progress) -> Verdict {
    // SAFETY: only this program writes the field, under the socket's lock.
    unsafe { (&raw mut (*stream).passed).write_volatile(before.passed + len) };
    if before.passed == before.consumed {
        notify(slot);
    }
    Verdict::OverLimit
}

fn notify(slot: u32) {
    if EVENTS.output::<[u8; 4]>(&slot.to_ne_bytes(), 0).is_err() {
        count::one(Counter::VerdictEventLost);
    }
}

/// A stream's fields at one moment.
struct Progress {
    redirected: u64,
    passed: u64,
    packets: u64,
    limit: u64,
    notify_at: u64,
    consumed: u64,
}

impl Progress {
    #[inline(always)] // returned by value, which BPF calls cannot
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "map value access"
    )]
    fn read(stream: *mut Stream) -> Self {
        // SAFETY: the pointer is into the array map; fields are aligned and eight bytes long, so a
        // store of the daemon's is seen whole. Volatile, since the daemon writes meanwhile, and in
        // this order: the daemon lowers the limit before it consumes what was passed.
        unsafe {
            Self {
                consumed: (&raw const (*stream).consumed).read_volatile(),
                limit: (&raw const (*stream).limit).read_volatile(),
                notify_at: (&raw const (*stream).notify_at).read_volatile(),
                redirected: (&raw const (*stream).redirected).read_volatile(),
                passed: (&raw const (*stream).passed).read_volatile(),
                packets: (&raw const (*stream).packets).read_volatile(),
            }
        }
    }
}
