//! Connections that the kernel carries without a socket of this process: who knows what of them.
//!
//! A datapath has their addresses, and hears of their ends. All else is kept by a [`Keeper`], which gives
//! the datapath a [`Seat`] for each. There may be a million: neither side has an object of the other's.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::{End, Kind, Moved};

/// A connection that the kernel carries without a socket of this process.
pub trait Alone: Send {
    /// The number by which [`Aside`] knows it.
    fn number(&self) -> u32;

    /// Leaves it. The [`Keeper`] gets the seat back when it has ended.
    fn leave(self: Box<Self>, seat: Seat);
}

/// The connections that the kernel carries alone.
pub trait Aside: Send + Sync {
    /// Between whom one of them is; `None` if it is over.
    fn ends(&self, number: u32) -> Option<Ends>;

    /// What one of them has moved; `None` if it is over.
    fn moved(&self, number: u32) -> Option<Moved>;

    /// Ends one of them, if it is not over: both sides get a RST.
    fn end(&self, number: u32, end: End);
}

/// Keeps what must be known of connections that the kernel carries alone. Is told of each once.
pub trait Keeper: Send + Sync {
    /// It is over, and this many bytes were carried up and down, those before the hand-over
    /// included.
    fn ended(&self, seat: Seat, ends: Ends, end: End, up: u64, down: u64);

    /// It outlives the process, or is somebody else's to watch.
    fn left(&self, seat: Seat, ends: Ends);
}

/// What a [`Keeper`] knows a connection by. Must come back to it.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Seat(NonZeroU32);

impl Seat {
    /// Of a number that the keeper chooses, but for the greatest one.
    pub const fn new(number: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(number))
    }

    /// That number.
    pub const fn number(&self) -> u32 {
        self.0.get() - 1
    }
}

/// Between whom a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub client: SocketAddr,
    /// The address it has connected to.
    pub vip: SocketAddr,
    /// The endpoint.
    pub endpoint: SocketAddr,
}

/// Keeps something of connections that the kernel has carried on without any process.
pub trait Adopt: Send + Sync {
    /// The seat of this one from now on.
    fn adopt(&self, orphan: Orphan) -> Seat;
}

/// A connection that an earlier process has left to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Orphan {
    /// The number by which [`Aside`] knows it.
    pub number: u32,
    /// Between whom it is.
    pub ends: Ends,
    /// How long ago it was handed to the kernel, about.
    pub age: Duration,
    /// What carries it.
    pub kind: Kind,
}
