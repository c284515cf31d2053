//! Memory shared with the kernel programs: an array map's values, mapped.

use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The values of a BPF array map created with `BPF_F_MMAPABLE`, as eight-byte words that both
/// sides read and write.
pub struct SharedArray {
    base: NonNull<u64>,
    words: usize,
}

impl SharedArray {
    /// Maps `len` bytes, a multiple of the page size, from the start of the map.
    pub fn map(map: impl AsFd, len: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                0,
            )?
        };
        let base = NonNull::new(base.cast::<u64>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            base,
            words: len / size_of::<u64>(),
        })
    }

    /// The word at `byte`, a multiple of eight.
    ///
    /// # Panics
    /// If `byte` is not the offset of a word of the mapping.
    pub fn word(&self, byte: usize) -> &AtomicU64 {
        let index = byte / size_of::<u64>();
        assert!(byte.is_multiple_of(size_of::<u64>()) && index < self.words);
        // SAFETY: in bounds by the line above, aligned since the mapping is page-aligned.
        let word = unsafe { self.base.add(index) };
        // SAFETY: the mapping lives as long as `self`, and words are only accessed atomically:
        // here as atomics, in the kernel by aligned eight-byte loads and stores.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }

    /// Stores zero into the words of `len` bytes from `byte` on.
    pub fn clear(&self, byte: usize, len: usize) {
        for offset in (byte..byte + len).step_by(size_of::<u64>()) {
            self.word(offset).store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for SharedArray {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `map`; references into it cannot outlive `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.words * size_of::<u64>()) };
        debug_assert!(unmapped.is_ok());
    }
}

// SAFETY: the mapping is owned, and all access to it is atomic.
unsafe impl Send for SharedArray {}
// SAFETY: as above.
unsafe impl Sync for SharedArray {}
