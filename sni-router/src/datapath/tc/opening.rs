//! Opening connections without sockets.
//!
//! ```text
//!            hello complete            SYN-ACK                   both directions in the table,
//! Gathering ───SYN to endpoint──▶ Awaiting ───────────────────▶ hello sent: a flow
//!     └──anything unusual──┐          └──RST, another SYN-ACK, or a second without one──┐
//!                          ▼                                                            ▼
//!                   a socket is made for the client, and the rest is as for any other client
//! ```
//!
//! A whole hello is not acknowledged before the endpoint does so. One that is lost on the way to the endpoint is sent
//! again from here; what is lost before, by the client. So that it does, a part of one is acknowledged
//! while the rest is awaited.

mod balance;
mod clients;
mod common;
mod endpoints;
mod hellos;
mod masters;
mod parts;
mod shares;
mod sizes;
mod sockets;
mod timers;

use std::future::{Future, pending};
use std::io;
use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sni_router_common::flow::FlowKey;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::error;

use self::clients::Openings;
use self::common::{Common, Has};
pub(super) use self::shares::Rank;
use self::shares::{Batch, Intake, shares};
use super::conntrack::Conntrack;
use super::known::Known;
use super::policies::Ipsec;
use super::registry::Registry;
use super::ways::Ways;
use crate::carry::Doorman;
use crate::datapath::bpf::{Flows, Taking};
use crate::sys::allocator;
use crate::sys::raw::Raw;

/// One that opens connections, and what it needs.
#[derive(Clone)]
pub(super) struct Opener {
    pub(super) flows: Arc<Flows>,
    pub(super) registry: Arc<Registry>,
    pub(super) known: Arc<Known>,
    pub(super) conntrack: Arc<Conntrack>,
    pub(super) ipsec: Arc<Ipsec>,
    pub(super) ways: Arc<Ways>,
    pub(super) doorman: Arc<dyn Doorman>,
    pub(super) raw: Arc<Raw>,
    pub(super) retired: Arc<Notify>,
    pub(super) common: Arc<Common>,
    pub(super) rank: Rank,
}

impl Opener {
    /// Opens connections until the datapath is retired, on threads of their own: as many as a router with so many
    /// workers needs.
    pub(super) fn start(self, taking: Taking, workers: usize) -> io::Result<()> {
        let mut openers = Rank::all(workers).map(|rank| Self {
            rank,
            ..self.clone()
        });
        let (helpers, shares) = shares(openers.len());
        let first = openers.next().unwrap_or_else(|| self.clone());
        for (helper, share) in openers.zip(shares) {
            helper.spawn(async move |helper| helper.run(Intake::Share(share)).await)?;
        }
        first.spawn(async move |first| {
            let (ring, until) = taking.start()?;
            first.known.start(until);
            first.run(Intake::Ring(Box::new(ring), helpers)).await
        })
    }

