//! Local addresses of connections that nobody owns any more, but that the kernel is still ending.
//!
//! A connection is over for the router when the last byte is in a send queue. The kernel delivers
//! it after the socket was closed, and even after the process has ended, as long as the address
//! stays local.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{fs, num::ParseIntError};

/// Local addresses of the namespace's TCP sockets in FIN_WAIT1, CLOSING and LAST_ACK.
pub fn closing() -> io::Result<BTreeSet<IpAddr>> {
    let mut addresses = BTreeSet::new();
    for path in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match fs::read_to_string(path) {
            Ok(table) => addresses.extend(table.lines().skip(1).filter_map(line)),
            // A host without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(addresses)
}

/// `sl local_address rem_address st …` (Documentation/networking/proc_net_tcp.rst).
fn line(text: &str) -> Option<IpAddr> {
    let mut columns = text.split_ascii_whitespace().skip(1);
    let (local, _) = columns.next()?.split_once(':')?;
    let state = u8::from_str_radix(columns.nth(1)?, 16).ok()?;
    if !CLOSING.contains(&state) {
        return None;
    }
    let words: Result<Vec<u32>, ParseIntError> = (0..local.len() / 8)
        .map(|word| u32::from_str_radix(local.get(word * 8..word * 8 + 8).unwrap_or(""), 16))
        .collect();
    // Each word was printed as the number that its bytes make in memory.
    let bytes: Vec<u8> = words.ok()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let addr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(IpAddr::to_canonical(&addr))
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
        let v6 = "   0: 00000000000000000000000001000000:1F90 0000:0 0B 0:0 0:0 0 0 0";
        assert_eq!(line(v6), Some(Ipv6Addr::LOCALHOST.into()));
        for text in ["", "1:", "1: zz:1 a:1 04", "1: 0403:1 a:1 04"] {
            assert_eq!(line(text), None, "{text:?}");
        }
    }
}
