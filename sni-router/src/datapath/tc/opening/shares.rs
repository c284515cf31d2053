//! Which of the openers has which connection.
//!
//! ```text
//! snir_tc ──ring──▶ opener 0 ──▶ itself
//!                       ├──────▶ opener 1
//!                       └──────▶ …
//! ```
//!
//! A connection is one opener's from its first packet to the flow, so none waits for another. The one that reads the
//! ring has all of them as long as few come at a time, since to wake another up costs more than it saves. Else it
//! keeps one of as many clients as there are openers. What follows finds its opener by what it says itself:
//!
//! | packet | whose |
//! | --- | --- |
//! | a client's first | opener 0's, or the helper's that its key says |
//! | a client's next | likewise: opener 0 knows its own |
//! | an endpoint's answer | the number of the SYN that it answers says that |

use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::{fmt, io, iter, mem};

use sni_router_common::flow::FlowKey;
use sni_router_common::taken::{Taken, kind};
use tokio::sync::mpsc;

use super::super::learn::SYN as ONE;
use crate::datapath::bpf::Ring;

/// A packet that was taken.
pub(super) struct Packet {
    pub(super) taken: Taken,
    pub(super) payload: Vec<u8>,
}

/// Packets, in the order in which they came.
pub(super) type Batch = Vec<Packet>;

/// Which opener one is, and of how many.
#[derive(Clone, Copy, Debug)]
pub(in crate::datapath::tc) struct Rank {
    number: u32,
    /// A power of two.
    count: u32,
}

/// Where an opener has its packets from.
pub(super) enum Intake {
    /// The program.
    Ring(Box<Ring>, Helpers),
    /// Who reads the ring.
    Share(Share),
}

/// The openers that read no ring.
pub(super) struct Helpers {
    shares: Vec<mpsc::Sender<Batch>>,
    /// Ends when they have.
    gone: mpsc::Receiver<Infallible>,
    dealer: Dealer,
}

/// What one of them gets.
pub(super) struct Share {
    batches: mpsc::Receiver<Batch>,
    _is_here: mpsc::Sender<Infallible>,
}

/// Who says whose packets are.
struct Dealer {
    count: u32,
    secret: RandomState,
}

impl Packet {
    fn new(taken: &Taken, payload: &[u8]) -> Self {
        Self {
            taken: *taken,
            payload: payload.get(..taken.len.into()).unwrap_or_default().to_vec(),
        }
    }
}

impl Rank {
    /// Of one that has no helpers.
    pub(in crate::datapath::tc) const ALONE: Self = Self {
        number: 0,
        count: 1,
    };

    /// Those of the openers of a router with so many workers, which have other things to do as well.
    pub(super) fn all(workers: usize) -> impl ExactSizeIterator<Item = Self> {
        let some = (workers / 2).max(2).min(workers).clamp(1, MOST_OPENERS);
        let count = 1 << some.ilog2();
        (0..count).map(move |number| Self { number, count })
    }

    /// Whether it reads the ring.
    pub(super) fn is_first(self) -> bool {
        self.number == 0
    }

    /// Among all.
    pub(super) fn index(self) -> usize {
        self.number as usize
    }

    /// The share of each of something that all have together.
    pub(super) fn share(self, of_all: usize) -> usize {
        of_all / self.count as usize
    }

