//! Taking a TCP connection away from its socket, and making one that never shook hands
//! (`TCP_REPAIR`; needs CAP_NET_ADMIN).

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use libc::c_int;
use socket2::{Domain, Protocol, Socket, Type};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::sockopt::{freebind, get, set};

/// What the kernel knows of a connection that could be handed over.
pub fn state(socket: impl AsFd) -> io::Result<TcpState> {
    get(socket, libc::IPPROTO_TCP, libc::TCP_INFO)
}

/// `struct tcp_info` of include/uapi/linux/tcp.h up to `tcpi_snd_wnd` (Linux 5.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub struct TcpState {
    state: u8,
    _ca_state_to_backoff: [u8; 4],
    options: u8,
    scales: u8,
    _flags: u8,
    _rto_to_ato: [u32; 2],
    snd_mss: u32,
    _rcv_mss: u32,
    _unacked: u32,
    _sacked_to_last_ack_recv: [u32; 8],
    pmtu: u32,
    _rcv_ssthresh_to_snd_ssthresh: [u32; 4],
    _snd_cwnd: u32,
    _advmss: u32,
    _reordering_to_total_retrans: [u32; 4],
    _pacing_rate_to_bytes_acked: [u64; 3],
    bytes_received: u64,
    _segs_out_to_data_segs_out: [u32; 6],
    _delivery_rate_to_sndbuf_limited: [u64; 4],
    _delivered: [u32; 2],
    _bytes_sent_to_retrans: [u64; 2],
    _dsack_dups_to_rcv_ooopack: [u32; 3],
    snd_wnd: u32,
}

impl TcpState {
    /// Whether neither side has sent a FIN, and nobody a RST.
    pub fn is_established(&self) -> bool {
        // include/net/tcp_states.h
        self.state == 1
    }

    /// Whether the peer has sent anything since the handshake, be it only a FIN or a RST.
    pub fn has_received(&self) -> bool {
        self.bytes_received > 0 || !self.is_established()
    }

    /// Whether the two sides agreed on timestamps. `None` if they are in microseconds
    /// (`TCPI_OPT_USEC_TS`), which only some connections of a host are.
    pub fn timestamps(&self) -> Option<bool> {
        (self.options & 64 == 0).then_some(self.options & 1 != 0)
    }

    /// Whether the two sides agreed on SACK.
    pub fn has_sack(&self) -> bool {
        self.options & 2 != 0
    }

    /// Whether the two sides agreed on scaled windows.
    pub fn has_scales(&self) -> bool {
        self.options & 4 != 0
    }

    /// Whether the two sides agreed on ECN.
    pub fn has_ecn(&self) -> bool {
        self.options & 8 != 0
    }

    /// By how many bits the peer's window fields are to be shifted.
    pub fn peer_scale(&self) -> i8 {
        (self.scales & 15) as i8
    }

    /// By how many bits the peer shifts ours.
    pub fn own_scale(&self) -> i8 {
        (self.scales >> 4) as i8
    }

    /// How many bytes the peer is ready to receive behind what it has acknowledged.
    pub fn peer_window(&self) -> u32 {
        self.snd_wnd
    }

    /// Most bytes that a segment to the peer may carry, options not counted.
    pub fn segment(&self) -> u32 {
        self.snd_mss
    }

    /// Largest IP packet that the path to the peer is known to take.
    pub fn path_mtu(&self) -> u32 {
        self.pmtu
    }
}

const _: () = assert!(size_of::<TcpState>() == 232);

/// Has the connection's next socket never send a segment larger than this, nor ask for one, as far as the
/// kernel can be told. To be set before it connects.
pub fn limit_segment(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    let bytes = bytes.clamp(LEAST_SEGMENT, MOST_SEGMENT) as c_int;
    set(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG, &bytes)
}

/// Has the socket never announce that it is ready for more bytes than this, or, as the kernel has it,
/// than 1152 (tcp_set_window_clamp(), net/ipv4/tcp.c). Set before it connects, windows are scaled by no more than that
/// takes; it can be raised later, and the scale stays.
pub fn limit_window(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    // Zero would be no limit.
    let bytes = c_int::try_from(bytes.max(1)).unwrap_or(c_int::MAX);
    set(socket, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, &bytes)
}

