//! Least connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Endpoint, Lease};

/// Picks the endpoint with the fewest active leases of those that `may` be picked; equals take
/// turns, for which `position` is the index to begin with.
///
/// `endpoints` is not empty.
pub(super) fn pick(
    endpoints: &[Arc<Endpoint>],
    position: &AtomicUsize,
    may: impl Fn(&Endpoint) -> bool,
) -> Option<Lease> {
    if endpoints.len() > SCAN_ALL {
        return pick_of_two(endpoints, position, may);
    }
    // Another thread may take the endpoint between our look and our claim. Look again then, or
    // all cores would send a burst to the same idle endpoint; but not for ever.
    for _ in 0..CLAIMS {
        let start = position.load(Ordering::Relaxed);
        let (index, active) = least_active(endpoints, start, &may)?;
        if let Some(lease) = Lease::new_if_active_is(&endpoints[index], active) {
            // Behind the one picked, not one further: with some endpoints busy the others
            // would not get even shares.
            position.store(index + 1, Ordering::Relaxed);
            return Some(lease);
        }
    }
    let (index, _) = least_active(endpoints, position.load(Ordering::Relaxed), &may)?;
    Some(Lease::new(&endpoints[index]))
}

/// Index and active leases of the first endpoint with the fewest, looking from `start` around.
fn least_active(
    endpoints: &[Arc<Endpoint>],
    start: usize,
    may: impl Fn(&Endpoint) -> bool,
) -> Option<(usize, usize)> {
    let count = endpoints.len();
    (0..count)
        .map(|step| (start.wrapping_add(step)) % count)
        .filter(|&index| may(&endpoints[index]))
        .map(|index| (index, endpoints[index].active()))
        // The first of equals wins, as `min_by_key` documents.
        .min_by_key(|&(_, active)| active)
}

/// The less busy of two endpoints chosen at random.
///
/// This keeps the busiest of n endpoints within O(log log n) of the mean, where one at random
/// is off by O(log n / log log n) (Mitzenmacher, "The Power of Two Choices in Randomized Load
/// Balancing", 2001), and reads two cache lines instead of n that other cores write to.
fn pick_of_two(
    endpoints: &[Arc<Endpoint>],
    position: &AtomicUsize,
    may: impl Fn(&Endpoint) -> bool,
) -> Option<Lease> {
    let count = endpoints.len();
    let random = mix(position.fetch_add(1, Ordering::Relaxed) as u64);
    let (low, high) = (random as u32 as usize, (random >> 32) as usize);
    let from = |start: usize| {
        (0..count)
            .map(|step| &endpoints[(start + step) % count])
            .find(|endpoint| may(endpoint))
    };
    // Never the same one twice: the second is 1 to n - 1 places behind the first.
    let first = low % count;
    let one = from(first)?;
    let other = from(first + 1 + high % (count - 1))?;
    let less_busy = if other.active() < one.active() {
        other
    } else {
        one
    };
    Some(Lease::new(less_busy))
}

/// Turns a count into bits without a pattern: the output function of SplitMix64 (Steele, Lea,
/// Flood, OOPSLA 2014). Good enough for load, and needs no state of its own.
fn mix(count: u64) -> u64 {
    let mut z = count.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Up to so many endpoints all are looked at. Each may cost a cache line that another core has
/// just written, some 50 ns: 128 of them are about 6 µs at worst, less than a connect takes.
const SCAN_ALL: usize = 128;

/// How often a claim is tried before the choice is taken as it is.
const CLAIMS: usize = 4;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;
    use crate::balance::{Backend, tests};
    use crate::model::Method;

    #[test]
    fn least_busy_is_picked_when_leases_are_held() {
        let backend = backend(3);
        let mut held: Vec<_> = (0..3).map(|_| pick(&backend)).collect();
        let freed = held.remove(1).endpoint().addr();
        let next = pick(&backend);
        assert_eq!(next.endpoint().addr(), freed);
    }

    #[test]
    fn equals_take_turns_when_another_is_busy() {
        let backend = backend(3);
        let busy = pick(&backend);
        let picked: Vec<_> = (0..6)
            .map(|_| pick(&backend).endpoint().addr().port())
            .collect();
        assert_eq!(busy.endpoint().addr().port(), 0);
        assert_eq!(picked, [1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn load_differs_by_one_at_most_when_all_are_scanned() {
        let backend = backend(100);
        let held: Vec<_> = (0..1234).map(|_| pick(&backend)).collect();
        let active = backend.endpoints().map(|endpoint| endpoint.active());
        assert!(active.clone().all(|active| active == 12 || active == 13));
        assert_eq!(active.sum::<usize>(), held.len());
    }

    #[test]
    fn load_stays_even_when_two_are_compared() {
        let backend = backend(1000);
        let held: Vec<_> = (0..20_000).map(|_| pick(&backend)).collect();
        let active = || backend.endpoints().map(|endpoint| endpoint.active());
        let (least, most) = (active().min().unwrap(), active().max().unwrap());
        assert_eq!(active().sum::<usize>(), held.len());
        // One at random would end at 20 ± 15.
        assert!(
            least >= 14 && most <= 24,
            "{least}..={most} for a mean of 20"
        );
    }

    #[test]
    fn last_one_is_picked_when_all_others_of_many_were_tried() {
        let backend = backend(500);
        let all: Vec<_> = backend
            .endpoints()
            .map(|endpoint| endpoint.addr())
            .collect();
        let lease = backend.pick(CLIENT, &all[1..], NOW).unwrap();
        assert_eq!(lease.endpoint().addr(), all[0]);
        assert!(backend.pick(CLIENT, &all, NOW).is_none());
    }

    fn backend(endpoints: u16) -> Backend {
        tests::backend(Method::LeastConnection, endpoints)
    }

    fn pick(backend: &Backend) -> Lease {
        backend.pick(CLIENT, &[], NOW).unwrap()
    }

    const NOW: Duration = Duration::ZERO;
    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
}
