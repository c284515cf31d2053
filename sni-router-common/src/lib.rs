//! The contract across the kernel boundary: what the kernel programs and the daemon agree on.
//!
//! Rules: every map key and value is `#[repr(C)]` and made of unsigned integers and byte arrays,
//! padding is explicit and zero (`IntoBytes` refuses a type with hidden padding at compile time),
//! sizes are asserted. Addresses are 16 bytes in network order, IPv4 as v4-mapped. The kernel
//! knows numbers, the daemon knows their labels.
#![no_std]
#![warn(missing_docs)]

pub mod counter;
pub mod flow;
pub mod handshake;
pub mod icmp;
pub mod names;
pub mod options;
pub mod rewrite;
pub mod rule;
pub mod running;
pub mod stream;
pub mod taken;

#[cfg(feature = "user")]
mod pod;
