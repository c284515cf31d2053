//! The maps of the `tc` datapath.

use std::io;
use std::mem::offset_of;
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::maps::{HashMap, IterableMap as _, Map, MapData, RingBuf};
use sni_router_common::flow::{Ended, Flow, FlowKey, Led};
use sni_router_common::names::{MAP_FLOWS, PORT_WORDS};
use tokio::time::sleep;
use zerocopy::FromBytes as _;

use super::handshakes::Handshakes;
use super::io_error;
use super::lead::Leader;
use super::pins::Pins;
use crate::sys::batch::Walk;
use crate::sys::readable::readable;
use crate::sys::shared::SharedArray;

/// Flows, handshakes, and which ports are watched for them.
pub struct Flows {
    table: FlowTable,
    leader: Leader,
    handshakes: Handshakes,
    ports: SharedArray,
    ended: Mutex<Option<RingBuf<MapData>>>,
}

/// The directions of all flows, by several descriptors of one map: aya's handle wants to be alone during
/// a system call, which is no reason for threads to wait for each other.
pub struct FlowTable([Mutex<Handle>; HANDLES]);

type Handle = HashMap<MapData, FlowKey, Flow>;

impl Flows {
    pub(super) fn new(
        flows: Handle,
        leader: Leader,
        seen: &MapData,
        ports: &MapData,
        ended: RingBuf<MapData>,
        reserved: RangeInclusive<u16>,
    ) -> io::Result<Self> {
        // The mapping keeps the map alive; its descriptor is not needed any more.
        let ports = SharedArray::map(ports.fd().as_fd(), PORT_WORDS as usize * size_of::<u64>())?;
        let flows = Self {
            table: FlowTable::new(&flows)?,
            leader,
            handshakes: Handshakes::map(seen.fd().as_fd())?,
            ports,
            ended: Mutex::new(Some(ended)),
        };
        for port in reserved {
            flows.watch(port);
        }
        Ok(flows)
    }

    /// The handshakes.
    pub fn handshakes(&self) -> &Handshakes {
        &self.handshakes
    }

    /// The flows.
    pub fn table(&self) -> &FlowTable {
        &self.table
    }

    /// Has a direction leave by another interface. Answers whether there was one that lives.
    pub fn lead(&self, led: &Led) -> io::Result<bool> {
        self.leader.lead(led)
    }

    /// Has the program look at packets to this port. There is no way back: flows of a listener
    /// outlive it, and for anybody else's packets it costs one look-up.
    pub fn watch(&self, port: u16) {
        let word = self.ports.word(usize::from(port >> 6) * size_of::<u64>());
        word.fetch_or(1 << (port & 63), Ordering::Relaxed);
    }

    /// Calls `on_end` with flows that have ended, those of a moment at a time, until the task is
    /// dropped. Can be run once.
    pub async fn ended(&self, mut on_end: impl FnMut(&[Ended])) -> io::Result<()> {
        let ring = lock(&self.ended)
            .take()
            .ok_or(io::ErrorKind::ResourceBusy)?;
        let mut ring = readable(ring)?;
        let mut batch = Vec::new();
        loop {
            let mut ready = ring.readable_mut().await?;
            while let Some(event) = ready.get_inner_mut().next() {
                batch.extend(Ended::read_from_bytes(&event).ok());
            }
            ready.clear_ready();
            on_end(&batch);
            batch.clear();
            // The program wakes us for the first event after we have seen all. Under load, the
            // others of the next moment then cost no wake-up.
            sleep(A_MOMENT).await;
        }
    }
}

/// The table that was left by a router that is gone; `None` if there is none.
pub fn open(pins: &Pins) -> io::Result<Option<FlowTable>> {
    let path = pins.map(MAP_FLOWS);
    if !path.exists() {
        return Ok(None);
    }
    let data = MapData::from_pin(path).map_err(io_error)?;
    let map = HashMap::try_from(Map::HashMap(data)).map_err(io_error)?;
    FlowTable::new(&map).map(Some)
}

