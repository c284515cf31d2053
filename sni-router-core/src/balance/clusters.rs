//! Choosing a cluster, where several have a host.

use std::cmp::Ordering as Order;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use smallvec::SmallVec;

use super::maglev::hash;
use super::share::{Avoided, Share};
use crate::model::{Method, Share as Key};

/// The shares a connection may be sent to, and what says which.
pub(super) struct Clusters<'a> {
    /// Which cluster each share is of, in the order of `shares`.
    pub(super) keys: &'a [Key],
    pub(super) shares: &'a [Share],
    pub(super) method: Method,
    /// Counts choices.
    pub(super) turn: &'a AtomicUsize,
}

impl<'a> Clusters<'a> {
    /// The share that a connection of `client` is sent to, which has an endpoint that is not
    /// `avoided`.
    ///
    /// A cluster that failed this connection, or is in doubt, is left for one that did not and is
    /// not, whatever its tier. Where there is none such, all are as good as any. One is in doubt,
    /// too, where those of its endpoints are that are not drained.
    pub(super) fn choose(
        &self,
        client: IpAddr,
        avoided: Avoided<'_>,
        now: Duration,
    ) -> Option<&'a Share> {
        // Each turn ends with a choice, or with a share that another connection has just put in
        // doubt.
        for _ in self.shares {
            let fresh = self.weighed(client, |share| {
                !share.has_failed(avoided)
                    && share.doubt.pause.is_over(now)
                    && share.has_good(avoided, now)
            });
            match fresh {
                Some(share) if share.doubt.pause.try_again(now) => return Some(share),
                Some(_) => {}
                None => break,
            }
        }
        self.weighed(client, |share| share.has_left(avoided))
    }

    /// One of the lowest tier that has any, by weight.
    fn weighed(&self, client: IpAddr, may: impl Fn(&Share) -> bool) -> Option<&'a Share> {
        let indices = 0..self.shares.len();
        // Asked once of each: between two answers another connection may put a share in doubt,
        // and then the lowest tier would be one that has none any more.
        let mut candidates: Candidates = indices.filter(|&it| may(&self.shares[it])).collect();
        let tier = candidates.iter().map(|&it| self.shares[it].tier).min()?;
        candidates.retain(|it| self.shares[*it].tier == tier);
        let index = match self.method {
            Method::SourceIpHash => candidates
                .into_iter()
                .min_by(|&a, &b| self.compare(client, a, b)),
            Method::RoundRobin | Method::LeastConnection => self.in_turn(&candidates),
        };
        index.map(|index| &self.shares[index])
    }

    /// Each gets its part of any run of choices, off by a few at most: multiples of the golden
    /// ratio fill an interval evenly (Knuth, The Art of Computer Programming, 6.4).
    fn in_turn(&self, candidates: &[usize]) -> Option<usize> {
        let weight = |index: usize| u128::from(self.shares[index].weight);
        let total: u128 = candidates.iter().map(|&index| weight(index)).sum();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as u64;
        let fraction = turn.wrapping_mul(GOLDEN_RATIO);
        let mut left = (u128::from(fraction) * total) >> 64;
        for &index in candidates {
            match left.checked_sub(weight(index)) {
                Some(rest) => left = rest,
                None => return Some(index),
            }
        }
        // Weights were all 0.
        candidates.last().copied()
    }

    /// Which of two a client meets: weighted rendezvous hashing (Schindelhauer and Schomaker,
    /// "Weighted Distributed Hash Tables", SPAA 2005, the logarithmic method). Where one goes,
    /// only its own clients move; so they do where another node has other clusters in doubt.
    fn compare(&self, client: IpAddr, a: usize, b: usize) -> Order {
        let distance = |index: usize| {
            let name = self.keys[index].service.cluster.as_str();
            u128::from(minus_log2(hash(client, name.as_bytes()).0))
        };
        let weight = |index: usize| u128::from(self.shares[index].weight);
        // The smaller of distance/weight.
        (distance(a) * weight(b)).cmp(&(distance(b) * weight(a)))
    }
}

/// `-log2(x / 2^64)` in units of 2^-32, without floating point: every machine must come to the
/// same answer. Digit by digit, by squaring (Knuth, 1.2.2, exercise 25 and its neighbours).
fn minus_log2(x: u64) -> u64 {
    let x = x.max(1);
    let zeros = x.leading_zeros();
    // 1 <= mantissa / 2^63 < 2
    let mut mantissa = u128::from(x << zeros);
    let mut fraction = 0;
    for bit in (0..32).rev() {
        mantissa = (mantissa * mantissa) >> 63;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            fraction |= 1 << bit;
        }
    }
    let log2 = (u64::from(63 - zeros) << 32) | fraction;
    (64 << 32) - log2
}

/// Indices of shares. Few have more clusters than fit without an allocation.
type Candidates = SmallVec<[usize; 8]>;

/// 2^64 divided by the golden ratio, odd.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_is_that_of_floating_point() {
        for x in [1, 2, 3, 1 << 32, (1 << 32) + 12_345, u64::MAX / 3, u64::MAX] {
            let expected = 64.0 - (x as f64).log2();
            let found = minus_log2(x) as f64 / f64::from(2).powi(32);
            assert!((expected - found).abs() < 1e-8, "{x}: {expected} {found}");
        }
        assert_eq!(minus_log2(0), minus_log2(1));
    }
}
