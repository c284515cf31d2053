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

/// The cookie of the socket's network namespace (`SO_NETNS_COOKIE`, Linux 5.14): unique until
/// reboot.
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    get(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE)
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

/// Bytes in the send queue, sent or not, that the peer has not acknowledged (`SIOCOUTQ`).
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    let mut bytes: c_int = 0;
    // SAFETY: SIOCOUTQ, which shares its number with TIOCOUTQ, writes one int.
    let rc = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if rc == 0 {
        Ok(u64::try_from(bytes).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Room in the send buffer, in bytes as the kernel counts them (`SO_MEMINFO`): what can be written
/// now without waiting for the peer.
pub fn send_room(socket: impl AsFd) -> io::Result<u64> {
    let memory: [u32; MEMINFO_VARS] = get(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    let [sndbuf, queued] = [memory[MEMINFO_SNDBUF], memory[MEMINFO_WMEM_QUEUED]];
    Ok(sndbuf.saturating_sub(queued).into())
}

/// include/uapi/asm-generic/socket.h
const SO_NETNS_COOKIE: c_int = 71;

/// include/uapi/linux/sock_diag.h
const MEMINFO_VARS: usize = 9;
const MEMINFO_SNDBUF: usize = 3;
const MEMINFO_WMEM_QUEUED: usize = 5;

/// What the kernel knows of a TCP connection (`TCP_INFO`), as far as the router needs it.
pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    get(socket, libc::IPPROTO_TCP, libc::TCP_INFO)
}

/// `struct tcp_info` of include/uapi/linux/tcp.h up to `bytes_received`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub struct TcpInfo {
    _state_to_flags: [u8; 8],
    _rto_to_total_retrans: [u32; 24],
    _pacing_rate: u64,
    _max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
}

impl TcpInfo {
    /// Bytes the peer has acknowledged. The SYN of a connection that we opened counts as one.
    pub fn bytes_acked(&self) -> u64 {
        self.bytes_acked
    }

    /// Bytes received in order; a FIN counts as one.
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received
    }
}

const _: () = assert!(size_of::<TcpInfo>() == 136);

pub(super) fn get<T: FromBytes>(socket: impl AsFd, level: c_int, name: c_int) -> io::Result<T> {
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

pub(super) fn set<T: IntoBytes + Immutable>(
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
    fn acknowledged_and_unacknowledged_are_what_was_written() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut opened = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        opened.write_all(&[1; 1000]).unwrap();
        accepted.set_nonblocking(true).unwrap();
        let mut queued = 0;
        while let Ok(n) = accepted.write(&[2; 65536]) {
            queued += n as u64;
        }
        // Acknowledgements may be under way: read first what only grows by them.
        let sum = |socket: &TcpStream| {
            let acked = tcp_info(socket).unwrap().bytes_acked();
            acked + unacknowledged(socket).unwrap()
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while (sum(&opened), sum(&accepted)) != (1000 + 1, queued) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(send_room(&opened).unwrap() > 0);
        assert_ne!(cookie(&opened).unwrap(), cookie(&accepted).unwrap());
    }
}
