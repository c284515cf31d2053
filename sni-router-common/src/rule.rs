//! Steering rules: which local (address, port) belongs to the router.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A local address and port. Shape: 16 address bytes (v4-mapped for IPv4, all zero for every
/// local address), 2 port bytes in network order, 2 zero bytes.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable,
)]
pub struct RuleKey {
    addr: [u8; 16],
    port: [u8; 2],
    _pad: [u8; 2],
}

impl RuleKey {
    /// The rule of one address; IPv4 addresses are given v4-mapped.
    pub const fn new(addr: [u8; 16], port: u16) -> Self {
        Self {
            addr,
            port: port.to_be_bytes(),
            _pad: [0; 2],
        }
    }

    /// The rule of every local address.
    pub const fn any(port: u16) -> Self {
        Self::new([0; 16], port)
    }

    /// The address, v4-mapped for IPv4.
    pub const fn addr(&self) -> [u8; 16] {
        self.addr
    }

    /// The port in host order.
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

/// What a rule says. That it exists is all the kernel needs; the listener is for people who look
/// at the map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Rule {
    /// Position of the listener in the table that made the rule.
    pub listener: u32,
}

/// `::ffff:a.b.c.d` for IPv4 address bytes in network order.
pub const fn v4_mapped(v4: [u8; 4]) -> [u8; 16] {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// The bytes of four words in network order, as kernel contexts hold IPv6 addresses.
pub fn network_words(words: [u32; 4]) -> [u8; 16] {
    zerocopy::transmute!(words)
}

const _: () = assert!(size_of::<RuleKey>() == 20);
const _: () = assert!(size_of::<Rule>() == 4);

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;

    #[test]
    fn key_bytes_are_in_network_order_when_written() {
        let key = RuleKey::new(v4_mapped([1, 2, 3, 4]), 0x01bb);
        assert_eq!(
            key.as_bytes(),
            [
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4, 0x01, 0xbb, 0, 0
            ]
        );
        assert_eq!(key.port(), 443);
    }
}
