//! The `tc` datapath: `snir_tc` turns packets of the client's connection into packets of the
//! endpoint's and back, and the router keeps no socket.
//!
//! `docs/datapaths.md` has the hand-over step by step, and why its order leaves no gap.

mod adopt;
mod conntrack;
pub mod detach;
mod entries;
mod entry;
mod foreign;
mod handover;
pub mod interfaces;
mod join;
mod known;
mod learn;
mod limits;
mod lingering;
mod occupied;
mod opening;
mod policies;
mod ports;
mod registry;
pub mod reserve;
mod routes;
mod segment;
mod shortcuts;
mod sides;
mod source;
mod ways;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use sni_router_common::flow::address;
use socket2::Socket;
use tokio::sync::Notify;
use tracing::{error, warn};

use self::conntrack::Conntrack;
pub use self::foreign::pinned_vips;
use self::handover::{Host, Outside};
use self::known::Known;
use self::occupied::Occupied;
use self::opening::{Opener, Rank};
use self::policies::Ipsec;
pub use self::ports::Ports;
use self::registry::Registry;
pub use self::shortcuts::Shortcuts;
use self::source::SourcePort;
use self::ways::Ways;
use super::bpf::{Flows, Pins, Taking};
use super::clock::limits_reached;
use crate::carry::{
    Adopt, Aside, Client, Datapath, Decline, Doorman, End, Ends, Hold, Keeper, Kind, Limits, Moved,
    Outcome, Pair, Refused, Traffic,
};
use crate::meter::Meter;
use crate::sys::raw::Raw;
use crate::sys::repair;

/// See the module.
pub struct Tc {
    flows: Arc<Flows>,
    ports: Arc<Ports>,
    registry: Arc<Registry>,
    occupied: Occupied,
    conntrack: Arc<Conntrack>,
    known: Arc<Known>,
    raw: Mutex<Option<(Raw, Taking)>>,
    ipsec: Arc<Ipsec>,
    ways: Arc<Ways>,
    next: Arc<dyn Datapath>,
    retired: Notify,
    /// Nobody opens connections any more.
    closed: Arc<Notify>,
}

impl Tc {
    /// A datapath over the maps of an attached `snir_tc`, whose flows have these limits. What it
    /// refuses, `next` takes. Must be called on a tokio runtime.
    pub fn new(
        flows: Arc<Flows>,
        ports: Arc<Ports>,
        limits: Limits,
        shortcuts: Arc<Shortcuts>,
        next: Arc<dyn Datapath>,
        meter: Meter,
    ) -> Arc<Self> {
        let registry = Registry::new(
            Arc::clone(&flows),
            Arc::clone(&ports),
            limits,
            shortcuts,
            meter,
        );
        Arc::new(Self {
            registry: Arc::new(registry),
            occupied: Occupied::default(),
            flows,
            ports,
            conntrack: Arc::new(Conntrack::new()),
            known: Arc::new(Known::new()),
            raw: Mutex::default(),
            ipsec: Ipsec::watch(),
            ways: Arc::new(Ways::new()),
            next,
            retired: Notify::new(),
            closed: Arc::default(),
        })
    }

    /// Who is told of the ends of flows. To be called once, before there are any.
    pub fn kept_by(&self, keeper: Arc<dyn Keeper>) {
        // Fails where there is one already.
        let _ = self.registry.keeper.set(keeper);
    }

    /// Gets ready to open connections without sockets, before privileges are given up.
    pub fn prepare_opening(&self, taking: Taking) -> io::Result<()> {
        *registry::lock(&self.raw) = Some((Raw::open()?, taking));
        Ok(())
    }

    /// Opens connections without sockets where that was prepared, and it can be done. `doorman` says where
    /// clients go, and `workers` how many threads serve those that get sockets.
    pub fn open(&self, doorman: Arc<dyn Doorman>, workers: usize) -> io::Result<()> {
        let Some((raw, taking)) = registry::lock(&self.raw).take() else {
            return Ok(());
        };
        let opener = Opener {
            flows: Arc::clone(&self.flows),
            registry: Arc::clone(&self.registry),
            known: Arc::clone(&self.known),
            conntrack: Arc::clone(&self.conntrack),
            ipsec: Arc::clone(&self.ipsec),
            ways: Arc::clone(&self.ways),
            doorman,
            raw: Arc::new(raw),
            retired: Arc::clone(&self.closed),
            common: Arc::default(),
            rank: Rank::ALONE,
        };
        opener.start(taking, workers)
    }

    /// Notices flows that end, and removes them once nobody asks for them any more. Runs as long
    /// as the datapath is used.
    pub async fn dispatch(self: Arc<Self>) {
        tokio::spawn(Arc::clone(&self.registry).sweep());
        tokio::spawn(Arc::clone(&self.registry).watch_limits());
        let ways = Arc::clone(&self.ways);
        tokio::spawn(Arc::clone(&self.registry).follow_routes(ways));
        let ended = self.flows.ended(|batch| self.registry.ended(batch));
        tokio::select! {
            // Whoever comes next reads the ring, of which there is one.
            () = self.retired.notified() => {}
            Err(error) = ended => error!(%error, "the ends of flows are no longer seen"),
        }
    }

    /// Takes over the flows that an earlier process has left, and tells how many. First called before
    /// there are new ones; with `is_alone` if that process is gone.
    pub fn adopt(&self, adopter: &dyn Adopt, is_alone: bool) -> io::Result<usize> {
        if let Err(error) = self.occupied.look(&self.ports, &self.flows, is_alone) {
            warn!(%error, "sockets that were here before are not known: first packets from their ports may be lost");
        }
        self.registry.adopt(adopter, is_alone)
    }

