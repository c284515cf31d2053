//! The `tc` datapath: `snir_tc` turns packets of the client's connection into packets of the
//! endpoint's and back, and the router keeps no socket.
//!
//! `docs/datapaths.md` has the hand-over step by step, and why its order leaves no gap.

mod conntrack;
mod handover;
pub mod interfaces;
mod learn;
mod ports;
mod registry;
pub mod reserve;
mod source;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpSocket;
use tracing::error;

use self::conntrack::Conntrack;
use self::handover::Outside;
pub use self::ports::Ports;
use self::registry::Registry;
use self::source::SourcePort;
use super::bpf::Flows;
use super::clock::limits_reached;
use crate::carry::{Client, Datapath, Decline, End, Hold, Kind, Limits, Pair, Refused, Traffic};

/// See the module.
pub struct Tc {
    flows: Arc<Flows>,
    ports: Arc<Ports>,
    registry: Arc<Registry>,
    conntrack: Conntrack,
    next: Arc<dyn Datapath>,
}

impl Tc {
    /// A datapath over the maps of an attached `snir_tc`. What it refuses, `next` takes.
    pub fn new(flows: Arc<Flows>, ports: Arc<Ports>, next: Arc<dyn Datapath>) -> Arc<Self> {
        Arc::new(Self {
            registry: Arc::new(Registry::new(Arc::clone(&flows), Arc::clone(&ports))),
            flows,
            ports,
            conntrack: Conntrack::default(),
            next,
        })
    }

    /// Notices flows that end, and removes them once nobody asks for them any more. Runs as long
    /// as the datapath is used.
    pub async fn dispatch(self: Arc<Self>) {
        tokio::spawn(Arc::clone(&self.registry).sweep());
        let ended = self.flows.ended(|id, end| self.registry.ended(id, end));
        if let Err(error) = ended.await {
            error!(%error, "the ends of flows are no longer seen");
        }
    }

    /// Looks at every flow, for when events were lost.
    pub fn look_at_all(&self) {
        self.registry.look_at_all();
    }

    async fn run(
        &self,
        mut pair: Pair,
        limits: &Limits,
        traffic: &Traffic,
    ) -> Result<End, Refused> {
        let hold = pair.hold.take();
        let hold: Option<Box<Prepared>> = hold.and_then(|hold| hold.downcast().ok());
        let Some(prepared) = hold else {
            let decline = Decline::NoPort;
            return Err(Refused { pair, decline });
        };
        let handed_over = handover::hand_over(
            &self.flows,
            &self.registry,
            &self.conntrack,
            pair,
            *prepared,
        );
        let flow = match handed_over.await {
            Ok(flow) => flow,
            Err(Outside::Refused(refused)) => return Err(*refused),
            Err(Outside::Ended(end)) => return Ok(end),
        };
        let end = tokio::select! {
            end = flow.ended() => end,
            end = limits_reached(limits, flow.progress()) => {
                flow.abort();
                end
            }
        };
        flow.count(traffic);
        Ok(end)
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
    ) -> Pin<Box<dyn Future<Output = Result<End, Refused>> + Send + 'a>> {
        Box::pin(self.run(pair, limits, traffic))
    }

    fn prepare(
        &self,
        socket: &TcpSocket,
        endpoint: SocketAddr,
        client: &Client<'_>,
    ) -> Option<Hold> {
        let towards = learn::Towards::of(client)?;
        towards.limit_segments(socket);
        let source = SourcePort::bind(&self.ports, &self.registry, socket, endpoint)?;
        Some(Box::new((source, towards)))
    }

    fn kind(&self) -> Kind {
        Kind::Tc
    }

    fn next(&self) -> Option<&dyn Datapath> {
        Some(&*self.next)
    }
}
