//! A connection in the map, from entry to end.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::entry::Entry;
use super::flow::{Failed, Flow, Step};
use super::side::Side;
use crate::carry::{Direction, End, Kind, Limits, Traffic};
use crate::datapath::bpf::StreamView;
use crate::datapath::clock::limits_reached;
use crate::meter::Meter;

/// A connection in the map.
pub(super) struct Carried {
    pub(super) up: Flow,
    pub(super) down: Flow,
    pub(super) sockets: Sockets,
}

impl Carried {
    /// Bytes that had gone up before.
    pub(super) fn forwarded(&self) -> u64 {
        self.sockets.client.read_before
    }

    /// Carries to the end.
    pub(super) async fn run(mut self, limits: &Limits, traffic: &Traffic, meter: &Meter) -> End {
        let sockets = &self.sockets;
        sockets.entry.slots.count_from(self.forwarded());
        traffic.counted_at(sockets.entry.slots.client());
        // Also where the task is dropped before it has ended.
        let _counted = Counted(traffic);
        let end = tokio::select! {
            end = sockets.carry(&mut self.up, &mut self.down, traffic, meter) => end,
            end = limits_reached(limits, traffic, || sockets.progress(traffic)) => end,
        };
        sockets.report(traffic);
        count_copied(&mut self.up, &mut self.down, meter);
        if end != End::Done {
            // The side that is still there shall learn that the stream was cut: RST, not FIN.
            sockets.client.abort();
            sockets.endpoint.abort();
        }
        end
    }
}

/// Nobody reads the slot for this connection once this is dropped, which is before the slot is free.
struct Counted<'t>(&'t Traffic);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.counted();
    }
}

/// The two sockets, and what they hold of the maps.
///
/// Fields are dropped in the order they are declared: the sockets are closed, which takes them out
/// of the map, and only then are the slots free for others.
pub(super) struct Sockets {
    pub(super) client: Side,
    pub(super) endpoint: Side,
    pub(super) entry: Entry,
}

impl Sockets {
    async fn carry(&self, up: &mut Flow, down: &mut Flow, traffic: &Traffic, meter: &Meter) -> End {
        let mut pause = SHORTEST_PAUSE;
        let mut moved = 0;
        let (mut end, mut waited) = (None, Duration::ZERO);
        loop {
            // A RST is seen once: who reads or writes takes the socket's error away.
            end = end.or_else(|| self.look(up, down, traffic));
            let steps = (
                up.step(&self.client, &self.endpoint, self.up()),
                down.step(&self.endpoint, &self.client, self.down()),
            );
            if let Some(end) = end {
                // What came before a RST is passed on before the RST is, also by the kernel's worker.
                if waited == LAST_WORDS || self.has_delivered(end) {
                    return end;
                }
                waited += SHORTEST_PAUSE;
                sleep(SHORTEST_PAUSE).await;
                continue;
            }
            let step = match steps {
                (Ok(up), Ok(down)) => up.max(down),
                (Err(Failed::Overrun), _) | (_, Err(Failed::Overrun)) => return End::Failed,
                (Err(Failed::Source), _) | (_, Err(Failed::Sink)) => return End::ClientReset,
                (Err(Failed::Sink), _) | (_, Err(Failed::Source)) => return End::EndpointReset,
            };
            count_copied(up, down, meter);
            if up.is_finished() && down.is_finished() {
                return End::Done;
            }
            let changed = self.entry.slots.changed();
            match step {
                Step::Waiting => {
                    pause = SHORTEST_PAUSE;
                    changed.notified().await;
                    continue;
                }
                Step::Busy => tokio::select! {
                    () = changed.notified() => {}
                    () = sleep(pause) => {}
                },
                Step::Now => yield_now().await,
            }
            let before = std::mem::replace(&mut moved, self.moved());
            pause = if moved == before {
                (pause * 2).min(LONGEST_PAUSE)
            } else {
                SHORTEST_PAUSE
            };
        }
    }

    /// Whether all that a side has sent which is gone was written to the other one.
    fn has_delivered(&self, end: End) -> bool {
        let (stream, sink) = match end {
            End::ClientReset => (self.up(), &self.endpoint),
            _ => (self.down(), &self.client),
        };
        let written = sink.written_since();
        written.is_ok_and(|written| written >= stream.redirected() + stream.passed())
    }

    /// Asks the sockets for FIN and RST.
    ///
    /// POLLERR means that the socket has an error. Its state would not do: CLOSE is also where a
    /// connection ends whose FINs were all acknowledged, while its last bytes still wait to be
    /// written to the other side.
    fn look(&self, up: &mut Flow, down: &mut Flow, traffic: &Traffic) -> Option<End> {
        let mut fds = [
            PollFd::new(&self.client.socket, PollFlags::RDHUP),
            PollFd::new(&self.endpoint.socket, PollFlags::RDHUP),
        ];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Fails only when interrupted; the next look sees the same.
        poll(&mut fds, Some(&at_once)).ok()?;
        let [client, endpoint] = fds.map(|fd| fd.revents());
        if client.contains(PollFlags::ERR) {
            return Some(End::ClientReset);
        }
        if endpoint.contains(PollFlags::ERR) {
            return Some(End::EndpointReset);
        }
        let finished = [client, endpoint].map(|events| events.contains(PollFlags::RDHUP));
        if finished[0] {
            up.source_finished();
        }
        if finished[1] {
            down.source_finished();
        }
        // Of two that are seen at once, nobody knows which was first.
        match finished {
            [true, false] => traffic.finished(Direction::Up),
            [false, true] => traffic.finished(Direction::Down),
            _ => {}
        }
        None
    }

    fn up(&self) -> StreamView<'_> {
        self.entry.maps.sockets.stream(self.entry.slots.client())
    }

    fn down(&self) -> StreamView<'_> {
        self.entry.maps.sockets.stream(self.entry.slots.endpoint())
    }

    /// Bytes redirected or copied, both ways.
    fn moved(&self) -> u64 {
        moved(self.up()) + moved(self.down())
    }

    /// Publishes the byte counts.
    fn report(&self, traffic: &Traffic) {
        traffic.raise(Direction::Up, self.client.read_before + moved(self.up()));
        traffic.raise(Direction::Down, moved(self.down()));
    }

    /// Grows as long as anything moves, be it only out of a send queue to a slow peer.
    fn progress(&self, traffic: &Traffic) -> u64 {
        self.report(traffic);
        let acked = |side: &Side| side.info().map_or(0, |info| info.bytes_acked());
        self.moved() + acked(&self.client) + acked(&self.endpoint)
    }
}

/// The program counts what it redirects.
fn count_copied(up: &mut Flow, down: &mut Flow, meter: &Meter) {
    for (flow, direction) in [(up, Direction::Up), (down, Direction::Down)] {
        match flow.take_copied() {
            0 => {}
            bytes => meter.add(Kind::Sockmap, direction, bytes),
        }
    }
}

/// Bytes of a direction redirected or copied.
pub(super) fn moved(stream: StreamView<'_>) -> u64 {
    stream.redirected() + stream.consumed()
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What the kernel gets to write what it has redirected of a side that is gone: a slow receiver must not keep us.
const LAST_WORDS: Duration = Duration::from_millis(100);