    /// Leaves alone what a router of another version has pinned, and removes it in the end. Its ports
    /// are known when this returns.
    pub fn tolerate(&self, pins: Arc<Pins>) {
        let held = foreign::hold(&pins, &self.ports);
        tokio::spawn(foreign::watch(held, Arc::clone(&self.ports)));
    }

    /// Returns when the program of another version takes no clients, if no router has let go of the pins for this one.
    /// To be called before there are any.
    pub async fn outlast(&self, pins: &Pins) {
        foreign::outlast(pins).await;
    }

    /// Opens no connection without sockets from now on; those that are being opened get sockets.
    pub fn close(&self) {
        self.known.stop();
        self.closed.notify_one();
    }

    /// Hands nothing over from now on, and leaves what was handed over to the kernel, or to another
    /// process that notices its ends.
    pub fn retire(&self) {
        self.close();
        self.registry.leave_all();
        self.retired.notify_one();
    }

    /// Removes what routers of other versions have pinned and flows do not need any more. Answers with
    /// the VIPs of the flows that do.
    pub fn leave_foreign(&self, pins: &Pins) -> BTreeSet<IpAddr> {
        foreign::leave(pins)
    }

    /// The VIPs of flows that live, whoever of this version has handed them over.
    pub fn vips_in_use(&self) -> io::Result<BTreeSet<IpAddr>> {
        let mut vips = BTreeSet::new();
        self.flows.table().for_each(|key, flow| {
            if flow.up == 1 && flow.closed == 0 {
                vips.insert(address(&key.dst));
            }
        })?;
        Ok(vips)
    }

    /// Entries of the flow table: two a flow, of those that live and those that linger.
    pub fn table_entries(&self) -> u64 {
        self.registry.table_entries()
    }

    /// How many handshakes are remembered, counted one by one.
    pub fn handshakes(&self) -> u64 {
        self.flows.handshakes().count()
    }

    /// Looks at every flow, for when events were lost.
    pub fn look_at_all(&self) {
        self.registry.look_at_all();
    }

    async fn run(&self, mut pair: Pair) -> Result<Outcome, Refused> {
        let hold = pair.hold.take();
        let hold: Option<Box<Prepared>> = hold.and_then(|hold| hold.downcast().ok());
        let Some(prepared) = hold else {
            let decline = self.why_unprepared(&pair);
            return Err(Refused { pair, decline });
        };
        let towards = prepared.1;
        let handed_over = handover::hand_over(
            &self.flows,
            &self.registry,
            Host {
                conntrack: &self.conntrack,
                ipsec: &self.ipsec,
                known: &self.known,
                ways: &self.ways,
            },
            pair,
            *prepared,
        );
        match handed_over.await {
            Ok(flow) => Ok(Outcome::Alone(Box::new(flow))),
            Err(Outside::Refused(refused)) => {
                // What was said may fill the window, and before Linux 6.7 that would stay closed: TCP_WINDOW_CLAMP set
                // bounds the next one by the present one.
                if refused.decline != Decline::EndpointSpoke {
                    towards.free_window(&refused.pair.endpoint);
                }
                Err(*refused)
            }
            Err(Outside::Ended(end)) => Ok(Outcome::Over(end)),
        }
    }
}

impl Tc {
    /// Why [`Datapath::prepare`] has given nothing.
    fn why_unprepared(&self, pair: &Pair) -> Decline {
        if self.registry.is_retired() {
            return Decline::TakenOver;
        }
        match repair::state(&pair.client) {
            Ok(state) if state.is_established() => Decline::NoPort,
            _ => Decline::NotEstablished,
        }
    }
}

/// What [`Datapath::prepare`] gives.
type Prepared = (SourcePort, learn::Towards);

impl Datapath for Tc {
    fn carry<'a>(
        &'a self,
        pair: Pair,
        limits: &'a Limits,
        traffic: &'a Traffic,
    ) -> Pin<Box<dyn Future<Output = Result<Outcome, Refused>> + Send + 'a>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                handed_over = self.run(pair) => handed_over,
                // Of the hand-over, which an endpoint that does not read can hold up for ever; once that
                // is done, the registry watches. Whatever has been done is undone by the drop.
                end = limits_reached(limits, traffic, || 0) => Ok(Outcome::Over(end)),
            }
        })
    }

    fn prepare(&self, socket: &Socket, endpoint: SocketAddr, client: &Client<'_>) -> Option<Hold> {
        if self.registry.is_retired() {
            return None;
        }
        let towards = learn::Towards::of(client)?;
        towards.limit_segments(socket);
        let source = SourcePort::bind(&self.ports, &self.registry, socket, endpoint)?;
        // Last: who gets no port, keeps its socket.
        towards.limit_window(socket);
        Some(Box::new((source, towards)))
    }

    fn kind(&self) -> Kind {
        Kind::Tc
    }

    fn next(&self) -> Option<&dyn Datapath> {
        Some(&*self.next)
    }
}

impl Aside for Tc {
    fn ends(&self, number: u32) -> Option<Ends> {
        self.registry.ends(number)
    }

    fn moved(&self, number: u32) -> Option<Moved> {
        self.registry.moved(number)
    }

    fn end(&self, number: u32, end: End) {
        self.registry.end(number, end);
    }
}
