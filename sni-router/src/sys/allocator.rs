//! Where memory comes from, and giving it back.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use mimalloc::MiMalloc;
use rustix::thread::disable_transparent_huge_pages;

// What a connection leaves is allocated by a worker and freed by the control thread, thousands of
// times a second; and the allocator of a static binary (musl) takes a lock for everything.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Gives the system back what this thread, and threads that have ended, have freed; and has all that call [`answer`] do
/// so. By itself the allocator does so only while it is used.
pub fn give_back() {
    ASKED.fetch_add(1, Ordering::Relaxed);
    answer();
}

/// Gives the system back what this thread has freed, if somebody has asked for it since it last did. For runtimes'
/// threads, each time that they are about to wait.
pub fn answer() {
    let asked = ASKED.load(Ordering::Relaxed);
    if ANSWERED.replace(asked) != asked {
        // SAFETY: no condition; it is called on an allocator that may be called by all threads.
        unsafe { libmimalloc_sys::mi_collect(true) }
    }
}

/// How often somebody has asked.
static ASKED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// How often somebody had, when this thread last did so.
    static ANSWERED: Cell<u32> = const { Cell::new(0) };
}

/// Has memory come in small pages from now on. The allocator asks for huge ones, of which the kernel gives some
/// and takes them back as it likes: a process seems to need 2 MB more or less from one moment to the next, for
/// connections of a few hundred bytes, and nothing that was measured is faster for it.
pub fn use_small_pages() {
    // Kernels without huge pages say no.
    let _ = disable_transparent_huge_pages(true);
}
