//! The system calls no library wraps: the only `unsafe` of this crate.
//!
//! Everything here is a thin, safe function over one system call or one mapping.
#![allow(unsafe_code, reason = "raw system calls live here and nowhere else")]

pub mod allocator;
pub mod batch;
pub mod capabilities;
pub mod ethtool;
pub mod interface;
pub mod query;
pub mod raw;
pub mod readable;
pub mod repair;
pub mod shared;
pub mod sockopt;
