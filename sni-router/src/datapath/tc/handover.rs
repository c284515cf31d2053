//! Handing a connection over to the kernel, and letting go of its sockets.
//!
//! ```text
//! Learned ──both directions in the table──▶ Inserted ──rest of the client's bytes written──▶ Sent
//!         ──endpoint has acknowledged all of it, and nothing more reached a socket──▶ Settled
//! ```
//!
//! From Inserted on, the client's packets go to the endpoint and the endpoint's to the client.
//! Both sockets stay until Settled: the endpoint's sends the hello and, if it is lost, sends it
//! again; the client's may hold bytes that were under way between the program and the socket.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use sni_router_common::flow::{before, own, peer};
use sni_router_common::handshake::seen;
use socket2::SockRef;
use tokio::time::sleep;
use tracing::debug;

use super::Prepared;
use super::conntrack::Conntrack;
use super::join::Plan;
use super::known::{Known, Proof};
use super::learn::{SYN, Towards, has_spoken, learn};
use super::policies::Ipsec;
use super::registry::{Carried, Registry};
use super::sides::Sides;
use super::source::SourcePort;
use super::ways::Ways;
use crate::carry::{Decline, Direction, End, Kind, Pair, Refused};
use crate::datapath::bpf::{Flows, Handshakes, is_full};
use crate::socket::{Socket, is_own};
use crate::sys::repair;

/// A connection that was not handed over.
pub(super) enum Outside {
    /// Somebody else may carry it.
    Refused(Box<Refused>),
    /// It is over.
    Ended(End),
}

/// What the host does with packets that those of flows do not meet.
#[derive(Clone, Copy)]
pub(super) struct Host<'h> {
    pub(super) conntrack: &'h Conntrack,
    pub(super) ipsec: &'h Ipsec,
    pub(super) known: &'h Known,
    pub(super) ways: &'h Ways,
}

/// Hands the pair over, and returns when it has no socket any more.
pub(super) async fn hand_over(
    flows: &Flows,
    registry: &Arc<Registry>,
    host: Host<'_>,
    mut pair: Pair,
    (mut source, towards): Prepared,
) -> Result<Carried, Outside> {
    source.used();
    let Ok(local) = pair.endpoint.local_addr() else {
        return Err(refused(pair, source, Decline::NotEstablished));
    };
    let sides = Sides {
        client: towards.client,
        vip: towards.vip,
        source: local,
        endpoint: source.endpoint(),
    };
    let handshakes = flows.handshakes();
    let forget = |isns: [Option<u32>; 2]| {
        handshakes.forget(&sides.up(), isns[0]);
        handshakes.forget(&sides.down(), isns[1]);
    };
    let planned = plan(handshakes, host, &sides, &towards, &mut pair, &source);
    let (mut plan, proof) = match planned.await {
        Ok(planned) => planned,
        Err(decline) => {
            forget([None; 2]);
            return Err(refused(pair, source, decline));
        }
    };
    let from = source.from();
    let carried = match registry.insert(sides, &mut plan, source) {
        Ok(carried) => carried,
        Err((error, source)) => {
            debug!(%error, "a flow was not taken into the table");
            let decline = if is_full(&error) {
                Decline::TableFull
            } else {
                Decline::KernelRefused
            };
            forget([None; 2]);
            return Err(refused(pair, source, decline));
        }
    };
    let has_spoken = |endpoint: &Socket| match handshakes.seen(&sides.down()) {
        Some(seen) => has_spoken(&seen),
        // Its place was needed: what has reached the socket says the same, a moment later.
        None => repair::state(endpoint).map_or(true, |state| state.has_received()),
    };
    if has_spoken(&pair.endpoint) {
        // After it was looked at, and before the table was written. What it said is at our socket,
        // whose business the connection still is: without the hello, the endpoint can have
        // acknowledged nothing that went by.
        carried.forget();
        forget([None; 2]);
        pair.hold = Some(Box::new(carried));
        let decline = Decline::EndpointSpoke;
        return Err(Outside::Refused(Box::new(Refused { pair, decline })));
    }
    // From here on neither socket knows where its stream is. Should this process die, or give up,
    // a RST that is out of sequence makes its receiver ask, and the answer to that is a RST that is
    // in sequence (RFC 5961, section 3.2); a FIN would be ignored.
    abort_on_close(&pair.client);
    abort_on_close(&pair.endpoint);
    // The client may be free to begin anew from the same port by the end.
    let isns = [plan.up, plan.down].map(|flow| Some(flow.start.wrapping_sub(SYN)));
    let settled = settle(&mut pair, &carried, plan, has_spoken).await;
    if settled.is_err() {
        // Before the sockets are gone: what is answered to their RST is for this host.
        carried.forget();
    }
    drop(pair);
    // Others need the room.
    forget(isns);
    host.conntrack.forget(&sides);
    match settled {
        Ok(bytes) => {
            // The rest is counted by the program.
            registry.meter.add(Kind::Tc, Direction::Up, bytes);
            if let Some(proof) = proof {
                let Sides {
                    source, endpoint, ..
                } = sides;
                host.known.note(&proof, from, source.ip(), endpoint);
            }
            Ok(carried)
        }
        Err(end) => Err(Outside::Ended(end)),
    }
}

