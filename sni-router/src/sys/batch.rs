//! Reading many entries of a BPF hash map in one system call.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// A walk through a map, from bucket to bucket.
pub struct Walk {
    key_bytes: usize,
    value_bytes: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
    /// Where the next call begins: the number of a bucket.
    cursor: Option<u32>,
    is_over: bool,
}

/// The part of `union bpf_attr` that batches use (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl Walk {
    /// At the beginning of a map whose keys and values have these sizes.
    pub fn new(key_bytes: usize, value_bytes: usize) -> Self {
        Self {
            key_bytes,
            value_bytes,
            keys: vec![0; BATCH * key_bytes],
            values: vec![0; BATCH * value_bytes],
            cursor: None,
            is_over: false,
        }
    }

    /// The next entries; none at the end. Entries that come or go meanwhile may be missed, others
    /// are not (`__htab_map_lookup_and_delete_batch`, kernel/bpf/hashtab.c; Linux 5.6).
    pub fn next<'w>(
        &'w mut self,
        map: BorrowedFd<'_>,
    ) -> io::Result<impl Iterator<Item = (&'w [u8], &'w [u8])> + use<'w>> {
        let mut count = 0;
        if !self.is_over {
            let mut cursor = self.cursor.unwrap_or_default();
            let first = self.cursor.is_none();
            let mut attr = Attr {
                in_batch: if first { 0 } else { address(&raw const cursor) },
                out_batch: address(&raw const cursor),
                keys: address(self.keys.as_mut_ptr()),
                values: address(self.values.as_mut_ptr()),
                count: BATCH as u32,
                map_fd: map.as_raw_fd() as u32,
                ..Attr::default()
            };
            // SAFETY: the buffers have room for `count` keys and values, and outlive the call; the
            // kernel reads and writes the cursor as four bytes.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_bpf,
                    BPF_MAP_LOOKUP_BATCH,
                    &raw mut attr,
                    size_of::<Attr>(),
                )
            };
            // SAFETY: the kernel may have written to it behind the compiler's back.
            self.cursor = Some(unsafe { (&raw mut cursor).read_volatile() });
            if result < 0 {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::ENOENT) {
                    return Err(error);
                }
                self.is_over = true;
            }
            count = attr.count as usize;
        }
        let keys = self.keys.chunks_exact(self.key_bytes);
        let values = self.values.chunks_exact(self.value_bytes);
        Ok(keys.zip(values).take(count))
    }
}

fn address<T>(pointer: *const T) -> u64 {
    pointer as u64
}

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// More than any bucket holds.
const BATCH: usize = 1024;