/// Calls `on_flow` with every direction of the table of another version in `dir`: with its key,
/// whether it is the client's, and whether it has ended.
pub fn foreign(dir: &Path, mut on_flow: impl FnMut(&FlowKey, bool, bool)) -> io::Result<()> {
    let map = MapData::from_pin(dir.join(MAP_FLOWS)).map_err(io_error)?;
    let info = map.info().map_err(io_error)?;
    let (key_bytes, value_bytes) = (info.key_size() as usize, info.value_size() as usize);
    if key_bytes != size_of::<FlowKey>() || value_bytes < offset_of!(Flow, end) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut walk = Walk::new(key_bytes, value_bytes);
    loop {
        let mut found = false;
        for (key, flow) in walk.next(map.fd().as_fd())? {
            found = true;
            if let Ok(key) = FlowKey::read_from_bytes(key) {
                let is_up = flow[offset_of!(Flow, up)] == 1;
                on_flow(&key, is_up, flow[offset_of!(Flow, closed)] != 0);
            }
        }
        if !found {
            return Ok(());
        }
    }
}

impl FlowTable {
    fn new(handle: &Handle) -> io::Result<Self> {
        let again = |_| {
            let fd = handle.map().fd().as_fd().try_clone_to_owned()?;
            let map = Map::HashMap(MapData::from_fd(fd).map_err(io_error)?);
            Ok(Mutex::new(HashMap::try_from(map).map_err(io_error)?))
        };
        let handles = (0..HANDLES).map(again).collect::<io::Result<Vec<_>>>()?;
        // There are as many as that.
        handles
            .try_into()
            .map(Self)
            .map_err(|_| io::ErrorKind::Other.into())
    }

    /// One that nobody uses, if there is one.
    fn handle(&self) -> MutexGuard<'_, Handle> {
        let first = HANDLE.with(|number| *number);
        let all = (first..HANDLES).chain(0..first);
        let mut free = all.filter_map(|number| self.0[number].try_lock().ok());
        free.next().unwrap_or_else(|| lock(&self.0[first]))
    }

    /// Adds a direction. Fails with `AlreadyExists` where there is one.
    pub fn insert(&self, key: &FlowKey, flow: &Flow) -> io::Result<()> {
        self.handle()
            .insert(key, flow, BPF_NOEXIST)
            .map_err(io_error)
    }

    /// Overwrites a direction.
    pub fn replace(&self, key: &FlowKey, flow: &Flow) -> io::Result<()> {
        self.handle().insert(key, flow, BPF_EXIST).map_err(io_error)
    }

    /// A direction as it is now.
    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.handle().get(key, 0).ok()
    }

    /// Removes a direction, if it is there.
    pub fn remove(&self, key: &FlowKey) {
        // Fails only where it is gone.
        let _ = self.handle().remove(key);
    }

    /// Calls `on_flow` with every direction in the table, in no order. It may use the table.
    pub fn for_each(&self, mut on_flow: impl FnMut(&FlowKey, &Flow)) -> io::Result<()> {
        let mut walk = Walk::new(size_of::<FlowKey>(), size_of::<Flow>());
        loop {
            let mut found = false;
            // Locked for one step only, and not while it is worked off.
            let step = walk.next(self.handle().map().fd().as_fd())?;
            for (key, flow) in step {
                found = true;
                let key = FlowKey::read_from_bytes(key);
                if let (Ok(key), Ok(flow)) = (key, Flow::read_from_bytes(flow)) {
                    on_flow(&key, &flow);
                }
            }
            if !found {
                return Ok(());
            }
        }
    }
}

/// Whether a map is full, rather than out of memory.
pub fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::E2BIG)
}

thread_local! {
    /// Which of the handles this thread tries first: each another one.
    static HANDLE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % HANDLES
    };
}

/// As many as threads that hand over at the same time, mostly.
const HANDLES: usize = 32;

const A_MOMENT: Duration = Duration::from_millis(10);

// include/uapi/linux/bpf.h
const BPF_NOEXIST: u64 = 1;
const BPF_EXIST: u64 = 2;

/// A thread that panicked while holding a map leaves it as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
