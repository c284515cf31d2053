//! Waiting on descriptors that are not sockets.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `owner`'s descriptor with the runtime, to wait until it is readable.
pub fn readable<T: AsFd + AsRawFd + 'static>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `AsFd` promises that the descriptor is open as long as `owner` can be borrowed, and
    // the result owns `owner`; the types used here answer `AsRawFd` with the same descriptor
    // every time.
    let registered = unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) };
    Ok(registered?)
}
