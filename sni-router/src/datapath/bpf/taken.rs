//! Packets that `snir_tc` takes for this process.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use rustix::param::page_size;
use sni_router_common::handshake::millis;
use sni_router_common::taken::{Taken, until};
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes as _;

use crate::monotonic::now_ns;
use crate::sys::readable::readable;
use crate::sys::shared::SharedArray;

/// The ring of such packets, and until when clients are taken. Nobody is before somebody has asked for it.
pub struct Taking {
    ring: RingBuf<MapData>,
    until: Until,
}

/// Until when the clients of an interface are taken.
pub struct Until(SharedArray);

/// The ring, on a runtime.
pub struct Ring(AsyncFd<RingBuf<MapData>>);

impl Taking {
    pub(super) fn new(ring: RingBuf<MapData>, until: impl AsFd) -> io::Result<Self> {
        let bytes = until::WORDS as usize * size_of::<u64>();
        let until = SharedArray::map(until, bytes.next_multiple_of(page_size()))?;
        Ok(Self {
            ring,
            until: Until(until),
        })
    }

    /// Both on the runtime that calls this.
    pub fn start(self) -> io::Result<(Ring, Until)> {
        Ok((Ring(readable(self.ring)?), self.until))
    }
}

impl Ring {
    /// Waits until there are packets, and calls `each` with some of them: with what is known of one, and its
    /// payload.
    pub async fn next(&mut self, mut each: impl FnMut(&Taken, &[u8])) -> io::Result<()> {
        let mut ready = self.0.readable_mut().await?;
        let ring = ready.get_inner_mut();
        // Not all: while they are read, more may come, and whoever waits has other things to do.
        if !(0..AT_ONCE).all(|_| read(ring, &mut each)) {
            ready.clear_ready();
        }
        Ok(())
    }

    /// The same with those that are there, if any.
    pub fn some(&mut self, mut each: impl FnMut(&Taken, &[u8])) {
        let ring = self.0.get_mut();
        let _ = (0..AT_ONCE).all(|_| read(ring, &mut each));
    }
}

/// Calls `each` with the next one. False where there is none.
fn read(ring: &mut RingBuf<MapData>, each: &mut impl FnMut(&Taken, &[u8])) -> bool {
    let Some(item) = ring.next() else {
        return false;
    };
    if let Ok((taken, payload)) = Taken::read_from_prefix(&item) {
        each(&taken, payload);
    }
    true
}

/// Packets that are read before whoever reads may look up.
const AT_ONCE: usize = 64;

impl Until {
    /// Takes clients of this interface for so long, from now on.
    pub fn extend(&self, ifindex: u32, time: Duration) {
        let now = millis(now_ns());
        let then = now.wrapping_add(time.as_millis() as u32);
        let at = until::index(ifindex) as usize * size_of::<u64>();
        let word = until::word(ifindex, then);
        self.0.word(at).store(word, Ordering::Relaxed);
    }

    /// Takes nobody any more.
    pub fn stop(&self) {
        self.0.clear(0, until::WORDS as usize * size_of::<u64>());
    }
}
