//! Which sockets are ready: one epoll, and plain non-blocking sockets.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, sockopt,
};

pub use rustix::event::epoll::EventFlags as Ready;

/// An epoll instance. Sockets are known by numbers that the user gives.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
        })
    }

    /// Watches a socket until it is closed.
    pub fn add(&self, socket: impl AsFd, number: usize, flags: Ready) -> io::Result<()> {
        let data = epoll::EventData::new_u64(number as u64);
        Ok(epoll::add(&self.epoll, socket, data, flags)?)
    }

    /// Watches it for something else.
    pub fn modify(&self, socket: impl AsFd, number: usize, flags: Ready) -> io::Result<()> {
        let data = epoll::EventData::new_u64(number as u64);
        Ok(epoll::modify(&self.epoll, socket, data, flags)?)
    }

    /// Waits at most so long; how many sockets are ready.
    pub fn wait(&mut self, limit: Duration) -> io::Result<usize> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&limit)) {
            Ok(count) => Ok(count),
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// One of the sockets that the last [`Poll::wait`] found ready.
    pub fn ready(&self, index: usize) -> (usize, Ready) {
        let event = self.events[index];
        // The numbers were made from usize.
        (event.data.u64() as usize, event.flags)
    }
}

/// A TCP socket that never blocks and sends at once.
pub fn tcp(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// Begins to connect.
pub fn connect(to: SocketAddr) -> io::Result<OwnedFd> {
    let socket = tcp(match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    })?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Sends what fits now; 0 where nothing does.
pub fn write(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    match send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(count) => Ok(count),
        Err(Errno::AGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// What there was to read.
pub enum Read<'a> {
    /// So many bytes of the buffer.
    Bytes(&'a [u8]),
    /// Nothing yet.
    Nothing,
    /// The FIN.
    End,
}

/// Reads what there is now, as much as the buffer takes.
pub fn read(socket: impl AsFd, into: &mut [MaybeUninit<u8>]) -> io::Result<Read<'_>> {
    match recv(socket, into, RecvFlags::DONTWAIT) {
        Ok((([], _), _)) => Ok(Read::End),
        Ok(((bytes, _), _)) => Ok(Read::Bytes(bytes)),
        Err(Errno::AGAIN) => Ok(Read::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// What there was to drop.
pub enum Dropped {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The FIN.
    End,
}

/// Drops what there is now, as much as would fit into `room`, in which the kernel puts none of it (MSG_TRUNC, tcp(7)).
pub fn drop(socket: impl AsFd, room: &mut [u8]) -> io::Result<Dropped> {
    match recv(socket, room, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
        Ok((_, 0)) => Ok(Dropped::End),
        Ok((_, count)) => Ok(Dropped::Bytes(count)),
        Err(Errno::AGAIN) => Ok(Dropped::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// Makes the socket's close send RST instead of FIN.
pub fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(socket, Some(Duration::ZERO))?)
}

/// A buffer to [`read`] into.
pub fn buffer(len: usize) -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); len]
}

const EVENTS: usize = 512;
