//! A connection in the map, from entry to end.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::time::sleep;

use super::entry::Entry;
use super::flow::{Failed, Flow, Step};
use super::side::Side;
use crate::carry::{Direction, End, Limits, Traffic};
use crate::datapath::bpf::StreamView;
use crate::datapath::clock::limits_reached;

/// A connection whose sockets are in the map.
///
/// Fields are dropped in the order they are declared: the sockets are closed, which takes them out
/// of the map, and only then are the slots free for others.
pub(super) struct Carried {
    pub(super) client: Side,
    pub(super) endpoint: Side,
    pub(super) entry: Entry,
}

impl Carried {
    /// Carries to the end.
    pub(super) async fn run(self, limits: &Limits, traffic: &Traffic) -> End {
        let end = tokio::select! {
            end = self.carry() => end,
            end = limits_reached(limits, || self.report(traffic)) => end,
        };
        self.report(traffic);
        if end != End::Done {
            // The side that is still there shall learn that the stream was cut: RST, not FIN.
            self.client.abort();
            self.endpoint.abort();
        }
        end
    }

    async fn carry(&self) -> End {
        let (mut up, mut down) = (Flow::new(), Flow::new());
        let mut pause = SHORTEST_PAUSE;
        loop {
            if let Some(end) = self.look(&mut up, &mut down) {
                return end;
            }
            let busy = match (
                up.step(&self.client, &self.endpoint, self.up()),
                down.step(&self.endpoint, &self.client, self.down()),
            ) {
                (Ok(up), Ok(down)) => up == Step::Busy || down == Step::Busy,
                (Err(Failed::Source), _) | (_, Err(Failed::Sink)) => return End::ClientReset,
                (Err(Failed::Sink), _) | (_, Err(Failed::Source)) => return End::EndpointReset,
            };
            if up.is_finished() && down.is_finished() {
                return End::Done;
            }
            let changed = self.entry.slots.changed();
            if busy {
                tokio::select! {
                    () = changed.notified() => {}
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                pause = SHORTEST_PAUSE;
                changed.notified().await;
            }
        }
    }

    /// Asks the sockets for FIN and RST.
    ///
    /// POLLERR means that the socket has an error. Its state would not do: CLOSE is also where a
    /// connection ends whose FINs were all acknowledged, while its last bytes still wait to be
    /// written to the other side.
    fn look(&self, up: &mut Flow, down: &mut Flow) -> Option<End> {
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
        if client.contains(PollFlags::RDHUP) {
            up.source_finished();
        }
        if endpoint.contains(PollFlags::RDHUP) {
            down.source_finished();
        }
        None
    }

    fn up(&self) -> StreamView<'_> {
        self.entry.maps.sockets.stream(self.entry.slots.client())
    }

    fn down(&self) -> StreamView<'_> {
        self.entry.maps.sockets.stream(self.entry.slots.endpoint())
    }

    /// Publishes the byte counts; answers their sum.
    fn report(&self, traffic: &Traffic) -> u64 {
        let count = |stream: StreamView<'_>| stream.redirected() + stream.consumed();
        let up = self.client.read_before + count(self.up());
        let down = count(self.down());
        traffic.set(Direction::Up, up);
        traffic.set(Direction::Down, down);
        up + down
    }
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);
