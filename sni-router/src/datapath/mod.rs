//! The implementations of [`Datapath`](crate::carry::Datapath). `bpf/` is the only place that
//! names aya.

pub mod bpf;
pub mod choose;
mod clock;
pub mod fill;
pub mod sockmap;
pub mod tc;
pub mod userspace;
