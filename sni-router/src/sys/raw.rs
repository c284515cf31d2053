//! Sending packets whose headers are made here (needs CAP_NET_RAW).

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Raw sockets, by which packets leave as the kernel's own do: by routes, firewalls and neighbours.
#[derive(Debug)]
pub struct Raw {
    v4: Socket,
    /// `None` on a host without IPv6.
    v6: Option<Socket>,
}

impl Raw {
    /// Opens them. They receive nothing.
    pub fn open() -> io::Result<Self> {
        let open = |domain| {
            let kind = Type::RAW.nonblocking().cloexec();
            Socket::new_raw(domain, kind, Some(Protocol::from(libc::IPPROTO_RAW)))
        };
        let v4 = open(Domain::IPV4)?;
        let v6 = open(Domain::IPV6).and_then(|v6| {
            v6.set_header_included_v6(true)?;
            Ok(v6)
        });
        Ok(Self { v4, v6: v6.ok() })
    }

    /// Sends a packet with its IP header, in which the kernel fills in the header's checksum.
    pub fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let socket = match to {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        // Of IPv6, a port other than zero would have to be the protocol's number.
        socket.send_to(packet, &SocketAddr::new(to, 0).into())?;
        Ok(())
    }
}
