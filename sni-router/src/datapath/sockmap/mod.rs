//! The `sockmap` datapath: `snir_verdict` redirects what one socket receives to the other.
//!
//! The kernel moves bytes and nothing else. FIN and RST, back-pressure, and bytes that were queued
//! before the hand-over are this module's job; `docs/datapaths.md` has the states and their order.

mod carried;
mod entry;
mod flow;
mod hangup;
pub mod selftest;
mod side;
mod slots;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tracing::error;

use self::entry::Outside;
use self::slots::Slots;
use super::bpf::Sockets;
use crate::carry::{
    Datapath, Decline, Direction, Kind, Limits, Live, Outcome, Pair, Refused, Traffic,
};
use crate::meter::Meter;

/// See the module.
pub struct Sockmap {
    maps: Arc<Maps>,
    next: Arc<dyn Datapath>,
    /// Has what this process copies; what the program redirects, that counts.
    meter: Meter,
}

/// The maps and who has which slot of them.
struct Maps {
    sockets: Sockets,
    slots: Arc<Slots>,
}

impl Sockmap {
    /// A datapath over the maps of an attached `snir_verdict`. What it refuses, `next` takes. Its bytes
    /// are not counted anywhere.
    pub fn new(sockets: Sockets, next: Arc<dyn Datapath>) -> Arc<Self> {
        let maps = Maps {
            sockets,
            slots: Arc::new(Slots::new()),
        };
        Arc::new(Self {
            maps: Arc::new(maps),
            next,
            meter: Meter::new(1),
        })
    }

    /// The same, which counts there what it copies.
    pub fn metered(&self, meter: Meter) -> Arc<Self> {
        Arc::new(Self {
            maps: Arc::clone(&self.maps),
            next: Arc::clone(&self.next),
            meter,
        })
    }

    /// Slots that connections have.
    pub fn slots(&self) -> u64 {
        self.maps.slots.taken()
    }

    /// Wakes connections when the kernel program asks for it. Runs as long as the datapath is used.
    pub async fn dispatch(self: Arc<Self>) {
        if let Err(error) = self
            .maps
            .sockets
            .events(|slot| self.maps.slots.wake(slot))
            .await
        {
            error!(%error, "events of the kernel program are no longer seen");
        }
    }

    /// Wakes every connection, for when events were lost.
    pub fn wake_all(&self) {
        self.maps.slots.wake_all();
    }
}

impl Live for Sockmap {
    fn moved(&self, slot: u32) -> (u64, u64) {
        let moved = |slot| carried::moved(self.maps.sockets.stream(slot));
        // A pair's slots are the client's, which is even, and the endpoint's.
        (self.maps.slots.before(slot) + moved(slot), moved(slot + 1))
    }
}

impl Datapath for Sockmap {
    fn carry<'a>(
        &'a self,
        pair: Pair,
        limits: &'a Limits,
        traffic: &'a Traffic,
    ) -> Pin<Box<dyn Future<Output = Result<Outcome, Refused>> + Send + 'a>> {
        Box::pin(async move {
            let Some(slots) = self.maps.slots.take() else {
                return Err(Refused {
                    pair,
                    decline: Decline::TableFull,
                });
            };
            match entry::enter(&self.maps, slots, pair) {
                Ok(carried) => {
                    self.meter
                        .add(Kind::Sockmap, Direction::Up, carried.forwarded());
                    Ok(Outcome::Over(
                        carried.run(limits, traffic, &self.meter).await,
                    ))
                }
                Err(Outside::Refused(refused)) => Err(*refused),
                Err(Outside::Ended(end)) => Ok(Outcome::Over(end)),
            }
        })
    }

    fn kind(&self) -> Kind {
        Kind::Sockmap
    }

    fn next(&self) -> Option<&dyn Datapath> {
        Some(&*self.next)
    }
}