/// Learns, and reads on where the client had more to say.
async fn plan(
    handshakes: &Handshakes,
    host: Host<'_>,
    sides: &Sides,
    towards: &Towards,
    pair: &mut Pair,
    source: &SourcePort,
) -> Result<(Plan, Option<Proof>), Decline> {
    if host.ipsec.covers(sides) {
        return Err(Decline::Ipsec);
    }
    let mut rounds = 0;
    loop {
        let learned = learn(
            handshakes,
            sides,
            towards,
            &pair.endpoint,
            received(pair),
            source.taken(),
        );
        match learned {
            Err(Decline::InFlight) if rounds < READ_ROUNDS => {}
            Ok((plan, _)) if !host.ways.lead(sides, &plan) => return Err(Decline::Asymmetric),
            other => return other,
        }
        rounds += 1;
        let read = read_more(pair).map_err(|_| Decline::NotEstablished)?;
        if !read.is_some {
            // On its way between the program and the socket, or out of order.
            sleep(A_MOMENT).await;
        }
    }
}

/// Sends the endpoint what the client had sent us, and waits until it has it. Answers with how many of
/// its bytes the flow has not seen itself.
async fn settle(
    pair: &mut Pair,
    carried: &Carried,
    plan: Plan,
    has_spoken: impl Fn(&Socket) -> bool,
) -> Result<u64, End> {
    let planned = received(pair);
    let mut unseen = plan.up.bytes();
    let mut corrected = planned;
    let mut has_fin = false;
    let mut wait = SETTLE;
    let mut rounds = 0;
    let mut sent = plan.down.since_or_held.wrapping_sub(planned);
    loop {
        let mut late_fin = false;
        let mut acknowledged = None;
        if rounds > 0 {
            // Its client may have opened a new connection from the same port by now, whose SYN met
            // our old socket and had it reset.
            let Some(down) = carried.living() else { break };
            acknowledged = Some(down.ack);
            // What slipped through while the table was being written. Not in the first round, in
            // which the hello goes out: what is under way then has arrived in the second.
            let flags = carried.client_seen().map_or(0, |seen| seen.flags);
            let read = read_more(pair).map_err(|_| End::ClientReset)?;
            if flags & seen::RST != 0 {
                return Err(End::ClientReset);
            }
            // Not where the program has seen one: that may have overtaken what was lost in front of it, and is sent again.
            late_fin = read.has_ended && !has_fin;
            if received(pair) != corrected || late_fin {
                has_fin |= late_fin;
                corrected = received(pair);
                let more = corrected.wrapping_sub(planned);
                unseen += correct(carried, &plan, more, has_fin);
            }
        }
        if !pair.unsent.is_empty() {
            let unsent = std::mem::take(&mut pair.unsent);
            if rounds > 0 {
                // Else it may wait for an acknowledgement that goes to the client. Not often, so not for everybody.
                let _ = SockRef::from(&pair.endpoint).set_tcp_nodelay(true);
            }
            pair.endpoint.write_all(&unsent).await.map_err(|error| {
                // It may have had to be waited for, which takes a descriptor.
                if is_own(&error) {
                    End::Failed
                } else {
                    End::EndpointReset
                }
            })?;
            pair.forwarded += unsent.len() as u64;
            sent = sent.wrapping_add(unsent.len() as u32);
        }
        if late_fin {
            pair.endpoint.finish().map_err(|_| End::EndpointReset)?;
            sent = sent.wrapping_add(1);
        }
        if let Some(ack) = acknowledged {
            // In the very moment when the table was written, and too late to go back.
            if rounds == 1 && has_spoken(&pair.endpoint) {
                return Err(End::Failed);
            }
            // A packet that met the table as it was before has reached its socket by now.
            if !before(ack, sent) {
                break;
            }
            if let Ok(Some(_)) | Err(_) = pair.endpoint.take_error() {
                return Err(End::EndpointReset);
            }
        }
        rounds += 1;
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    // Without this, closing would end the connection. It fails only on a socket that is gone.
    let _ = repair::silence(&pair.client);
    let _ = repair::silence(&pair.endpoint);
    Ok(unseen)
}

/// Tells the program about bytes that it let through to the client's socket, and which the
/// endpoint's socket will send: `more` than planned in all. Answers with how many the flow did not know
/// of.
fn correct(carried: &Carried, plan: &Plan, more: u32, has_fin: bool) -> u64 {
    let (Some(mut up), Some(mut down)) = (carried.up(), carried.down()) else {
        return 0;
    };
    let known = up.bytes();
    down.since_or_held = plan.down.since_or_held.wrapping_add(more);
    down.own |= own::HELD;
    up.end = up.end.max(plan.up.end + u64::from(more));
    if has_fin {
        up.own |= own::FIN;
        up.end = plan.up.end + u64::from(more) + 1;
        down.peer = peer::FIN;
    }
    // Fails only where the flow has ended.
    match carried.replace(&up, &down) {
        Ok(()) => up.bytes().saturating_sub(known),
        Err(_) => 0,
    }
}

/// What reading has come to.
struct Read {
    /// There was something.
    is_some: bool,
    /// And nothing will follow.
    has_ended: bool,
}

/// Reads what the client's socket has.
fn read_more(pair: &mut Pair) -> io::Result<Read> {
    let before = pair.unsent.len();
    let mut buffer = [0; READ_BYTES];
    let mut has_ended = false;
    loop {
        match pair.client.try_read(&mut buffer) {
            Ok(0) => {
                has_ended = true;
                break;
            }
            Ok(read) => pair.unsent.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
        if pair.unsent.len() > MOST_UNSENT {
            break;
        }
    }
    Ok(Read {
        is_some: pair.unsent.len() > before,
        has_ended,
    })
}

/// Bytes read from the client so far.
fn received(pair: &Pair) -> u32 {
    (pair.forwarded + pair.unsent.len() as u64) as u32
}

/// Has the kernel send RST when the socket is closed, unless it is silenced before.
fn abort_on_close(socket: &impl AsFd) {
    // Fails only on a socket that is already gone.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// The port stays with the pair, whose socket is bound to it.
fn refused(mut pair: Pair, source: SourcePort, decline: Decline) -> Outside {
    pair.hold = Some(Box::new(source));
    Outside::Refused(Box::new(Refused { pair, decline }))
}

const A_MOMENT: Duration = Duration::from_millis(2);

/// Longer than a packet takes from the program to its socket, by far.
const SETTLE: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(200);
const READ_ROUNDS: u32 = 20;
const READ_BYTES: usize = 4096;

/// A client that sends this much before it was handed over goes on faster than that can be.
const MOST_UNSENT: usize = 1 << 20;
