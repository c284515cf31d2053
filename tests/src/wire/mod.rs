//! A wire that does to packets what bad networks do: a hop in userspace between two devices, in
//! the place of the link between the router and its client or a backend.
//!
//! ```text
//!   client eth0 ── TAP ── thread of the test ── TAP ── router "client"
//! ```
//!
//! What happens to a packet is drawn from a seeded generator, but which packets there are depends
//! on the two ends' clocks. So no two runs are the same, and a seed is only a place to start from.
//!
//! Only TCP is impaired.

pub(crate) mod device;
mod hop;
mod packet;

use std::collections::BinaryHeap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::hop::Hop;
use crate::bulk::Random;
use crate::topology::{Leg, Topology};

pub use self::device::Layer;

/// How often something happens to a packet, per mille; also how often it did, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// It is dropped.
    pub loss: u32,
    /// It is sent twice.
    pub duplication: u32,
    /// It is sent late, so that others overtake it.
    pub reordering: u32,
    /// One of its bits is flipped, which a checksum notices.
    pub corruption: u32,
    /// Its end is cut off.
    pub truncation: u32,
    /// How late every packet is.
    pub delay: Duration,
}

/// From which side a packet comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client or the backend.
    Far = 0,
    /// From the router.
    Router = 1,
}

/// A wire; the thread in its middle ends on drop, and both devices with it.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    stop: Option<UnixStream>,
    hop: Option<JoinHandle<()>>,
}

/// What a wire is to do, and what it has done.
#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    rates: [Rates; 2],
    done: [Rates; 2],
    mtu: u16,
    too_big: u32,
    tag: Option<u16>,
}

impl Wire {
    /// Puts a wire in the place of a link.
    pub fn lay(net: &Topology, leg: Leg, layer: Layer, seed: u64) -> Self {
        let shared = Arc::new(Shared(Mutex::new(State {
            rates: [Rates::default(); 2],
            done: [Rates::default(); 2],
            mtu: u16::MAX,
            too_big: 0,
            tag: None,
        })));
        let devices = net.relink(leg, |far, router, device| {
            [
                device::create(far, "eth0", layer),
                device::create(router, device, layer),
            ]
        });
        let hop = Hop {
            devices,
            layer,
            subnet: leg.subnet(),
            shared: shared.clone(),
            random: Random::new(seed),
            late: BinaryHeap::new(),
            order: 0,
        };
        let (stop, stopped) = UnixStream::pair().expect("a pair of sockets");
        Self {
            shared,
            stop: Some(stop),
            hop: Some(thread::spawn(move || hop.run(&stopped))),
        }
    }

    /// From now on, this happens to packets in both directions.
    pub fn impair(&self, rates: Rates) {
        self.shared.lock().rates = [rates; 2];
    }

    /// From now on, this happens to packets from one side.
    pub fn impair_from(&self, from: Side, rates: Rates) {
        self.shared.lock().rates[from as usize] = rates;
    }

    /// From now on, no larger IP packet passes. Whoever sends one is told, unless the packet might
    /// have been cut into fragments.
    pub fn narrow(&self, mtu: u16) {
        self.shared.lock().mtu = mtu;
    }

    /// From now on, the router's end is a trunk: frames to it have an 802.1Q tag with this control
    /// information, and of those from it only frames of the same VLAN pass, without their tag.
    pub fn tag(&self, control: u16) {
        self.shared.lock().tag = Some(control);
    }

    /// What has happened to packets from one side.
    pub fn done(&self, from: Side) -> Rates {
        self.shared.lock().done[from as usize]
    }

    /// How many packets were too large.
    pub fn too_big(&self) -> u32 {
        self.shared.lock().too_big
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(hop) = self.hop.take() {
            // A panic of the thread has been printed; tests fail by what did not arrive.
            let _ = hop.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rates(&self, from: usize) -> Rates {
        self.lock().rates[from]
    }

    fn mtu(&self) -> u16 {
        self.lock().mtu
    }

    fn tag(&self) -> Option<u16> {
        self.lock().tag
    }

    fn count(&self, from: usize, one: &Rates) {
        let mut state = self.lock();
        let done = &mut state.done[from];
        done.loss += one.loss;
        done.duplication += one.duplication;
        done.reordering += one.reordering;
        done.corruption += one.corruption;
        done.truncation += one.truncation;
    }
}
