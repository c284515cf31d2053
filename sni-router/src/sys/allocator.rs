//! Where memory comes from, and giving it back.

use mimalloc::MiMalloc;
use rustix::thread::disable_transparent_huge_pages;

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

/// Has memory come in small pages from now on. The allocator asks for huge ones, of which the kernel gives some
/// and takes them back as it likes: a process seems to need 2 MB more or less from one moment to the next, for
/// connections of a few hundred bytes, and nothing that was measured is faster for it.
pub fn use_small_pages() {
    // Kernels without huge pages say no.
    let _ = disable_transparent_huge_pages(true);
}
