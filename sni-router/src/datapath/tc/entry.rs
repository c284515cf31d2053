//! What this process keeps of a flow: little, since there may be a million of them.

use std::num::NonZeroU32;
use std::time::Duration;

use sni_router_common::flow::{Flow, FlowKey, v4};

use crate::carry::Seat;
use crate::monotonic::now_ns;

/// See the module.
pub(super) struct Entry {
    keys: Keys,
    /// Where both directions were when they were last looked at, up and down; see [`position`].
    seen: [u16; 2],
    /// Since when they have been there.
    pub(super) quiet_since: Moment,
    /// Its number.
    pub(super) id: u32,
    /// Whom it is, once the kernel carries it alone.
    pub(super) seat: Option<Seat>,
}

/// The keys of both directions, in as little room as they need.
pub(super) enum Keys {
    /// Addresses of the one, then of the other, and their ports, of which none is 0.
    V4([u32; 4], [NonZeroU32; 2]),
    V6(Box<[FlowKey; 2]>),
}

impl Entry {
    /// Of a flow that begins now, with the keys of both directions and where they are: up, down.
    pub(super) fn new(id: u32, keys: &[FlowKey; 2], seen: [u16; 2]) -> Self {
        Self {
            keys: Keys::of(keys),
            seen,
            quiet_since: Moment::now(),
            id,
            seat: None,
        }
    }

    /// The keys of both directions: up, down.
    pub(super) fn keys(&self) -> [FlowKey; 2] {
        self.keys.whole()
    }

    /// Looks where a direction is `now`.
    pub(super) fn look(&mut self, flow: &Flow, now: Moment) {
        let at = position(flow);
        let seen = &mut self.seen[usize::from(flow.up == 0)];
        if *seen != at {
            *seen = at;
            self.quiet_since = now;
        }
    }

    /// Whether the kernel carries it alone.
    pub(super) fn is_left(&self) -> bool {
        self.seat.is_some()
    }
}

impl Keys {
    /// Of both directions: up, down; here and below.
    pub(super) fn of(keys: &[FlowKey; 2]) -> Self {
        Self::short(keys).unwrap_or_else(|| Self::V6(Box::new(*keys)))
    }

    fn short(keys: &[FlowKey; 2]) -> Option<Self> {
        let [up, down] = keys;
        let addresses = [up.src[3], up.dst[3], down.src[3], down.dst[3]];
        let ports = [NonZeroU32::new(up.ports)?, NonZeroU32::new(down.ports)?];
        let short = Self::V4(addresses, ports);
        (short.whole() == *keys).then_some(short)
    }

    pub(super) fn whole(&self) -> [FlowKey; 2] {
        let long = |src, dst, ports: NonZeroU32| FlowKey {
            src: v4(src),
            dst: v4(dst),
            ports: ports.get(),
        };
        match *self {
            Self::V4([a, b, c, d], [up, down]) => [long(a, b, up), long(c, d, down)],
            Self::V6(ref keys) => **keys,
        }
    }
}

/// A number that is another one once a direction has gone on: of what was sent, and of what was acknowledged. What goes
/// on in one direction is acknowledged in the other, so both tell; neither alone is believed, since an acknowledgement
/// may have been damaged. Different primes, so that both are the same again only after 4 GiB.
pub(super) const fn position(flow: &Flow) -> u16 {
    let prime = if flow.up == 1 { 65_521 } else { 65_519 };
    ((flow.end as u32).wrapping_add(flow.ack) % prime) as u16
}

/// A moment in the life of this machine, 17 ms exact. It comes round after 834 days: what has lasted for
/// longer seems to have lasted for less, and a limit beyond that is none.
#[derive(Clone, Copy)]
pub(super) struct Moment(NonZeroU32);

impl Moment {
    pub(super) fn now() -> Self {
        Self::of((now_ns() >> UNIT_BITS) as u32)
    }

    /// One number is not used, and makes room for [`Option`].
    fn of(units: u32) -> Self {
        Self(NonZeroU32::new(units).unwrap_or(NonZeroU32::MIN))
    }

    /// The first one that is this much later, or more.
    #[cfg(test)]
    pub(super) fn later(self, by: Duration) -> Self {
        let units = (by.as_nanos() as u64).div_ceil(1 << UNIT_BITS) + 1;
        Self::of(self.0.get().wrapping_add(units as u32))
    }

    /// The time that has passed at least between an earlier moment and this one; nothing if that is a
    /// little later.
    pub(super) fn since(self, earlier: Self) -> Duration {
        let units = self.0.get().wrapping_sub(earlier.0.get());
        let units = if units > FURTHEST { 0 } else { units };
        // Both are rounded down.
        Duration::from_nanos(u64::from(units.saturating_sub(1)) << UNIT_BITS)
    }
}

/// Of 2²⁴ ns.
const UNIT_BITS: u32 = 24;

/// Units that a moment may be behind another; what is further is a day, at most, before it.
const FURTHEST: u32 = u32::MAX - 5_000_000;

// What a flow takes here; with IPv6, 72 bytes more.
const _: () = assert!(size_of::<Option<Entry>>() == 40);

#[cfg(test)]
mod tests {
    use sni_router_common::flow::{ports, v6};
    use zerocopy::FromZeros as _;

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
            assert_eq!(matches!(kept, Keys::V4(..)), is_short);
        }
    }

    #[test]
    fn flow_is_quiet_since_neither_stream_goes_on() {
        let of = |up| Flow {
            end: 1 << 32,
            ack: u32::MAX - 1,
            up,
            ..Flow::new_zeroed()
        };
        let (mut up, mut down) = (of(1), of(0));
        let keys = [FlowKey::answers(&up); 2];
        let mut entry = Entry::new(1, &keys, [position(&up), position(&down)]);
        let mut now = entry.quiet_since;
        let mut look = |up: &Flow, down: &Flow, goes_on: bool| {
            let before = entry.quiet_since;
            now = now.later(Duration::from_secs(1));
            entry.look(down, now);
            entry.look(up, now);
            let expected = if goes_on { now } else { before };
            assert_eq!(entry.quiet_since.0, expected.0);
        };
        look(&up, &down, false);
        up.end += 1;
        look(&up, &down, true);
        // A probe whether the other side is there.
        (up.seen, down.seen) = (7, 8);
        look(&up, &down, false);
        // What the client acknowledges is not known, for long, after a flipped bit.
        down.end += 1;
        look(&up, &down, true);
        // Where a stream is as far as one number can tell, the other tells.
        for bytes in [65_521, 65_519, 1 << 16, 1 << 31] {
            down.end += bytes;
            up.ack = up.ack.wrapping_add(bytes as u32);
            look(&up, &down, true);
        }
        look(&up, &down, false);
    }

    #[test]
    fn moments_are_apart_by_what_has_passed_also_where_they_come_round() {
        let (first, later) = (Moment::of(u32::MAX - 1), Moment::of(59));
        assert_eq!(later.since(first), Duration::from_nanos(60 << 24));
        assert_eq!(
            first.since(later),
            Duration::ZERO,
            "made after the look began"
        );
        let year = Duration::from_secs(366 * 86_400);
        for lasts in [year / 2, year, 2 * year] {
            let seen = first.later(lasts).since(first);
            assert!(
                (lasts..lasts + Duration::from_secs(1)).contains(&seen),
                "{seen:?}"
            );
        }
    }
}
