//! Telling clients that a part of their hello has come. One whose timer has run out sends the oldest bytes again,
//! and what was lost behind them not before it hears of those.

use std::time::{Duration, Instant};

use sni_router_common::flow::FlowKey;
use tracing::debug;

use super::super::registry::sides;
use super::super::segment::{ACK, Segment};
use super::Opener;
use super::clients::{Opening, Openings};

impl Openings {
    /// A part has come, and if the rest does not come soon, the client is told so.
    pub(super) fn acknowledge_soon(&mut self, key: FlowKey, number: u64) {
        self.parts.push_back((Instant::now() + SOON, key, number));
    }

    /// Tells a client how far its hello has come, unless that is whole by now: then its endpoint does.
    pub(super) fn acknowledge(&mut self, key: FlowKey, number: u64) {
        let Some(opening) = self.clients.get(&key) else {
            return;
        };
        if opening.is_gathering() {
            self.opener.acknowledge(&key, opening);
            // It may be lost.
            self.acknowledge_soon(key, number);
        }
    }
}

impl Opener {
    /// Tells a client how far its hello has come.
    pub(super) fn acknowledge(&self, key: &FlowKey, opening: &Opening) {
        let (client, vip) = sides(key);
        let last = &opening.last;
        let received = opening.received.len() as u32;
        let segment = Segment {
            from: vip,
            to: client,
            seq: last.ack,
            ack: opening.start.wrapping_add(received),
            flags: ACK,
            window: (WINDOW.saturating_sub(received) >> opening.own_scale) as u16,
            // Of this host's clock, nothing later than its SYN-ACK had: the endpoint's goes on from what the last
            // piece echoes, which may have met this on its way.
            clocks: [last.tsecr, last.tsval],
            syn: None,
            payload: &[],
        };
        // Connection tracking takes it for a part of what a RST has closed, and lets it pass.
        if let Err(error) = self.send_raw(&segment) {
            debug!(%error, %client, "a hello could not be acknowledged");
        }
    }
}

/// Less than the least time after which a client sends something again (`TCP_RTO_MIN`, include/net/tcp.h).
const SOON: Duration = Duration::from_millis(100);

/// Bytes that a client may send: about as many as its SYN-ACK has said, and no more than a socket that is made for it
/// takes by default.
const WINDOW: u32 = 60 * 1024;
