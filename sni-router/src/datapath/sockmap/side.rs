//! One of the two sockets of a carried connection.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockRef;

use crate::sys::sockopt::{TcpInfo, tcp_info};

/// A socket and what the daemon itself did with it before it was handed over.
pub(super) struct Side {
    pub(super) socket: TcpStream,
    /// Bytes the daemon had read from it.
    pub(super) read_before: u64,
    /// Bytes the daemon had written to it.
    pub(super) written_before: u64,
}

impl Side {
    /// The kernel's view of the connection.
    pub(super) fn info(&self) -> io::Result<TcpInfo> {
        tcp_info(&self.socket)
    }

    /// Bytes written since the hand-over, by the kernel's redirecting and by the daemon alike.
    pub(super) fn written_since(&self) -> io::Result<u64> {
        Ok(self
            .info()?
            .bytes_written()
            .saturating_sub(self.written_before))
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