/// Has the socket, when it connects, announce that it is ready for no more bytes than this (or than 1152, if it is less).
/// Unlike with [`limit_window`], later windows may grow as they do otherwise, and so do the units in which they are told.
///
/// With the usual `tcp_adv_win_scale`, the first window is half of the buffer (tcp_select_initial_window,
/// net/ipv4/tcp_output.c), whose size the kernel goes on to choose as bytes come in, since the lock that `SO_RCVBUF` puts
/// on it is taken away again. Before Linux 5.14 that cannot be done (`SO_BUF_LOCK`): fails, and has changed nothing.
pub fn limit_first_window(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    let buffer: c_int = get(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF)?;
    let bytes = c_int::try_from(whole_units(bytes)).unwrap_or(c_int::MAX);
    // Whatever the buffer, what is announced in a SYN is not scaled, and until bytes come it does not grow.
    if bytes >= (buffer / 2).min(u16::MAX.into()) {
        return Ok(());
    }
    // First, to see whether the lock can be taken away.
    set(&socket, libc::SOL_SOCKET, libc::SO_BUF_LOCK, &UNLOCKED)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_BUF_LOCK, &UNLOCKED)
}

/// Less by an eighth at most: windows are told in units of some power of two, and rounded up. Of 14,600 bytes and more,
/// what is left is a whole number of units where `tcp_rmem` and `rmem_max` allow less than 32 MiB.
fn whole_units(bytes: u32) -> u32 {
    let unit = 1 << bytes.checked_ilog2().unwrap_or(0).saturating_sub(3);
    bytes / unit * unit
}

/// From now on, closing the socket sends nothing (tcp_disconnect, net/ipv4/tcp.c).
pub fn silence(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, &REPAIR_ON)
}

/// Sends a RST from `from` to `to` that is in sequence for the receiver: `seq` is what it expects
/// next, `ack` what it has sent.
///
/// A socket is put into the middle of the connection and closed abruptly, so that routing,
/// checksums and neighbours are the kernel's business. Needs a host that has `from`, or may bind
/// to it nonetheless.
pub fn reset(from: SocketAddr, to: SocketAddr, seq: u32, ack: u32) -> io::Result<()> {
    let socket = place(from, to, seq, ack, None)?;
    set(
        &socket,
        libc::IPPROTO_TCP,
        libc::TCP_REPAIR,
        &REPAIR_OFF_NO_PROBE,
    )?;
    socket.set_linger(Some(std::time::Duration::ZERO))
    // Closed here: with no time to linger that is a RST.
}

/// A connection of which this host has said the SYN-ACK, and no socket.
#[derive(Clone, Copy, Debug)]
pub struct Unaccepted {
    /// The address that the peer connects to.
    pub local: SocketAddr,
    /// The peer.
    pub peer: SocketAddr,
    /// The sequence number of the first byte to it.
    pub seq: u32,
    /// The one of the first byte from it.
    pub ack: u32,
    /// Most bytes of a segment to it, options not counted.
    pub segment: u32,
    /// How many bytes it is ready to receive.
    pub window: u32,
    /// By how many bits its windows are scaled.
    pub peer_scale: i8,
    /// By how many bits ours are.
    pub own_scale: i8,
    /// What the clock of our timestamps says now, in milliseconds.
    pub clock: u32,
}

/// A socket for a connection with SACK and timestamps, as accept(2) would have given it, from which
/// `received` can be read. Asks the peer whether it is there, once `placed` has been called: from then on, the
/// socket gets packets. That `received` was received the first answer tells it.
pub fn accept(
    connection: &Unaccepted,
    received: &[u8],
    placed: impl FnOnce(),
) -> io::Result<Socket> {
    let Unaccepted {
        local, peer, seq, ..
    } = *connection;
    let socket = place(local, peer, seq, connection.ack, Some(connection.segment))?;
    let scales = connection.peer_scale as u32 | (connection.own_scale as u32) << 16;
    let options = [
        [TCPOPT_MAXSEG, connection.segment],
        [TCPOPT_WINDOW, scales],
        [TCPOPT_SACK_PERM, 0],
        [TCPOPT_TIMESTAMP, 0],
    ];
    let tcp = libc::IPPROTO_TCP;
    set(&socket, tcp, libc::TCP_REPAIR_OPTIONS, &options)?;
    // The last bit would ask for a clock of microseconds (Linux 6.7).
    let clock = connection.clock.wrapping_add(connection.clock & 1);
    set(&socket, tcp, libc::TCP_TIMESTAMP, &clock)?;
    set(&socket, tcp, libc::TCP_REPAIR_QUEUE, &RECEIVE_QUEUE)?;
    let mut left = received;
    while !left.is_empty() {
        // Into the receive queue, and nowhere else.
        let queued = socket.send(left)?;
        left = &left[queued..];
    }
    // Or nothing could be sent before the peer has said something again.
    let windows: Windows = get(&socket, tcp, libc::TCP_REPAIR_WINDOW)?;
    let windows = Windows {
        told_at: connection.ack,
        peer: connection.window,
        peer_most: connection.window.max(windows.peer_most),
        ..windows
    };
    set(&socket, tcp, libc::TCP_REPAIR_WINDOW, &windows)?;
    placed();
    set(&socket, tcp, libc::TCP_REPAIR, &REPAIR_OFF)?;
    // As an accepted one has them from its listener; the end of the repair has taken the first away.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// `struct tcp_repair_window` of include/uapi/linux/tcp.h (Linux 4.8).
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Windows {
    /// The sequence number of the segment that `peer` is of.
    told_at: u32,
    /// Bytes that the peer is ready to receive.
    peer: u32,
    /// The most it ever was.
    peer_most: u32,
    /// Bytes that this host is ready to receive, and behind what.
    _own: [u32; 2],
}

/// Puts a socket into the middle of a connection: it sends nothing as long as it is being repaired.
///
/// Without a `segment`, it would for good send what every host takes (536 bytes; 1220 with IPv6), unless the
/// path's MTU changes: the option of `TCP_REPAIR_OPTIONS` raises the limit, but what fits is only worked out at
/// connect(2) (tcp_repair_options_est, net/ipv4/tcp.c; tcp_connect_init, net/ipv4/tcp_output.c). It also bounds what
/// the socket takes for a full segment of the peer's, which accept(2) would not.
fn place(
    from: SocketAddr,
    to: SocketAddr,
    seq: u32,
    ack: u32,
    segment: Option<u32>,
) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    freebind(&socket, to.is_ipv6())?;
    silence(&socket)?;
    if let Some(segment) = segment {
        limit_segment(&socket, segment)?;
    }
    socket.bind(&from.into())?;
    for (queue, position) in [(SEND_QUEUE, seq), (RECEIVE_QUEUE, ack)] {
        set(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, &queue)?;
        set(&socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, &position)?;
    }
    socket.connect(&to.into())?;
    Ok(socket)
}

