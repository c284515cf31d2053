//! What this process keeps of a flow: little, since there may be a million of them.

use std::time::Duration;

use sni_router_common::flow::{Ended, FlowKey, v4};

use crate::carry::Rest;
use crate::monotonic::now_ns;

/// See the module.
pub(super) struct Entry {
    keys: Keys,
    pub(super) stage: Stage,
    /// Where the streams were when they were last looked at: up, down.
    pub(super) seen: [u32; 2],
    /// Since when they have been there.
    pub(super) quiet_since: Moment,
    /// When the flow was inserted.
    pub(super) since: Moment,
}

/// How far a flow has come.
pub(super) enum Stage {
    /// It is being handed over; with its end, if the program has seen that already.
    HandingOver(Option<Box<Ended>>),
    /// The kernel carries it alone.
    Left(Box<dyn Rest>),
}

/// The keys of both directions, in as little room as they need.
pub(super) enum Keys {
    /// Addresses and ports of the one, then of the other.
    V4([u32; 6]),
    V6(Box<[FlowKey; 2]>),
}

impl Entry {
    /// Of a flow that begins now, with the keys of both directions and where their streams are: up,
    /// down.
    pub(super) fn new(keys: &[FlowKey; 2], seen: [u32; 2]) -> Self {
        let now = Moment::now();
        Self {
            keys: Keys::of(keys),
            stage: Stage::HandingOver(None),
            seen,
            quiet_since: now,
            since: now,
        }
    }

    /// The keys of both directions: up, down.
    pub(super) fn keys(&self) -> [FlowKey; 2] {
        self.keys.whole()
    }

    /// Whether the kernel carries it alone.
    pub(super) fn is_left(&self) -> bool {
        matches!(self.stage, Stage::Left(_))
    }

    /// Whether the program has said that it has ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::HandingOver(Some(_)))
    }

    /// The program says so. The first word counts.
    pub(super) fn note_end(&mut self, new: &Ended) {
        if let Stage::HandingOver(ended) = &mut self.stage {
            ended.get_or_insert_with(|| Box::new(*new));
        }
    }

    /// The kernel carries it alone from now on. Answers with its end, if that has come before.
    pub(super) fn leave(&mut self, rest: Box<dyn Rest>) -> Option<Box<Ended>> {
        match std::mem::replace(&mut self.stage, Stage::Left(rest)) {
            Stage::HandingOver(ended) => ended,
            Stage::Left(_) => None,
        }
    }
}

impl Keys {
    /// Of both directions: up, down; here and below.
    pub(super) fn of(keys: &[FlowKey; 2]) -> Self {
        let short = |key: &FlowKey| [key.src[3], key.dst[3], key.ports];
        let [[a, b, c], [d, e, f]] = [short(&keys[0]), short(&keys[1])];
        let short = Self::V4([a, b, c, d, e, f]);
        if short.whole() == *keys {
            short
        } else {
            Self::V6(Box::new(*keys))
        }
    }

    pub(super) fn whole(&self) -> [FlowKey; 2] {
        let long = |src, dst, ports| FlowKey {
            src: v4(src),
            dst: v4(dst),
            ports,
        };
        match *self {
            Self::V4([a, b, c, d, e, f]) => [long(a, b, c), long(d, e, f)],
            Self::V6(ref keys) => **keys,
        }
    }
}

/// A moment in the life of this machine, 17 ms exact. It comes round after 834 days: what has lasted for
/// longer seems to have lasted for less, and a limit beyond that is none.
#[derive(Clone, Copy)]
pub(super) struct Moment(u32);

impl Moment {
    pub(super) fn now() -> Self {
        Self((now_ns() >> UNIT_BITS) as u32)
    }

    pub(super) fn ago(age: Duration) -> Self {
        let units = (age.as_nanos() >> UNIT_BITS).min(FURTHEST.into()) as u32;
        Self(Self::now().0.wrapping_sub(units))
    }

    /// The first one that is this much later, or more.
    #[cfg(test)]
    pub(super) fn later(self, by: Duration) -> Self {
        let units = (by.as_nanos() as u64).div_ceil(1 << UNIT_BITS) + 1;
        Self(self.0.wrapping_add(units as u32))
    }

    /// The time that has passed at least between an earlier moment and this one; nothing if that is a
    /// little later.
    pub(super) fn since(self, earlier: Self) -> Duration {
        let units = self.0.wrapping_sub(earlier.0);
        let units = if units > FURTHEST { 0 } else { units };
        // Both are rounded down.
        Duration::from_nanos(u64::from(units.saturating_sub(1)) << UNIT_BITS)
    }
}

/// Of 2²⁴ ns.
const UNIT_BITS: u32 = 24;

/// Units that a moment may be behind another; what is further is a day, at most, before it.
const FURTHEST: u32 = u32::MAX - 5_000_000;

// A size that the allocator has.
const _: () = assert!(size_of::<Entry>() <= 64);

#[cfg(test)]
mod tests {
    use sni_router_common::flow::{ports, v6};

    use super::*;

    #[test]
    fn keys_of_either_family_come_back() {
        let v4s = [1, 2, 3, 4].map(|last| v4(u32::from_ne_bytes([192, 0, 2, last])));
        let v6s = [1, 2, 3, 4]
            .map(|last| v6([0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, last]));
        for ([a, b, c, d], is_short) in [(v4s, true), (v6s, false)] {
            let key = |src, dst, ports| FlowKey { src, dst, ports };
            let keys = [key(a, b, ports(1, 443)), key(c, d, ports(8443, 2))];
            let kept = Keys::of(&keys);
            assert_eq!(kept.whole(), keys);
            assert_eq!(matches!(kept, Keys::V4(_)), is_short);
        }
    }

    #[test]
    fn moments_are_apart_by_what_has_passed_also_where_they_come_round() {
        let (first, later) = (Moment(u32::MAX - 1), Moment(59));
        assert_eq!(later.since(first), Duration::from_nanos(60 << 24));
        assert_eq!(
            first.since(later),
            Duration::ZERO,
            "made after the look began"
        );
        let year = Duration::from_secs(366 * 86_400);
        for (ago, least) in [(year / 2, year / 2), (year, year), (10 * year, 2 * year)] {
            let age = Moment::now().since(Moment::ago(ago));
            assert!(age <= ago + Duration::from_secs(60), "{age:?}");
            assert!(age + Duration::from_secs(1) > least, "{age:?}");
        }
    }
}
