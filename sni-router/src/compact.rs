//! Addresses and numbers as they are kept for connections of which there may be a million.

use std::net::{Ipv6Addr, SocketAddr};

/// An address and a port, in 18 bytes instead of the 32 of a [`SocketAddr`]. IPv4 is kept as
/// v4-mapped, and comes back as IPv4; scope and flow label of IPv6 are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactAddr {
    ip: [u8; 16],
    port: u16,
}

impl From<SocketAddr> for CompactAddr {
    fn from(addr: SocketAddr) -> Self {
        let ip = match addr {
            SocketAddr::V4(addr) => addr.ip().to_ipv6_mapped(),
            SocketAddr::V6(addr) => *addr.ip(),
        };
        Self {
            ip: ip.octets(),
            port: addr.port(),
        }
    }
}

impl From<CompactAddr> for SocketAddr {
    fn from(addr: CompactAddr) -> Self {
        Self::new(Ipv6Addr::from(addr.ip).to_canonical(), addr.port)
    }
}

/// A number below 2⁴⁸, which milliseconds are for 8,900 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct U48([u16; 3]);

impl U48 {
    /// The greatest one where the number is greater.
    pub const fn new(number: u64) -> Self {
        let most = (1 << 48) - 1;
        let number = if number < most { number } else { most };
        Self([number as u16, (number >> 16) as u16, (number >> 32) as u16])
    }

    /// The number.
    pub const fn get(self) -> u64 {
        let [low, middle, high] = self.0;
        low as u64 | (middle as u64) << 16 | (high as u64) << 32
    }
}

const _: () = assert!(size_of::<CompactAddr>() == 18);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for text in [
            "192.0.2.7:4711",
            "[2001:db8::1]:443",
            "[::]:0",
            "0.0.0.0:65535",
        ] {
            let addr: SocketAddr = text.parse().expect("an address");
            assert_eq!(SocketAddr::from(CompactAddr::from(addr)), addr);
        }
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:1".parse().expect("an address");
        let back = SocketAddr::from(CompactAddr::from(mapped));
        assert_eq!(back.to_string(), "192.0.2.7:1");
    }

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, 0xffff, 0x1_0000, 0x1234_5678_9abc, (1 << 48) - 1] {
            assert_eq!(U48::new(number).get(), number);
        }
        assert_eq!(U48::new(u64::MAX).get(), (1 << 48) - 1);
    }
}
