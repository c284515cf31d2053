//! Local addresses of connections that nobody owns any more, but that the kernel is still ending.
//!
//! A connection is over for the router when the last byte is in a send queue. The kernel delivers
//! it after the socket was closed, and even after the process has ended, as long as the address
//! stays local.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use crate::tcp_table::{self, TcpSocket};

/// Local addresses of the namespace's TCP sockets in FIN_WAIT1, CLOSING and LAST_ACK.
pub fn closing() -> io::Result<BTreeSet<IpAddr>> {
    let mut addresses = BTreeSet::new();
    tcp_table::for_each(|socket| addresses.extend(address(socket)))?;
    Ok(addresses)
}

fn address(socket: &TcpSocket) -> Option<IpAddr> {
    CLOSING.contains(&socket.state).then(|| socket.local.ip())
}

/// TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_CLOSING (include/net/tcp_states.h).
const CLOSING: [u8; 3] = [4, 9, 11];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_socket_gives_its_address() {
        let closing = "   1: 04030201:01BB 0A0200C0:C350 04 00000000:00000000 01:00000014 0 0 0";
        let established = closing.replace(" 04 ", " 01 ");
        let of = |line: &str| address(&TcpSocket::parse(line).expect("a line"));
        assert_eq!(of(closing), Some([1, 2, 3, 4].into()));
        assert_eq!(of(&established), None);
    }
}
