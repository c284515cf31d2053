//! A client's socket, before it is known whether anybody will have to wait for it.

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{RecvFlags, recv};
use tokio::net::TcpStream;

/// A non-blocking TCP socket that the runtime may not know yet.
///
/// Under load a hello is mostly there by the time its connection is accepted, and a connection that
/// is then handed to the kernel is never waited for: making it known to epoll, and having it
/// forgotten again, would be two system calls and a wake-up for nothing.
#[derive(Debug)]
pub struct Socket(State);

#[derive(Debug)]
enum State {
    Unregistered(net::TcpStream),
    Registered(TcpStream),
}

impl Socket {
    /// Reads what is there; `WouldBlock` if there is nothing.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, _) = recv(self, buffer, RecvFlags::DONTWAIT)?;
        Ok(read)
    }

    /// The same socket, to be waited for. Fails, and closes it, where epoll has no room.
    pub fn registered(self) -> io::Result<TcpStream> {
        match self.0 {
            State::Unregistered(socket) => socket.try_into(),
            State::Registered(socket) => Ok(socket),
        }
    }

    /// The same socket, not to be waited for.
    pub fn unregistered(self) -> io::Result<net::TcpStream> {
        match self.0 {
            State::Unregistered(socket) => Ok(socket),
            State::Registered(socket) => socket.into_std(),
        }
    }

    /// The address that the peer has connected to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            State::Unregistered(socket) => socket.local_addr(),
            State::Registered(socket) => socket.local_addr(),
        }
    }
}

impl From<net::TcpStream> for Socket {
    fn from(socket: net::TcpStream) -> Self {
        Self(State::Unregistered(socket))
    }
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Self {
        Self(State::Registered(socket))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            State::Unregistered(socket) => socket.as_fd(),
            State::Registered(socket) => socket.as_fd(),
        }
    }
}
