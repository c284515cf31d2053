//! The maps of the `tc` datapath.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, RingBuf};
use sni_router_common::flow::{End, Flow, FlowKey, Seen};
use sni_router_common::names::PORT_WORDS;
use zerocopy::IntoBytes as _;

use super::io_error;
use crate::sys::readable::readable;
use crate::sys::shared::SharedArray;

/// Flows, handshakes, and which ports are watched for them.
pub struct Flows {
    flows: Mutex<HashMap<MapData, FlowKey, Flow>>,
    seen: Mutex<HashMap<MapData, FlowKey, Seen>>,
    ports: SharedArray,
    ended: Mutex<Option<RingBuf<MapData>>>,
}

impl Flows {
    pub(super) fn new(
        flows: HashMap<MapData, FlowKey, Flow>,
        seen: HashMap<MapData, FlowKey, Seen>,
        ports: &MapData,
        ended: RingBuf<MapData>,
        reserved: RangeInclusive<u16>,
    ) -> io::Result<Self> {
        // The mapping keeps the map alive; its descriptor is not needed any more.
        let ports = SharedArray::map(ports.fd().as_fd(), PORT_WORDS as usize * size_of::<u64>())?;
        let flows = Self {
            flows: Mutex::new(flows),
            seen: Mutex::new(seen),
            ports,
            ended: Mutex::new(Some(ended)),
        };
        for port in reserved {
            flows.watch(port);
        }
        Ok(flows)
    }

    /// What was seen of the sender of these packets; `None` if its SYN did not come by.
    pub fn seen(&self, key: &FlowKey) -> Option<Seen> {
        lock(&self.seen).get(key, 0).ok()
    }

    /// Forgets a handshake: the connection takes another datapath, and its packets should not be
    /// looked at.
    pub fn forget(&self, key: &FlowKey) {
        // Fails only where it has been forgotten already.
        let _ = lock(&self.seen).remove(key);
    }

    /// Adds a direction. Fails with `AlreadyExists` where there is one.
    pub fn insert(&self, key: &FlowKey, flow: &Flow) -> io::Result<()> {
        lock(&self.flows)
            .insert(key, flow, BPF_NOEXIST)
            .map_err(io_error)
    }

    /// Overwrites a direction.
    pub fn replace(&self, key: &FlowKey, flow: &Flow) -> io::Result<()> {
        lock(&self.flows)
            .insert(key, flow, BPF_EXIST)
            .map_err(io_error)
    }

    /// A direction as it is now.
    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        lock(&self.flows).get(key, 0).ok()
    }

    /// Removes a direction, if it is there.
    pub fn remove(&self, key: &FlowKey) {
        // Fails only where it is gone.
        let _ = lock(&self.flows).remove(key);
    }

    /// Has the program look at packets to this port. There is no way back: flows of a listener
    /// outlive it, and for anybody else's packets it costs one look-up.
    pub fn watch(&self, port: u16) {
        let word = self.ports.word(usize::from(port >> 6) * size_of::<u64>());
        word.fetch_or(1 << (port & 63), Ordering::Relaxed);
    }

    /// Calls `on_end` with each flow that ends, until the task is dropped. Can be run once.
    pub async fn ended(&self, mut on_end: impl FnMut(u32, End)) -> io::Result<()> {
        let ring = lock(&self.ended)
            .take()
            .ok_or(io::ErrorKind::ResourceBusy)?;
        let mut ring = readable(ring)?;
        loop {
            let mut ready = ring.readable_mut().await?;
            while let Some(event) = ready.get_inner_mut().next() {
                let mut words = [0_u32; 2];
                if event.len() != size_of_val(&words) {
                    continue;
                }
                words.as_mut_bytes().copy_from_slice(&event);
                if let Some(end) = u8::try_from(words[1]).ok().and_then(End::of) {
                    on_end(words[0], end);
                }
            }
            ready.clear_ready();
        }
    }
}

/// Whether a map is full, rather than out of memory.
pub fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::E2BIG)
}

// include/uapi/linux/bpf.h
const BPF_NOEXIST: u64 = 1;
const BPF_EXIST: u64 = 2;

/// A thread that panicked while holding a map leaves it as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
