//! The kernel's table of TCP sockets: `/proc/net/tcp` and `/proc/net/tcp6`.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A line of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own address. Never v4-mapped.
    pub local: SocketAddr,
    /// Whom it is connected to, the same way; port 0 where nobody.
    pub peer: SocketAddr,
    /// As include/net/tcp_states.h numbers it.
    pub state: u8,
    /// By which descriptors name it; 0 where none has it any more.
    pub inode: u64,
}

impl TcpSocket {
    /// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`
    /// (Documentation/networking/proc_net_tcp.rst). `None` of the first line, and of what is no line.
    pub fn parse(line: &str) -> Option<Self> {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let local = address(columns.next()?)?;
        let peer = address(columns.next()?)?;
        let state = u8::from_str_radix(columns.next()?, 16).ok()?;
        let inode = columns.nth(5).and_then(|inode| inode.parse().ok());
        Some(Self {
            local,
            peer,
            state,
            inode: inode.unwrap_or(0),
        })
    }
}

/// Calls `each` with every TCP socket of the calling thread's network namespace. Those that come and go meanwhile
/// may be left out.
pub fn for_each(mut each: impl FnMut(&TcpSocket)) -> io::Result<()> {
    for path in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let file = match File::open(path) {
            // A host without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        let mut lines = BufReader::new(file);
        let mut line = String::new();
        // Line by line: a host may have a hundred thousand of them.
        while lines.read_line(&mut line)? != 0 {
            TcpSocket::parse(&line).iter().for_each(&mut each);
            line.clear();
        }
    }
    Ok(())
}

fn address(text: &str) -> Option<SocketAddr> {
    let (addr, port) = text.split_once(':')?;
    Some(SocketAddr::new(
        ip(addr)?,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

/// Each word of four bytes is printed as the number that they make in memory.
fn ip(text: &str) -> Option<IpAddr> {
    let word = |index: usize| u32::from_str_radix(text.get(index * 8..index * 8 + 8)?, 16).ok();
    let addr = match text.len() {
        8 => Ipv4Addr::from(word(0)?.to_ne_bytes()).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].map(u32::to_ne_bytes);
            let mut bytes = [0; 16];
            bytes.copy_from_slice(words.as_flattened());
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(IpAddr::to_canonical(&addr))
}

/// TCP_LISTEN.
pub const LISTEN: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_gives_addresses_state_and_inode() {
        let line = "   1: 04030201:01BB 00000000:0000 0A 00000000:00000014 01:00000014 00000000     0        0 4711 1 0";
        let socket = TcpSocket::parse(line).unwrap();
        assert_eq!(socket.local, "1.2.3.4:443".parse().unwrap());
        assert_eq!(socket.peer, "0.0.0.0:0".parse().unwrap());
        assert_eq!((socket.state, socket.inode), (LISTEN, 4711));
        let v6 = "   0: 00000000000000000000000001000000:1F90 00000000000000000000000002000000:0050 0B 0:0 0:0 0 0 0";
        let socket = TcpSocket::parse(v6).unwrap();
        assert_eq!(socket.local, "[::1]:8080".parse().unwrap());
        assert_eq!(socket.peer, "[::2]:80".parse().unwrap());
        assert_eq!((socket.state, socket.inode), (11, 0));
        let mapped = "   0: 0000000000000000FFFF000004030201:01BB 0000000000000000FFFF000004030202:01BC 0A 0:0 0:0 0 0 0 5";
        let socket = TcpSocket::parse(mapped).unwrap();
        assert_eq!(socket.local, "1.2.3.4:443".parse().unwrap());
        assert_eq!(socket.peer, "2.2.3.4:444".parse().unwrap());
    }

    #[test]
    fn what_is_no_line_gives_nothing() {
        for text in [
            "",
            "1:",
            "  sl  local_address rem_address   st tx_queue",
            "1: zz:1 a:1 04",
            "1: 0403:1 a:1 04",
            "1: 04030201:1FFFF a:1 04",
            "1: ééééé:1 a:1 04",
            "1: 04030201:1 a:1 04",
            "1: 04030201:1 04030201 04",
        ] {
            assert_eq!(TcpSocket::parse(text), None, "{text:?}");
        }
    }
}
