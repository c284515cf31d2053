//! Socket options that socket2 and rustix do not have.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void, socklen_t};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The cookie by which kernel programs know this socket (`SO_COOKIE`): unique until reboot.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    get(socket, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// Makes the kernel call the socket's data-ready callback now if unread bytes are queued.
///
/// Setting `SO_RCVLOWAT` ends in `tcp_set_rcvlowat`, which calls `tcp_data_ready` under the
/// socket's lock (net/ipv4/tcp.c). A sock map replaces that callback by the one that runs the
/// verdict program, so this is how bytes that arrived before the socket entered the map are
/// judged: in order, and with no new byte able to overtake them.
pub fn data_ready(socket: impl AsFd) -> io::Result<()> {
    let one: c_int = 1;
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &one)
}

/// Lets a socket bind to an address that the host does not have (yet), IPv4 and IPv6.
pub fn freebind(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    let one: c_int = 1;
    if ipv6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, &one)
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_FREEBIND, &one)
    }
}

/// What the kernel knows of a TCP connection (`TCP_INFO`), as far as the router needs it.
pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    get(socket, libc::IPPROTO_TCP, libc::TCP_INFO)
}

/// `struct tcp_info` of include/uapi/linux/tcp.h up to `bytes_retrans`, which Linux 4.19 added.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub struct TcpInfo {
    _state_to_flags: [u8; 8],
    _rto_to_total_retrans: [u32; 24],
    _pacing_rate: u64,
    _max_pacing_rate: u64,
    _bytes_acked: u64,
    bytes_received: u64,
    _segs: [u32; 2],
    notsent_bytes: u32,
    _min_rtt: u32,
    _data_segs: [u32; 2],
    _delivery_rate: u64,
    _busy_to_sndbuf_limited: [u64; 3],
    _delivered: [u32; 2],
    bytes_sent: u64,
    bytes_retrans: u64,
}

impl TcpInfo {
    /// Bytes of payload ever put into the send queue, by whomever: system calls and kernel alike.
    pub fn bytes_written(&self) -> u64 {
        (self.bytes_sent + u64::from(self.notsent_bytes)).saturating_sub(self.bytes_retrans)
    }

    /// Bytes received in order; a FIN counts as one.
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received
    }
}

const _: () = assert!(size_of::<TcpInfo>() == 216);

fn get<T: FromBytes>(socket: impl AsFd, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as socklen_t;
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast::<c_void>(),
            &raw mut len,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < size_of::<T>() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: zeroed above, and `T: FromBytes` takes any bytes.
    Ok(unsafe { value.assume_init() })
}

fn set<T: IntoBytes + Immutable>(
    socket: impl AsFd,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    let bytes = value.as_bytes();
    // SAFETY: the pointer and the length describe `bytes`, which outlives the call.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            bytes.as_ptr().cast::<c_void>(),
            bytes.len() as socklen_t,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn bytes_written_counts_payload_when_queued_or_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[1; 1000]).unwrap();
        server.set_nonblocking(true).unwrap();
        let mut queued = 0;
        while let Ok(n) = server.write(&[2; 65536]) {
            queued += n as u64;
        }
        assert_eq!(tcp_info(&client).unwrap().bytes_written(), 1000);
        assert_eq!(tcp_info(&server).unwrap().bytes_written(), queued);
        assert_ne!(cookie(&client).unwrap(), cookie(&server).unwrap());
    }
}
