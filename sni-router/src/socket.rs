//! Sockets of connections, before it is known whether anybody will have to wait for them.

use std::io;
use std::net::{self, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, connect, recv, send};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::net::TcpStream;

/// A non-blocking TCP socket that the runtime may not know yet.
///
/// Under load a hello is mostly there by the time its connection is accepted, an endpoint on this host
/// has answered by the time connect(2) returns, and a connection that is then handed to the kernel is
/// never waited for: making it known to epoll, and having it forgotten again, would be two system
/// calls and a wake-up for nothing.
#[derive(Debug)]
pub struct Socket(State);

#[derive(Debug)]
enum State {
    Unregistered(net::TcpStream),
    Registered(TcpStream),
}

impl Socket {
    /// A socket to connect with to such an address. TCP by name: where the default were MPTCP, a
    /// sock map would not take it.
    pub fn towards(addr: SocketAddr) -> io::Result<socket2::Socket> {
        let kind = Type::STREAM.nonblocking().cloexec();
        socket2::Socket::new_raw(Domain::for_address(addr), kind, Some(Protocol::TCP))
    }

    /// Connects, and waits only if the peer has not answered at once.
    pub async fn connect(socket: socket2::Socket, addr: SocketAddr) -> io::Result<Self> {
        let socket = net::TcpStream::from(socket);
        // Asked again, it answers like a blocking one (inet_stream_connect, net/ipv4/af_inet.c).
        for not_yet in [Errno::INPROGRESS, Errno::ALREADY] {
            match connect(&socket, &addr) {
                Ok(()) => return Ok(socket.into()),
                Err(error) if error == not_yet => {}
                Err(error) => return Err(error.into()),
            }
        }
        let stream = TcpStream::from_std(socket)?;
        stream.writable().await?;
        match stream.take_error()? {
            None => Ok(stream.into()),
            Some(error) => Err(error),
        }
    }

    /// Reads what is there; `WouldBlock` if there is nothing.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, _) = recv(self, buffer, RecvFlags::DONTWAIT)?;
        Ok(read)
    }

    /// Writes as much as there is room for; `WouldBlock` if there is none.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(
            self,
            bytes,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )?)
    }

    /// Writes all of it, and waits only if there is no room.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let stream = self.register()?;
                    stream.writable().await?;
                    // Has the runtime wait for the next event if this one was of before.
                    match stream.try_write(bytes) {
                        Ok(written) => bytes = &bytes[written..],
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a FIN behind what was written.
    pub fn finish(&self) -> io::Result<()> {
        SockRef::from(self).shutdown(Shutdown::Write)
    }

    /// The error that the connection has ended with, once.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        SockRef::from(self).take_error()
    }

    /// Makes it one that can be waited for. Where epoll has no room, it stays what it is.
    pub fn register(&mut self) -> io::Result<&TcpStream> {
        if let State::Unregistered(socket) = &self.0 {
            // By another descriptor: the attempt closes the one that it is given.
            self.0 = State::Registered(socket.try_clone()?.try_into()?);
        }
        match &self.0 {
            State::Registered(socket) => Ok(socket),
            State::Unregistered(_) => unreachable!("it has just been registered"),
        }
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

    /// Its own address: of a client's, the one that it has connected to.
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

/// Whether this host failed, and not the peer: it is out of descriptors, memory or ports.
pub fn is_own(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const BYTES: usize = 8 << 20;

    async fn opened() -> (Socket, net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let socket = Socket::towards(addr).unwrap();
        let socket = Socket::connect(socket, addr).await.unwrap();
        (socket, listener.accept().unwrap().0)
    }

    #[tokio::test]
    async fn peer_of_this_host_is_not_waited_for_before_there_is_no_room() {
        let (mut socket, mut peer) = opened().await;
        assert!(matches!(socket.0, State::Unregistered(_)));
        assert!(socket.write_all(b"hello").await.is_ok());
        assert!(matches!(socket.0, State::Unregistered(_)));
        let reader = thread::spawn(move || {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).map(|_| received)
        });
        let bytes: Vec<_> = (0..BYTES).map(|at| (at / 7) as u8).collect();
        socket.write_all(&bytes).await.unwrap();
        assert!(matches!(socket.0, State::Registered(_)));
        socket.finish().unwrap();
        let received = reader.join().unwrap().unwrap();
        assert!(received[..5] == *b"hello" && received[5..] == bytes);
    }

    #[tokio::test]
    async fn refusal_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let refused = Socket::connect(Socket::towards(addr).unwrap(), addr).await;
        assert_eq!(
            refused.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }

    /// A backlog that is full swallows the SYN, which is sent again after a second.
    #[tokio::test]
    async fn peer_that_answers_later_is_waited_for() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&addr.into()).unwrap();
        listener.listen(0).unwrap();
        let listener = TcpListener::from(listener);
        let addr = listener.local_addr().unwrap();
        let first = Socket::connect(Socket::towards(addr).unwrap(), addr);
        let first = first.await.unwrap();
        let second = Socket::connect(Socket::towards(addr).unwrap(), addr);
        let accepting = thread::spawn(move || {
            thread::sleep(std::time::Duration::from_millis(100));
            (listener.accept().unwrap(), listener.accept().unwrap())
        });
        let second = second.await.unwrap();
        assert!(matches!(second.0, State::Registered(_)));
        assert!(matches!(first.0, State::Unregistered(_)));
        accepting.join().unwrap();
    }

    #[test]
    fn peer_is_not_blamed_when_this_host_is_out_of_something() {
        for (code, own) in [
            (libc::EMFILE, true),
            (libc::EADDRNOTAVAIL, true),
            (libc::ECONNREFUSED, false),
            (libc::EHOSTUNREACH, false),
        ] {
            assert_eq!(is_own(&io::Error::from_raw_os_error(code)), own, "{code}");
        }
        assert!(!is_own(&io::ErrorKind::TimedOut.into()));
    }
}
