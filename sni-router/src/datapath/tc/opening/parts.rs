//! Telling clients how much of their hello has come. One whose timer has run out sends the oldest bytes again, and
//! what was lost behind them not before it hears of those.

use std::time::{Duration, Instant};

use sni_router_common::flow::FlowKey;
use tracing::debug;

use super::super::segment::{ACK, Segment};
use super::super::sides::sides;
use super::Opener;
use super::clients::{Opening, Openings};

impl Openings {
    /// A part has come, and if the rest does not come soon, the client is told so.
    pub(super) fn acknowledge_soon(&mut self, key: FlowKey, number: u64) {
        let soon = (Instant::now() + SOON, key, number);
        self.timers.parts.push_back(soon);
    }

    /// Tells a client how much of its hello has come, unless that is whole by now: then its endpoint does.
    pub(super) fn acknowledge(&mut self, key: FlowKey, number: u64) {
        let Some(opening) = self.clients.get(&key) else {
            return;
        };
        if opening.is_gathering() && self.opener.is_there(&key, opening) {
            self.opener.tell_without_socket(&key, opening, ACK);
            // It may be lost.
            self.acknowledge_soon(key, number);
        }
    }
}

impl Opener {
    /// Tells a client how much of its hello has come; with a RST, that it cannot be served: of what was acknowledged it
    /// sends nothing again.
    pub(super) fn tell_without_socket(&self, key: &FlowKey, opening: &Opening, flags: u8) {
        let (client, vip) = sides(key);
        // Connection tracking has seen a RST in the place of the first piece, and no other: it would take this for
        // invalid. Of a connection that it does not know, it takes the middle for the beginning, and would not
        // hear the end.
        self.conntrack.forget_client(client, vip);
        self.tell(key, opening, flags);
        self.conntrack.forget_client(client, vip);
    }

    /// The same, of a client that may have a socket.
    pub(super) fn tell(&self, key: &FlowKey, opening: &Opening, flags: u8) {
        let (client, vip) = sides(key);
        if self.ipsec.covers_client(client, vip) {
            // It would leave as it is. A socket's packets do not.
            return;
        }
        let last = &opening.last;
        let received = opening.received.len() as u32;
        let segment = Segment {
            from: vip,
            to: client,
            seq: last.ack,
            ack: opening.start.wrapping_add(received),
            flags,
            window: (WINDOW.saturating_sub(received) >> opening.own_scale) as u16,
            // Of this host's clock, nothing later than its SYN-ACK had: the endpoint's goes on from what the last
            // piece echoes, which may have met this on its way.
            clocks: [last.tsecr, last.tsval],
            syn: None,
            payload: &[],
        };
        let sent = self
            .raw
            .send_from_vip(&segment.packet(), vip.ip(), client.ip());
        if let Err(error) = sent {
            debug!(%error, %client, "a client could not be told how much of its hello has come");
        }
    }
}

/// Less than the least time after which a client's timer runs out (`TCP_RTO_MIN`, include/net/tcp.h).
const SOON: Duration = Duration::from_millis(100);

/// Bytes that a client may send: about as many as its SYN-ACK has said, and no more than a socket that is made for it
/// takes by default.
const WINDOW: u32 = 60 * 1024;
