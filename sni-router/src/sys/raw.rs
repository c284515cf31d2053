//! Sending packets whose headers are made here (needs CAP_NET_RAW).

use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use libc::c_int;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::sockopt::{freebind, set};

/// Raw sockets, by which packets leave as the kernel's own do: by routes, firewalls and neighbours.
#[derive(Debug)]
pub struct Raw {
    v4: Socket,
    /// `None` on a host without IPv6; this and the next.
    v6: Option<Socket>,
    vip6: Option<Socket>,
}

impl Raw {
    /// Opens them. They receive nothing.
    pub fn open() -> io::Result<Self> {
        let open = |domain| {
            let kind = Type::RAW.nonblocking().cloexec();
            let socket = Socket::new_raw(domain, kind, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            // It is all connections', and what has no room is lost. Where that is refused, more is lost.
            let _ = set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &ROOM);
            io::Result::Ok(socket)
        };
        let v4 = open(Domain::IPV4)?;
        let open_v6 = || {
            let v6 = open(Domain::IPV6)?;
            v6.set_header_included_v6(true)?;
            io::Result::Ok(v6)
        };
        let vip6 = || {
            let v6 = open_v6()?;
            freebind(&v6, true)?;
            io::Result::Ok(v6)
        };
        Ok(Self {
            v4,
            v6: open_v6().ok(),
            vip6: vip6().ok(),
        })
    }

    /// Sends a packet with its IP header, in which the kernel fills in the header's checksum. `from` and `to` are
    /// those of the header, by which the kernel finds the route.
    pub fn send(&self, packet: &[u8], from: IpAddr, to: IpAddr) -> io::Result<()> {
        self.send_by(self.v6.as_ref(), packet, from, to)
    }

    /// The same, from an address that may be a local route alone, as a VIP. Of others IPv6 takes none that the host
    /// does not have (ip6_datagram_send_ctl, net/ipv6/datagram.c), which then is known at once.
    pub fn send_from_vip(&self, packet: &[u8], vip: IpAddr, to: IpAddr) -> io::Result<()> {
        self.send_by(self.vip6.as_ref(), packet, vip, to)
    }

    fn send_by(
        &self,
        v6: Option<&Socket>,
        packet: &[u8],
        from: IpAddr,
        to: IpAddr,
    ) -> io::Result<()> {
        let socket = match to {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => v6.ok_or(io::ErrorKind::Unsupported)?,
        };
        // Of IPv6, a port other than zero would have to be the protocol's number.
        let to = SockAddr::from(SocketAddr::new(to, 0));
        let mut control = Control([0; CONTROL]);
        let mut data = libc::iovec {
            iov_base: packet.as_ptr().cast_mut().cast(),
            iov_len: packet.len(),
        };
        // SAFETY: all zero is an empty message.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = to.as_ptr().cast_mut().cast();
        message.msg_namelen = to.len();
        message.msg_iov = &raw mut data;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = CONTROL as _;
        message.msg_controllen = put_source(&message, from) as _;
        // SAFETY: what the message points to outlives the call, which only reads it.
        match unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Bytes that may be on their way to the network card, of each family.
const ROOM: c_int = 8 << 20;

/// Room for control messages, aligned as they must be.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Has the kernel take this address for the source when it looks for the route: the header's is of no interest
/// to it (`raw_sendmsg()`, net/ipv4/raw.c). Answers with how many bytes of the message's room that takes.
fn put_source(message: &libc::msghdr, from: IpAddr) -> u32 {
    match from {
        IpAddr::V4(from) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(from.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            put(message, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(from) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: from.octets(),
                },
                ipi6_ifindex: 0,
            };
            put(message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

fn put<T>(message: &libc::msghdr, level: c_int, kind: c_int, value: T) -> u32 {
    let bytes = size_of::<T>() as u32;
    // SAFETY: the message has room for one of the size that is asserted below; here and below.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: as above.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: as above.
    let len = unsafe { libc::CMSG_LEN(bytes) };
    let first = libc::cmsghdr {
        cmsg_len: len as _,
        cmsg_level: level,
        cmsg_type: kind,
    };
    // SAFETY: as above.
    unsafe { header.write(first) };
    // SAFETY: as above.
    unsafe { data.cast::<T>().write_unaligned(value) };
    // SAFETY: a computation.
    unsafe { libc::CMSG_SPACE(bytes) }
}

/// Of the largest control message.
const CONTROL: usize = 40;
const _: () = assert!(size_of::<libc::cmsghdr>() + size_of::<libc::in6_pktinfo>() <= CONTROL);
