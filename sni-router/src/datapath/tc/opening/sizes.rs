//! Sizes of segments and windows.

use std::net::IpAddr;

use sni_router_common::handshake::seen;
use sni_router_common::taken::Taken;

use super::super::segment::{IPV4_HEADER, IPV6_HEADER, TCP_HEADER};

/// Most bytes of a segment whose packet fits, options not counted.
pub(super) fn segment_of(mtu: u16, to: IpAddr) -> u32 {
    let ip = if to.is_ipv4() {
        IPV4_HEADER
    } else {
        IPV6_HEADER
    };
    u32::from(mtu).saturating_sub((ip + TCP_HEADER) as u32)
}

/// The largest segment that the sender of a SYN takes: what it says, if that makes sense (RFC 9293, section 3.7.1).
pub(super) fn most_of(flags: u32) -> u32 {
    match seen::segment(flags) {
        0 => DEFAULT_SEGMENT,
        segment => segment.max(LEAST_SEGMENT),
    }
}

/// The window of a client, not scaled, as a SYN has it.
pub(super) fn window_of(taken: &Taken) -> u16 {
    let window = u32::from(taken.window) << seen::scale(taken.flags);
    u16::try_from(window).unwrap_or(u16::MAX)
}

/// Of IPv4, and less than that of IPv6.
const DEFAULT_SEGMENT: u32 = 536;
/// As Linux takes it (`TCP_MIN_MSS`, include/net/tcp.h).
const LEAST_SEGMENT: u32 = 88;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_fit_the_path_and_are_what_the_peer_takes() {
        assert_eq!(segment_of(1500, IpAddr::from([192, 0, 2, 1])), 1460);
        assert_eq!(segment_of(1500, "2001:db8::1".parse().unwrap()), 1440);
        assert_eq!(segment_of(0, IpAddr::from([192, 0, 2, 1])), 0);
        assert_eq!(most_of(seen::segments(1400)), 1400);
        assert_eq!(most_of(seen::SACK), DEFAULT_SEGMENT);
        assert_eq!(most_of(seen::segments(1)), LEAST_SEGMENT);
    }
}