    fn spawn<F>(self, run: impl FnOnce(Self) -> F + Send + 'static) -> io::Result<()>
    where
        F: Future<Output = io::Result<()>>,
    {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .on_thread_park(allocator::answer)
            .build()?;
        let thread = thread::Builder::new().name(format!("opener-{}", self.rank));
        thread.spawn(move || {
            if let Err(error) = runtime.block_on(run(self)) {
                error!(%error, "connections are opened with sockets from now on");
            }
        })?;
        Ok(())
    }

    async fn run(self, mut intake: Intake) -> io::Result<()> {
        let retired = Arc::clone(&self.retired);
        let is_first = self.rank.is_first();
        let stopping = Stopping(Arc::clone(&self.known));
        let mut openings = Openings::new(self);
        let mut batch = Batch::new();
        let mut rush = Rush::default();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            let deadline = openings.next_deadline();
            let overdue = async {
                match deadline {
                    // The runtime looks at its clock only when there is nothing else to do.
                    Some(when) if when <= Instant::now() => {}
                    Some(when) => sleep_until(when.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // Packets come last: under load there are always some.
                biased;
                () = retired.notified(), if is_first => break Ok(()),
                () = overdue => {
                    rush.read();
                    openings.expire(Instant::now());
                    intake.some(&mut batch);
                }
                _ = looks.tick() => {
                    if rush.is_over() {
                        openings.fit();
                        batch.shrink_to(FEW);
                        allocator::give_back();
                    }
                }
                read = intake.next(&mut batch) => {
                    rush.read();
                    match read {
                        Ok(true) => {}
                        Ok(false) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
            }
            openings.hear_mine(&mut intake, &mut batch).await;
        };
        let _busy = openings.opener.doorman.busy();
        // What has been taken is served by sockets.
        drop(stopping);
        openings.hear_rest(&mut intake, &mut batch).await;
        openings.give_up();
        intake.end().await;
        // Another CPU may have been about to take one more.
        sleep(A_MOMENT).await;
        openings.hear_rest(&mut intake, &mut batch).await;
        openings.give_up();
        drop(intake);
        while !openings.clients.is_empty() {
            // The stack was not ready for a socket of theirs.
            sleep(A_MOMENT).await;
            openings.give_up();
        }
        openings.settle().await;
        ended
    }
}

/// Has nobody taken any more when it is dropped: also when the thread panics, and nobody would be served.
struct Stopping(Arc<Known>);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Many connections at a time, after which this thread has more memory than it needs for a long time.
#[derive(Default)]
struct Rush {
    /// How often the ring was read since the last look.
    reads: u32,
    is_on: bool,
}

impl Rush {
    /// The ring was read.
    fn read(&mut self) {
        self.reads = self.reads.saturating_add(1);
    }

    /// Whether one was there at the last look that is over now. To be asked every [`LOOK`].
    fn is_over(&mut self) -> bool {
        let reads = mem::take(&mut self.reads);
        let goes_on = self.is_on && reads > CALM;
        let was_on = mem::replace(&mut self.is_on, goes_on || reads >= MANY);
        was_on && !self.is_on
    }
}

impl Openings {
    /// Hears what is this opener's of a batch, and gives the rest to others, before that.
    async fn hear_mine(&mut self, intake: &mut Intake, batch: &mut Batch) {
        let is_mine = |key: &FlowKey| self.clients.contains_key(key);
        intake.share(batch, is_mine).await;
        batch.drain(..).for_each(|packet| self.hear(packet));
        let opener = &self.opener;
        opener.common.totals.say(opener.rank, self.has());
    }

    /// The same with all that are there.
    async fn hear_rest(&mut self, intake: &mut Intake, batch: &mut Batch) {
        loop {
            intake.some(batch);
            if batch.is_empty() {
                return;
            }
            self.hear_mine(intake, batch).await;
        }
    }

    /// What it has now.
    fn has(&self) -> Has {
        Has {
            openings: self.clients.len(),
            bytes: self.hellos.bytes(),
        }
    }

    /// Gives back what is not needed any more.
    fn fit(&mut self) {
        self.clients.shrink_to(FEW);
        self.endpoints.shrink_to(FEW);
        self.hellos.fit();
        for waiting in self.timers.all() {
            waiting.shrink_to(FEW);
        }
    }
}

/// Openings whose memory is not worth to be given back.
const FEW: usize = 64;
const LOOK: Duration = Duration::from_secs(1);
/// Reads between two looks that are a rush, of up to 64 packets each.
const MANY: u32 = 64;
/// Reads between two looks of which the rush is over.
const CALM: u32 = 8;

/// Longer than the program runs for a packet.
const A_MOMENT: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rush_is_over_once_and_only_where_there_was_one() {
        let mut rush = Rush::default();
        let mut look = |reads| {
            (0..reads).for_each(|_| rush.read());
            rush.is_over()
        };
        let looks = [0, CALM, MANY - 1, 0, MANY, CALM + 1, MANY, CALM, CALM, 0];
        let over = looks.map(&mut look);
        assert_eq!(over.iter().position(|over| *over), Some(7), "{over:?}");
        assert_eq!(over.iter().filter(|over| **over).count(), 1);
    }
}
