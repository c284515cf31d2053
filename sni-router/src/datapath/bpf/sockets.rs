//! The maps of the `sockmap` datapath.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::sock::SockMapFd;
use aya::maps::{HashMap, MapData, RingBuf, SockHash};
use sni_router_common::names::MAX_SLOTS;
use sni_router_common::stream::{Stream, offset};

use super::io_error;
use crate::sys::readable::readable;
use crate::sys::shared::SharedArray;

/// Sockets by slot, slots by cookie, and the streams in shared memory.
pub struct Sockets {
    socks: Mutex<SockHash<MapData, u32>>,
    socks_fd: SockMapFd,
    slots: Mutex<HashMap<MapData, u64, u32>>,
    streams: SharedArray,
    events: Mutex<Option<RingBuf<MapData>>>,
}

impl Sockets {
    pub(super) fn new(
        socks: SockHash<MapData, u32>,
        slots: HashMap<MapData, u64, u32>,
        streams: &MapData,
        events: RingBuf<MapData>,
    ) -> io::Result<Self> {
        let socks_fd = socks.fd().try_clone()?;
        let bytes = MAX_SLOTS as usize * size_of::<Stream>();
        // The mapping keeps the map alive; its descriptor is not needed any more.
        let streams = SharedArray::map(streams.fd().as_fd(), bytes)?;
        Ok(Self {
            socks: Mutex::new(socks),
            socks_fd,
            slots: Mutex::new(slots),
            streams,
            events: Mutex::new(Some(events)),
        })
    }

    pub(super) fn fd(&self) -> &SockMapFd {
        &self.socks_fd
    }

    /// Puts a socket into a slot whose stream has been prepared. From now on what it receives is
    /// judged by `snir_verdict`.
    pub fn insert(&self, slot: u32, cookie: u64, socket: impl AsFd) -> io::Result<()> {
        lock(&self.slots)
            .insert(cookie, slot, 0)
            .map_err(io_error)?;
        let inserted = lock(&self.socks).insert(slot, socket.as_fd().as_raw_fd(), 0);
        if inserted.is_err() {
            self.forget(cookie);
        }
        inserted.map_err(io_error)
    }

    /// Forgets a closed socket's cookie. The socket itself has left its map when it was closed.
    pub fn forget(&self, cookie: u64) {
        // Fails only where the cookie is not there.
        let _ = lock(&self.slots).remove(&cookie);
    }

    /// The stream of a slot.
    pub fn stream(&self, slot: u32) -> StreamView<'_> {
        StreamView {
            streams: &self.streams,
            base: slot as usize * size_of::<Stream>(),
        }
    }

    /// Calls `on_event` with the slot of each event, until the task is dropped. Can be run once.
    pub async fn events(&self, mut on_event: impl FnMut(u32)) -> io::Result<()> {
        let ring = lock(&self.events)
            .take()
            .ok_or(io::ErrorKind::ResourceBusy)?;
        let mut ring = readable(ring)?;
        loop {
            let mut ready = ring.readable_mut().await?;
            while let Some(event) = ready.get_inner_mut().next() {
                if let Ok(slot) = <[u8; 4]>::try_from(&*event) {
                    on_event(u32::from_ne_bytes(slot));
                }
            }
            ready.clear_ready();
        }
    }
}

/// One direction's counts, in memory shared with the kernel.
#[derive(Clone, Copy)]
pub struct StreamView<'s> {
    streams: &'s SharedArray,
    base: usize,
}

impl StreamView<'_> {
    /// Starts a fresh stream. Only for a slot whose socket is in no map.
    pub fn reset(&self, limit: u64, notify_at: u64) {
        self.streams.clear(self.base, size_of::<Stream>());
        self.grant(limit, notify_at);
    }

    /// Lets the program redirect up to `limit` bytes in all, and write an event at `notify_at`.
    pub fn grant(&self, limit: u64, notify_at: u64) {
        // In this order a program that sees the new limit also sees when to write the event.
        self.store(offset::NOTIFY_AT, notify_at);
        self.store(offset::LIMIT, limit);
    }

    /// Says that `bytes` of the passed ones, in all, have been written to the peer.
    pub fn consume(&self, bytes: u64) {
        self.store(offset::CONSUMED, bytes);
    }

    /// Bytes redirected.
    pub fn redirected(&self) -> u64 {
        self.load(offset::REDIRECTED)
    }

    /// Bytes passed up.
    pub fn passed(&self) -> u64 {
        self.load(offset::PASSED)
    }

    /// Passed bytes that were written to the peer.
    pub fn consumed(&self) -> u64 {
        self.load(offset::CONSUMED)
    }

    fn load(&self, field: usize) -> u64 {
        self.streams.word(self.base + field).load(Ordering::Acquire)
    }

    fn store(&self, field: usize, value: u64) {
        self.streams
            .word(self.base + field)
            .store(value, Ordering::Release);
    }
}

/// A thread that panicked while holding a map leaves it as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
