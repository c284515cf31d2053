//! `aya::Pod` for the map types: this crate's only `unsafe`.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::flow::{Flow, FlowKey};
use crate::rule::{Rule, RuleKey};
use crate::running::{Clock, Summed};
use crate::stream::Stream;
use crate::taken::Request;

/// Implements `aya::Pod` for types that zerocopy has proven to be plain bytes without padding.
macro_rules! pod {
    ($($type:ty),* $(,)?) => {$(
        const _: fn() = plain_bytes::<$type>;
        // SAFETY: the line above demands `FromBytes + IntoBytes + Immutable`, so every bit
        // pattern is a value and every byte of a value is initialised.
        #[allow(unsafe_code, reason = "aya::Pod is an unsafe trait")]
        unsafe impl aya::Pod for $type {}
    )*};
}

pod!(RuleKey, Rule, Stream, FlowKey, Flow, Request, Clock, Summed);

fn plain_bytes<T: FromBytes + IntoBytes + Immutable + Copy + 'static>() {}
