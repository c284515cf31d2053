//! What the loader tells the programs of the kernel that runs, so that they need not ask for it with every packet.
//! All of it is zero where it is not known; the programs then ask.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::flow::tick;

/// How the number of timer interrupts that the kernel has counted (jiffies) becomes its monotonic clock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Clock {
    /// Nanoseconds from one to the next; 0 if they are not known.
    pub period: u64,
    /// Nanoseconds to add, modulo 2⁶⁴: the count does not start at 0.
    pub offset: u64,
}

impl Clock {
    /// When so many were counted, in [ticks](tick).
    #[inline(always)] // part of a kernel program
    pub const fn tick(&self, jiffies: u64) -> u32 {
        tick(jiffies.wrapping_mul(self.period).wrapping_add(self.offset))
    }
}

/// What the program that is run once, before all others, makes of a packet's first bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Told {
    /// Timer interrupts that the kernel has counted (jiffies).
    pub jiffies: u64,
    /// Its monotonic clock as it was at the last of them, in ns.
    pub nanoseconds: u64,
}

impl Told {
    /// How the one becomes the other. `period` is in ns.
    pub const fn clock(&self, period: u64) -> Clock {
        let counted = self.jiffies.wrapping_mul(period);
        Clock {
            period,
            offset: self.nanoseconds.wrapping_sub(counted),
        }
    }
}

/// What the kernel knows of a packet's checksum (`ip_summed` of `struct sk_buff`): bits of the byte that
/// [`inlined::SUMMED`] is for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Summed {
    /// Those bits; 0 if they are not known.
    pub mask: u32,
    /// How they are where the checksum is that of the addresses only, and whoever sends or receives the packet adds
    /// the rest (CHECKSUM_PARTIAL).
    pub partial: u32,
    /// How they are where the network card has summed up all bytes (CHECKSUM_COMPLETE).
    pub complete: u32,
}

/// Calls that the loader puts one instruction in the place of. They have numbers of helpers that no kernel has; where
/// it cannot, the constants above are zero, and the kernel takes out what is never run.
pub mod inlined {
    /// From `struct __sk_buff` to `struct sk_buff`.
    pub const SKB: i32 = 0x7f01;
    /// From `struct sk_buff` to the byte that has [`Summed`](super::Summed).
    pub const SUMMED: i32 = 0x7f02;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_become_the_clock_that_everybody_reads() {
        // As Linux counts: it begins so that 32 bits overflow after five minutes.
        let told = Told {
            jiffies: 4_294_893_671,
            nanoseconds: 7_500_000_000,
        };
        let clock = told.clock(4_000_000);
        assert_eq!(clock.tick(told.jiffies), tick(7_500_000_000));
        assert_eq!(clock.tick(told.jiffies + 1_000), tick(11_500_000_000));
        assert_eq!(
            clock.tick(told.jiffies + (1 << 33)),
            tick(7_500_000_000 + (4_000_000 << 33))
        );
    }
}
