//! Maglev hashing: the same client meets the same endpoint, and most clients still do when
//! endpoints come and go (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI '16, section 3.4).

use std::net::{IpAddr, SocketAddr};

use siphasher::sip128::SipHasher24;

/// Up to so many endpoints share the small table size, see [`Maglev::new`].
pub(super) const FEW: usize = 40;

/// The lookup table: which endpoint the clients of each slot go to.
#[derive(Debug)]
pub(super) struct Maglev {
    /// Indices of endpoints.
    slots: Box<[u16]>,
}

impl Maglev {
    /// Fills the table for the endpoints of a backend, at least one, in their order.
    ///
    /// The number of slots is a prime, so that every step width visits every slot, and should be
    /// more than 100 times the number of endpoints, so that their shares differ by less than 1 %.
    /// A change of the number moves most clients, so there are only two: a Service has to grow
    /// past [`FEW`] endpoints to meet it. One large size for all would be 128 KiB a backend.
    /// Beyond 655 endpoints shares become less even; past 65,521 endpoints, the rest gets none.
    pub(super) fn new(endpoints: impl ExactSizeIterator<Item = SocketAddr>) -> Self {
        let size = if endpoints.len() <= FEW { SMALL } else { LARGE };
        let mut walks: Vec<_> = endpoints
            .take(size)
            .map(|addr| Walk::new(addr, size))
            .collect();
        let mut slots = vec![FREE; size];
        // Each endpoint in turn takes the first free slot of its own permutation.
        for index in (0..walks.len()).cycle().take(size) {
            let mut slot = walks[index].step();
            while slots[slot] != FREE {
                slot = walks[index].step();
            }
            slots[slot] = index as u16;
        }
        Self {
            slots: slots.into(),
        }
    }

    /// Indices of endpoints in the order this client should try them, with repetitions: the
    /// owner of the client's slot, then the owners of the slots behind it. Every endpoint that
    /// owns a slot comes up, at the latest after one turn around the table.
    pub(super) fn candidates(&self, client: IpAddr) -> impl Iterator<Item = usize> {
        let (hash, _) = hash(client, &NO_PORT);
        let (before, after) = self
            .slots
            .split_at((hash % self.slots.len() as u64) as usize);
        after.iter().chain(before).map(|&index| usize::from(index))
    }
}

/// An endpoint's permutation of the slots: it begins at an offset and always skips the same
/// number of slots.
struct Walk {
    slot: usize,
    skip: usize,
    size: usize,
}

impl Walk {
    fn new(addr: SocketAddr, size: usize) -> Self {
        let (offset, skip) = hash(addr.ip(), &addr.port().to_be_bytes());
        Self {
            slot: (offset % size as u64) as usize,
            skip: (skip % (size as u64 - 1)) as usize + 1,
            size,
        }
    }

    /// The next slot. A walk has no end, and meets every slot before it meets one again.
    fn step(&mut self) -> usize {
        let slot = self.slot;
        self.slot = (slot + self.skip) % self.size;
        slot
    }
}

/// SipHash-2-4 of the address (IPv4 as v4-mapped) and what follows it, in network order, with keys
/// that never change: routers on other nodes, after a restart and of other versions must agree.
/// Clients that know the keys could choose addresses that all meet one endpoint; whoever has so
/// many addresses can do that without knowing them.
pub(super) fn hash(ip: IpAddr, tail: &[u8]) -> (u64, u64) {
    let ip = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; 16 + LONGEST_TAIL];
    let length = 16 + tail.len().min(LONGEST_TAIL);
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..length].copy_from_slice(&tail[..length - 16]);
    // At once: a hasher that is fed in parts takes half as long again.
    let hash = SipHasher24::new_with_keys(KEYS.0, KEYS.1).hash(&bytes[..length]);
    (hash.h1, hash.h2)
}

/// Primes below 2^12 and 2^16: 8 and 128 KiB of slots.
const SMALL: usize = 4093;
const LARGE: usize = 65_521;

/// No endpoint has this index: there are at most [`LARGE`].
const FREE: u16 = u16::MAX;

/// "sni-router Maglev" in ASCII. Changing it moves every client.
const KEYS: (u64, u64) = (0x736e_692d_726f_7574, 0x6572_206d_6167_6c65);

/// A port, or the name of a cluster, which is a DNS label.
const LONGEST_TAIL: usize = 63;

/// The port in a client's hash: its ports differ from connection to connection.
const NO_PORT: [u8; 2] = [0; 2];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_prime_and_fit_their_index() {
        for size in [SMALL, LARGE] {
            assert!(
                (2..size)
                    .take_while(|d| d * d <= size)
                    .all(|d| size % d != 0)
            );
            assert!(size <= usize::from(FREE));
        }
    }

    #[test]
    fn shares_are_even_when_the_table_is_full() {
        for count in [2, 3, 7, FEW, FEW + 1, 300, 655] {
            let shares = shares(&table(&addrs(count)), count);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            // Filling in turns gives every endpoint as many slots, or one less.
            assert!(
                most - least <= 1,
                "{count} endpoints: {least}..={most} slots"
            );
        }
    }

    #[test]
    fn clients_are_spread_evenly_when_hashed() {
        let table = table(&addrs(10));
        let mut clients = [0u32; 10];
        for number in 0..100_000u32 {
            let client = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            clients[table.candidates(client).next().unwrap()] += 1;
        }
        assert!(
            clients.iter().all(|&n| (9_500..10_500).contains(&n)),
            "{clients:?}"
        );
    }

    #[test]
    fn few_slots_move_when_an_endpoint_leaves() {
        for count in [5, 20, FEW, 200] {
            let all = addrs(count);
            let gone = count / 2;
            let mut rest = all.clone();
            rest.remove(gone);
            // Compare within one table size: it only changes past FEW.
            let (before, after) = (table(&all), table(&rest));
            let moved = before
                .slots
                .iter()
                .zip(&after.slots)
                .filter(|&(&old, &new)| {
                    usize::from(old) != gone && all[usize::from(old)] != rest[usize::from(new)]
                })
                .count();
            // Maglev trades a few needless moves for even shares (3.4); a plain modulo would
            // move all but 1 in `count`.
            let percent = moved as f64 * 100.0 / before.slots.len() as f64;
            assert!(
                percent < 4.0,
                "{count} endpoints: {percent:.1} % moved without need"
            );
        }
    }

    #[test]
    fn every_endpoint_is_a_candidate_when_others_fail() {
        let table = table(&addrs(12));
        let seen: std::collections::BTreeSet<_> =
            table.candidates("2001:db8::1".parse().unwrap()).collect();
        assert_eq!(seen.len(), 12);
    }

    #[test]
    fn table_is_the_same_when_computed_elsewhere() {
        // From a second implementation, written from the paper. Another answer would move the
        // clients of every running router.
        let table = table(&addrs(5));
        let picked: Vec<_> = (1..=12)
            .map(|last| {
                table
                    .candidates(IpAddr::from([198, 51, 100, last]))
                    .next()
                    .unwrap()
            })
            .collect();
        assert_eq!(picked, [0, 1, 0, 0, 4, 3, 0, 1, 2, 4, 2, 3]);
    }

    fn table(addrs: &[SocketAddr]) -> Maglev {
        Maglev::new(addrs.iter().copied())
    }

    fn addrs(count: usize) -> Vec<SocketAddr> {
        (0..count)
            .map(|i| SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 8443)))
            .collect()
    }

    fn shares(table: &Maglev, count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        for &index in &table.slots {
            shares[usize::from(index)] += 1;
        }
        shares
    }
}