    /// The number of a SYN that this opener sends, made of one that nobody can guess.
    pub(super) fn sign(self, isn: u32) -> u32 {
        isn & !(self.count - 1) | self.number
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

/// What helpers get, and who hands that out.
pub(super) fn shares(count: usize) -> (Helpers, Vec<Share>) {
    let (is_here, gone) = mpsc::channel(1);
    let helpers = iter::repeat_with(|| mpsc::channel(MOST_BATCHES)).take(count.saturating_sub(1));
    let (senders, shares) = helpers
        .map(|(sender, batches)| {
            let _is_here = is_here.clone();
            (sender, Share { batches, _is_here })
        })
        .unzip();
    let helpers = Helpers {
        shares: senders,
        gone,
        dealer: Dealer {
            count: count as u32,
            secret: RandomState::new(),
        },
    };
    (helpers, shares)
}

impl Intake {
    /// Waits until there are packets, and adds some of them to `batch`. False where none will come any more.
    pub(super) async fn next(&mut self, batch: &mut Batch) -> io::Result<bool> {
        match self {
            Self::Ring(ring, _) => ring.next(adds(batch)).await.map(|()| true),
            Self::Share(share) => {
                let more = share.batches.recv().await;
                Ok(more.map(|more| batch.extend(more)).is_some())
            }
        }
    }

    /// The same with those that are there, if any.
    pub(super) fn some(&mut self, batch: &mut Batch) {
        match self {
            Self::Ring(ring, _) => ring.some(adds(batch)),
            Self::Share(share) => batch.extend(share.batches.try_recv().into_iter().flatten()),
        }
    }

    /// Gives helpers what is theirs, and leaves the rest. `is_mine` says of which clients this opener knows.
    pub(super) async fn share(&mut self, batch: &mut Batch, is_mine: impl Fn(&FlowKey) -> bool) {
        let Self::Ring(_, Helpers { shares, dealer, .. }) = self else {
            return;
        };
        if shares.is_empty() || batch.is_empty() {
            return;
        }
        let has_room = |helper: u32| {
            let share = &shares[helper as usize - 1];
            share.capacity() > 0 && !share.is_closed()
        };
        let owners = dealer.deal(batch, is_mine, has_room);
        if owners.iter().all(|owner| *owner == 0) {
            return;
        }
        let mut piles: Vec<_> = shares.iter().map(|_| Batch::new()).collect();
        for (packet, owner) in mem::take(batch).into_iter().zip(owners) {
            match owner {
                0 => batch.push(packet),
                helper => piles[helper as usize - 1].push(packet),
            }
        }
        for (share, pile) in shares.iter().zip(piles) {
            if !pile.is_empty() {
                // Fails where a helper has panicked: then nobody is taken any more.
                let _ = share.send(pile).await;
            }
        }
    }

    /// Has no helpers any more, once they have done what they got.
    pub(super) async fn end(&mut self) {
        if let Self::Ring(_, helpers) = self {
            helpers.shares.clear();
            helpers.gone.recv().await;
        }
    }
}

/// Adds packets to a batch.
fn adds(batch: &mut Batch) -> impl FnMut(&Taken, &[u8]) {
    |taken, payload| batch.push(Packet::new(taken, payload))
}

impl Dealer {
    /// Says for each packet who has it.
    fn deal(
        &self,
        batch: &[Packet],
        is_mine: impl Fn(&FlowKey) -> bool,
        has_room: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        let is_first = |packet: &Packet| packet.taken.kind == kind::FIRST;
        let firsts = batch.iter().filter(|packet| is_first(packet)).count();
        let is_much = firsts >= FEW * self.count as usize || batch.len() >= MANY;
        let mut turn = 0;
        let mut owners: Vec<u32> = Vec::with_capacity(batch.len());
        for (at, packet) in batch.iter().enumerate() {
            let taken = &packet.taken;
            let key = &taken.key;
            if let kind::ANSWER | kind::REFUSAL = taken.kind {
                owners.push(taken.ack.wrapping_sub(ONE) % self.count);
                continue;
            }
            let mut before = batch[..at].iter().zip(&owners).rev();
            let first = before.find(|(other, _)| is_first(other) && other.taken.key == *key);
            let is_mine = || is_mine(key);
            let owner = match first {
                Some((_, owner)) => *owner,
                None if is_first(packet) => {
                    turn += 1;
                    let helper = self.helper(key);
                    let is_theirs = is_much && turn % self.count != 0;
                    if is_theirs && has_room(helper) && !is_mine() {
                        helper
                    } else {
                        0
                    }
                }
                None if is_mine() => 0,
                None => self.helper(key),
            };
            owners.push(owner);
        }
        owners
    }

    /// The one that has a client which opener 0 has not.
    fn helper(&self, key: &FlowKey) -> u32 {
        match self.count {
            2 => 1,
            count => 1 + self.secret.hash_one(key) as u32 % (count - 1),
        }
    }
}

/// More than one ring needs. A power of two.
pub(super) const MOST_OPENERS: usize = 8;

/// Fewer clients for each opener at a time are not worth to wake others up,
const FEW: usize = 2;
/// unless there is much else to do.
const MANY: usize = 32;

/// What waits for a helper at most. What comes meanwhile waits in the ring.
const MOST_BATCHES: usize = 16;

#[cfg(test)]
mod tests {
    use sni_router_common::flow::ports;
    use zerocopy::FromZeros as _;

    use super::*;

    fn packet(kind: u32, port: u16) -> Packet {
        let mut taken = Taken::new_zeroed();
        taken.kind = kind;
        taken.key.ports = ports(port, 443);
        Packet {
            taken,
            payload: Vec::new(),
        }
    }

    fn dealer(count: u32) -> Dealer {
        let secret = RandomState::new();
        Dealer { count, secret }
    }

    fn firsts(count: u16) -> Batch {
        (0..count).map(|port| packet(kind::FIRST, port)).collect()
    }

    #[test]
    fn half_of_the_workers_many_open_at_least_two_and_at_most_eight() {
        let count = |workers| Rank::all(workers).len();
        let workers = [1, 2, 3, 4, 5, 8, 11, 12, 16, 64, 1024];
        let counts = [1, 2, 2, 2, 2, 4, 4, 4, 8, 8, 8];
        assert_eq!(workers.map(count), counts);
    }

    #[test]
    fn few_at_a_time_wake_nobody_up() {
        for count in [2, 4, 8] {
            let few = (FEW * count as usize - 1) as u16;
            let owners = dealer(count).deal(&firsts(few), |_| false, |_| true);
            assert_eq!(owners, vec![0; few.into()]);
        }
    }

    #[test]
    fn many_are_shared_out_evenly() {
        for count in [2, 4, 8] {
            let owners = dealer(count).deal(&firsts(8000), |_| false, |_| true);
            for opener in 0..count {
                let share = owners.iter().filter(|owner| **owner == opener).count();
                let fair = 8000 / count as usize;
                assert!(share.abs_diff(fair) < fair / 4, "{share} of {opener}");
            }
        }
    }

    #[test]
    fn client_that_is_known_here_and_one_whose_helper_has_no_room_stay() {
        let dealer = dealer(2);
        let batch = firsts(64);
        let owners = dealer.deal(&batch, |_| true, |_| true);
        assert_eq!(owners, vec![0; 64]);
        let owners = dealer.deal(&batch, |_| false, |_| false);
        assert_eq!(owners, vec![0; 64]);
    }

    #[test]
    fn next_packets_follow_the_first_one() {
        for count in [2, 4, 8] {
            let dealer = dealer(count);
            let mut batch = firsts(64);
            batch.extend((0..64).map(|port| packet(kind::NEXT, port)));
            let owners = dealer.deal(&batch, |_| false, |_| true);
            let (first, next) = owners.split_at(64);
            assert_eq!(first, next);
            // And in a batch of their own.
            let batch = batch.split_off(64);
            let is_mine = |key: &FlowKey| {
                let at = batch.iter().position(|packet| packet.taken.key == *key);
                at.is_some_and(|at| first[at] == 0)
            };
            assert_eq!(dealer.deal(&batch, is_mine, |_| false), first);
        }
    }

    #[test]
    fn client_that_begins_anew_stays_with_its_opener() {
        let dealer = dealer(2);
        let mut batch = firsts(9);
        batch.push(packet(kind::NEXT, 0));
        batch.push(packet(kind::FIRST, 0));
        batch.push(packet(kind::NEXT, 0));
        let owners = dealer.deal(&batch, |_| false, |_| true);
        assert_eq!(owners[9..], [owners[0]; 3]);
    }

    #[test]
    fn clients_are_shared_out_where_few_of_many_packets_are_their_first() {
        let mut batch: Batch = (0..MANY as u16)
            .map(|port| packet(kind::ANSWER, port))
            .collect();
        batch.extend((0..2).map(|port| packet(kind::FIRST, port)));
        let owners = dealer(2).deal(&batch, |_| false, |_| true);
        assert_eq!(owners[MANY..], [1, 0]);
    }

    #[test]
    fn answer_goes_to_who_has_asked() {
        for rank in [1, 2, 4, 16].into_iter().flat_map(Rank::all) {
            for isn in [0, 1, 7, 8, u32::MAX - 8, u32::MAX - 1, u32::MAX] {
                let signed = rank.sign(isn);
                assert!(signed.abs_diff(isn) < rank.count);
                for kind in [kind::ANSWER, kind::REFUSAL] {
                    let mut answer = packet(kind, 1);
                    answer.taken.ack = signed.wrapping_add(ONE);
                    let owners = dealer(rank.count).deal(&[answer], |_| true, |_| false);
                    assert_eq!(owners, [rank.number]);
                }
            }
        }
    }
}
