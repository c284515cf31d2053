//! The state of one direction of a connection that the `sockmap` datapath carries.
//!
//! A connection has two slots, an even one for the client's socket and the odd one after it for
//! the endpoint's. `Stream[n]` describes the bytes *received* on the socket of slot `n`.
//!
//! The kernel has no back-pressure between the two sockets: what is redirected counts as read, so
//! the sender's window never closes and the queue in front of a slow receiver grows without
//! bound. Hence a limit: the program redirects while `redirected` stays within `limit`, which the
//! daemon raises as the receiving socket takes bytes. Beyond the limit bytes are passed to the
//! receiving socket's own queue, where the window does close, and the daemon copies them. Bytes
//! keep their order because the program goes back to redirecting only once everything passed has
//! been consumed.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One direction. The first cache line is written by the kernel program only, under the socket's
/// lock; the second by the daemon only. All counts are bytes since the slot was taken.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub struct Stream {
    /// Bytes redirected to the peer.
    pub redirected: u64,
    /// Bytes passed up to the socket's own queue for the daemon to copy.
    pub passed: u64,
    /// Socket buffers seen.
    pub packets: u64,
    _kernel: [u64; 5],
    /// `redirected` never exceeds this.
    pub limit: u64,
    /// An event is written when `redirected` first reaches this.
    pub notify_at: u64,
    /// Passed bytes that the daemon has read and written to the peer.
    pub consumed: u64,
    _daemon: [u64; 5],
}

/// What the ring buffer carries: the slot whose direction neared its limit or passed bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Event {
    /// The slot.
    pub slot: u32,
}

/// Byte offsets of the fields the daemon reads and writes through its mapping.
pub mod offset {
    use core::mem::offset_of;

    use super::Stream;

    /// Of [`Stream::redirected`].
    pub const REDIRECTED: usize = offset_of!(Stream, redirected);
    /// Of [`Stream::passed`].
    pub const PASSED: usize = offset_of!(Stream, passed);
    /// Of [`Stream::packets`].
    pub const PACKETS: usize = offset_of!(Stream, packets);
    /// Of [`Stream::limit`].
    pub const LIMIT: usize = offset_of!(Stream, limit);
    /// Of [`Stream::notify_at`].
    pub const NOTIFY_AT: usize = offset_of!(Stream, notify_at);
    /// Of [`Stream::consumed`].
    pub const CONSUMED: usize = offset_of!(Stream, consumed);
}

const _: () = assert!(size_of::<Stream>() == 128);
const _: () = assert!(offset::LIMIT == 64);
const _: () = assert!(size_of::<Event>() == 4);
