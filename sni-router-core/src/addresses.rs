//! A set of addresses, as lists of networks describe it.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

/// Addresses in any of some networks. Looking one up takes the logarithm of their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    /// First and last addresses; rising, and apart from each other.
    ranges: Vec<(Position, Position)>,
}

impl AddressSet {
    /// Reads a text with a network or an address on each line, as `192.0.2.0/24` or `2001:db8::1`.
    /// Empty lines and what follows a `#` mean nothing.
    ///
    /// The set is that of the lines that can be read; the others come back as errors, in their order.
    pub fn read(text: &str) -> (Self, Vec<AddressError>) {
        let (mut networks, mut errors) = (Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            let line = line
                .split_once('#')
                .map_or(line, |(before, _)| before)
                .trim();
            if line.is_empty() {
                continue;
            }
            match network(line) {
                Some(network) => networks.push(network),
                None => errors.push(AddressError {
                    line: index + 1,
                    text: line.chars().take(SHOWN).collect(),
                }),
            }
        }
        (networks.into_iter().collect(), errors)
    }

    /// Whether `addr` is one of them. A v4-mapped IPv6 address is the IPv4 address.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let addr = position(addr);
        let index = self.ranges.partition_point(|&(_, last)| last < addr);
        self.ranges
            .get(index)
            .is_some_and(|&(first, _)| first <= addr)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromIterator<IpNet> for AddressSet {
    fn from_iter<T: IntoIterator<Item = IpNet>>(networks: T) -> Self {
        let range = |net: IpNet| (position(net.network()), position(net.broadcast()));
        let mut ranges: Vec<_> = networks.into_iter().map(range).collect();
        ranges.sort_unstable();
        let mut apart: Vec<(Position, Position)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match apart.last_mut() {
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => apart.push((first, last)),
            }
        }
        Self { ranges: apart }
    }
}

/// A line that is no network.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {text:?} is no address and no network (write 192.0.2.0/24 or 2001:db8::1)")]
pub struct AddressError {
    /// Its number, from 1.
    pub line: usize,
    /// What stands there, cut short.
    pub text: String,
}

fn network(text: &str) -> Option<IpNet> {
    if text.contains('/') {
        return IpNet::from_str(text).ok();
    }
    Some(match IpAddr::from_str(text).ok()? {
        IpAddr::V4(addr) => Ipv4Net::from(addr).into(),
        IpAddr::V6(addr) => Ipv6Net::from(addr).into(),
    })
}

/// Whether it is IPv6, and the address as a number.
type Position = (bool, u128);

fn position(addr: IpAddr) -> Position {
    match addr.to_canonical() {
        IpAddr::V4(addr) => (false, addr.to_bits().into()),
        IpAddr::V6(addr) => (true, addr.to_bits()),
    }
}

/// Characters of a line that a message repeats.
const SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn set_has_what_its_lines_say() {
        let text =
            "10.0.0.0/8 # inside\n\n# nothing\n192.0.2.7\n2001:db8::/32\n::ffff:198.51.100.0/120";
        let (set, errors) = AddressSet::read(text);
        assert_eq!(errors, []);
        for (addr, is_in) in [
            ("10.255.0.1", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.0.0.1", true),
            ("198.51.100.9", true),
            ("2001:db8:ffff::", true),
            ("2001:db9::", false),
        ] {
            assert_eq!(set.contains(addr.parse().unwrap()), is_in, "{addr}");
        }
    }

    #[test]
    fn line_that_means_nothing_is_told_and_harms_no_other() {
        let (set, errors) = AddressSet::read("10.0.0.0/33\n192.0.2.1\nexample.com\n");
        assert!(set.contains("192.0.2.1".parse().unwrap()));
        let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [1, 3]);
        assert!(
            errors[1].to_string().contains("\"example.com\""),
            "{}",
            errors[1]
        );
    }

    #[test]
    fn everything_is_in_the_whole_and_nothing_in_none() {
        let (all, _) = AddressSet::read("0.0.0.0/0\n::/0");
        let (v6, _) = AddressSet::read("::/0");
        for addr in ["0.0.0.0", "255.255.255.255", "::", "ffff::"] {
            let addr: IpAddr = addr.parse().unwrap();
            assert!(all.contains(addr));
            assert_eq!(v6.contains(addr), addr.is_ipv6(), "{addr}");
            assert!(!AddressSet::default().contains(addr));
        }
    }

    proptest! {
        #[test]
        fn look_up_agrees_with_asking_each_network(
            nets in prop::collection::vec((any::<u32>(), 0u8..=32), 0..20),
            near in any::<u32>(),
            pick in any::<prop::sample::Index>(),
        ) {
            let nets: Vec<IpNet> = nets
                .iter()
                .map(|&(addr, len)| Ipv4Net::new_assert(addr.into(), len).into())
                .collect();
            let set: AddressSet = nets.iter().copied().collect();
            let mut addrs = vec![IpAddr::V4(near.into())];
            if !nets.is_empty() {
                let net = pick.get(&nets);
                addrs.extend([net.network(), net.broadcast()]);
            }
            for addr in addrs {
                prop_assert_eq!(set.contains(addr), nets.iter().any(|net| net.contains(&addr)));
            }
        }
    }
}
