//! Pipes for `splice(2)`, pooled per worker thread: making one takes three system calls.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// An empty pipe on loan from the thread's pool; it goes back when dropped empty.
pub(super) struct Pipe {
    ends: Option<Ends>,
    /// Bytes inside.
    pub(super) filled: usize,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// Takes a pipe from the pool, or makes one.
    pub(super) fn take() -> io::Result<Self> {
        let ends = match POOL.with_borrow_mut(Vec::pop) {
            Some(ends) => ends,
            None => Ends::new()?,
        };
        Ok(Self {
            ends: Some(ends),
            filled: 0,
        })
    }

    /// The end to splice out of.
    pub(super) fn read_end(&self) -> &OwnedFd {
        &self.ends().read
    }

    /// The end to splice into.
    pub(super) fn write_end(&self) -> &OwnedFd {
        &self.ends().write
    }

    fn ends(&self) -> &Ends {
        self.ends.as_ref().expect("taken only by drop")
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        if self.filled == 0 {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOLED {
                    pool.push(ends);
                }
            });
        }
    }
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused where the user's pipe quota is used up: a small pipe works too.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Self { read, write })
    }
}

thread_local! {
    static POOL: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

/// Pipes kept per thread; two descriptors each.
const POOLED: usize = 64;

/// The default of `fs.pipe-max-size`.
pub(super) const PIPE_BYTES: usize = 1 << 20;
