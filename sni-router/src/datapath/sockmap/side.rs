//! One of the two sockets of a carried connection.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockRef;

use crate::sys::sockopt::{TcpInfo, send_room, tcp_info, unacknowledged};

/// A socket and what the daemon itself did with it before it was handed over.
pub(super) struct Side {
    pub(super) socket: TcpStream,
    /// Bytes the daemon had read from it.
    pub(super) read_before: u64,
    /// Bytes the daemon had written to it, and one for the SYN if the daemon opened the connection:
    /// what `bytes_acked` will come to without anything written since.
    pub(super) acked_before: u64,
}

impl Side {
    /// The kernel's view of the connection.
    pub(super) fn info(&self) -> io::Result<TcpInfo> {
        tcp_info(&self.socket)
    }

    /// Bytes written since the hand-over, by the kernel's redirecting and by the daemon alike.
    ///
    /// Acknowledged plus not yet acknowledged, read in this order: what is acknowledged in between
    /// is counted neither here nor there, so the answer is never too high. (TCP_INFO's counts of
    /// bytes sent and retransmitted are no help: a segment that the device refuses counts as sent
    /// each time it is tried.)
    pub(super) fn written_since(&self) -> io::Result<u64> {
        let acked = self.info()?.bytes_acked();
        Ok((acked + unacknowledged(&self.socket)?).saturating_sub(self.acked_before))
    }

    /// Bytes that the send buffer has room for.
    pub(super) fn send_room(&self) -> io::Result<u64> {
        send_room(&self.socket)
    }

    /// Passes a FIN on.
    pub(super) fn finish(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Has the kernel send RST when the socket is closed.
    pub(super) fn abort(&self) {
        abort(&self.socket);
    }
}

/// Has the kernel send RST when `socket` is closed.
pub(super) fn abort(socket: impl AsFd) {
    // Fails only on a socket that is already gone.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}