/// What `TCP_MAXSEG` takes (`TCP_MIN_MSS`, `MAX_TCP_WINDOW`, include/net/tcp.h).
const LEAST_SEGMENT: u32 = 88;
const MOST_SEGMENT: u32 = 32_767;

// include/uapi/linux/tcp.h
const REPAIR_ON: c_int = 1;
const REPAIR_OFF: c_int = 0;
const REPAIR_OFF_NO_PROBE: c_int = -1;
const RECEIVE_QUEUE: c_int = 1;
const SEND_QUEUE: c_int = 2;
const UNLOCKED: c_int = 0;

// include/uapi/linux/tcp.h and include/net/tcp.h
const TCPOPT_MAXSEG: u32 = 2;
const TCPOPT_WINDOW: u32 = 3;
const TCPOPT_SACK_PERM: u32 = 4;
const TCPOPT_TIMESTAMP: u32 = 8;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn limit(socket: impl AsFd) -> c_int {
        get(socket, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP).unwrap()
    }

    /// A listener, and a socket that is to connect to it.
    fn ends() -> (TcpListener, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        (listener, socket)
    }

    #[test]
    fn first_window_is_limited_and_not_those_behind_it() {
        let heard = |bytes| {
            let (listener, mut socket) = ends();
            limit_first_window(&socket, bytes).unwrap();
            socket
                .connect(&listener.local_addr().unwrap().into())
                .unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            let first = state(&accepted).unwrap();
            // It is the kernel that lets it grow, if somebody reads.
            let mut sink = vec![0; 1 << 16];
            for _ in 0..200 {
                accepted.write_all(&sink).unwrap();
                socket.read_exact(&mut sink).unwrap();
            }
            let then = state(&accepted).unwrap();
            (first.peer_window(), first.peer_scale(), then.peer_window())
        };
        let (usual, scale, _) = heard(u32::MAX);
        let (first, units, then) = heard(20_000);
        assert!((10_000..=20_000).contains(&first), "{first}");
        assert_eq!(units, scale);
        assert!(then > usual, "{then}, {usual}");
    }

    #[test]
    fn window_is_limited_before_a_connect_and_free_again_afterwards() {
        let (listener, socket) = ends();
        limit_window(&socket, 5000).unwrap();
        let addr = listener.local_addr().unwrap();
        socket.connect(&addr.into()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(limit(&socket), 5000);
        // Its peer has heard of no more, and in units of one byte.
        let heard = state(&accepted).unwrap();
        assert!(heard.peer_window() <= 5000 && heard.peer_scale() == 0);
        limit_window(&socket, u32::MAX).unwrap();
        assert_eq!(limit(&socket), c_int::MAX);
        let usual = TcpStream::connect(addr).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(state(&accepted).unwrap().peer_window() > 5000);
        limit_window(&usual, 0).unwrap();
        assert!((1..5000).contains(&limit(&usual)), "the least there is");
    }
}
