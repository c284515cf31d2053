//! Local addresses of connections that nobody owns any more, but that the kernel is still ending.
//!
//! A connection is over for the router when the last byte is in a send queue. The kernel delivers
//! it after the socket was closed, and even after the process has ended, as long as the address
//! stays local.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;

use crate::tcp_table::TcpSocket;

/// Local addresses of the namespace's TCP sockets in FIN_WAIT1, CLOSING and LAST_ACK.
pub fn closing() -> io::Result<BTreeSet<IpAddr>> {
    let mut addresses = BTreeSet::new();
    for path in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match fs::read_to_string(path) {
            Ok(table) => addresses.extend(table.lines().filter_map(line)),
            // A host without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(addresses)
}

fn line(text: &str) -> Option<IpAddr> {
    let socket = TcpSocket::parse(text)?;
    CLOSING.contains(&socket.state).then(|| socket.local.ip())
}

/// TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_CLOSING (include/net/tcp_states.h).
const CLOSING: [u8; 3] = [4, 9, 11];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_gives_the_address_of_a_closing_socket() {
        let closing = "   1: 04030201:01BB 0A0200C0:C350 04 00000000:00000000 01:00000014 0 0 0";
        assert_eq!(line(closing), Some([1, 2, 3, 4].into()));
        let established = closing.replace(" 04 ", " 01 ");
        assert_eq!(line(&established), None);
    }
}
