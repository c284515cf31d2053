//! Where memory comes from, and giving it back.

use mimalloc::MiMalloc;

// What a connection leaves is allocated by a worker and freed by the control thread, thousands of
// times a second; and the allocator of a static binary (musl) takes a lock for everything.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Gives the system back what this thread, and threads that have ended, have freed. By itself the
/// allocator does so only while it is used.
pub fn give_back() {
    // SAFETY: no condition; it is called on an allocator that may be called by all threads.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
