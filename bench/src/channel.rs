//! The bytes of a connection: as they are, or in TLS.
//!
//! Nothing is kept that could be handed on: a [`Channel::read`] gives all that it has opened, so
//! that no bytes wait where epoll does not know of them. What it has sealed and cannot send yet is
//! bounded by rustls, to 64 KiB of content; [`Channel::is_stalled`] tells of it.

use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use rustls::{Connection, Error};

use crate::pattern::CHUNK;
use crate::poll::{self, Dropped, Read};

/// A socket, and what its bytes are in.
pub struct Channel {
    /// The socket.
    pub socket: TcpStream,
    tls: Option<Box<Connection>>,
}

/// What channels read into, never kept from one event to the next.
pub struct Buffer {
    wire: Vec<MaybeUninit<u8>>,
    clear: Vec<u8>,
}

impl Buffer {
    /// For [`CHUNK`] bytes at once.
    pub fn new() -> Self {
        Self {
            wire: poll::buffer(CHUNK),
            clear: vec![0; CHUNK],
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Channel {
    /// Over a socket, in TLS or not.
    pub fn new(socket: TcpStream, tls: Option<Connection>) -> Self {
        let tls = tls.map(Box::new);
        Self { socket, tls }
    }

    /// Reads what there is now, [`CHUNK`] bytes at most.
    ///
    /// # Errors
    ///
    /// Those of the socket; `InvalidData` where the bytes are not those that were sent, as far as
    /// TLS can tell; `ConnectionRefused` on an alert.
    pub fn read<'a>(&mut self, buffer: &'a mut Buffer) -> io::Result<Read<'a>> {
        let Some(tls) = &mut self.tls else {
            return poll::read(&self.socket, &mut buffer.wire);
        };
        loop {
            // What is left of an earlier record comes on top.
            let wire = match poll::read(&self.socket, &mut buffer.wire[..CHUNK / 2])? {
                Read::Bytes(wire) => wire,
                Read::Nothing => return Ok(Read::Nothing),
                Read::End => return Ok(Read::End),
            };
            let opened = open(tls, wire, &mut buffer.clear);
            let sent = flush(tls, &self.socket);
            let len = opened?;
            sent?;
            // A handshake goes on.
            if len > 0 {
                return Ok(Read::Bytes(&buffer.clear[..len]));
            }
        }
    }

    /// Drops what there is now, [`CHUNK`] bytes at most. Not in TLS.
    pub fn drop(&mut self, buffer: &mut Buffer) -> io::Result<Dropped> {
        poll::drop(&self.socket, &mut buffer.clear)
    }

    /// Sends what fits now; how much of it has been taken. All of it may be taken though not all is
    /// sent: see [`Channel::is_stalled`].
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return poll::write(&self.socket, bytes);
        };
        flush(tls, &self.socket)?;
        if tls.wants_write() {
            return Ok(0);
        }
        let taken = tls.writer().write(bytes)?;
        flush(tls, &self.socket)?;
        Ok(taken)
    }

    /// Sends what has been taken before, as far as it fits now.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => flush(tls, &self.socket),
            None => Ok(()),
        }
    }

    /// Whether something that has been taken waits for room.
    pub fn is_stalled(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Says that nothing more comes, as clients do before they close (RFC 8446, 6.1).
    pub fn finish(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.flush()
    }

    /// Sends all of it, after the handshake. For sockets that block.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return self.socket.write_all(bytes);
        };
        while tls.is_handshaking() {
            tls.complete_io(&mut self.socket).map_err(of_tls)?;
        }
        tls.writer().write_all(bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Reads as much as this takes. For sockets that block.
    pub fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return self.socket.read_exact(into);
        };
        let mut read = 0;
        while read < into.len() {
            match tls.reader().read(&mut into[read..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => read += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if tls.read_tls(&mut self.socket)? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    tls.process_new_packets().map_err(failed)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Opens what came in records; how many bytes.
fn open(tls: &mut Connection, mut wire: &[u8], into: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while !wire.is_empty() {
        if tls.read_tls(&mut wire)? == 0 {
            // What comes after the end is to be ignored (RFC 8446, 6.1).
            break;
        }
        let state = tls.process_new_packets().map_err(failed)?;
        let ready = state.plaintext_bytes_to_read();
        if ready > 0 {
            tls.reader().read_exact(&mut into[len..len + ready])?;
            len += ready;
        }
    }
    Ok(len)
}

fn flush(tls: &mut Connection, mut socket: &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(&mut socket) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn failed(error: Error) -> io::Error {
    let kind = match error {
        Error::AlertReceived(_) => io::ErrorKind::ConnectionRefused,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

/// What rustls has wrapped, or an error of the socket.
fn of_tls(error: io::Error) -> io::Error {
    error.downcast::<Error>().map_or_else(|other| other, failed)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use sni_router_tests::netns::{Scratch, unique_name};

    use super::*;
    use crate::{order, tls};

    /// Both ends of a connection in TLS, the far one without blocking.
    fn pair() -> (Channel, Channel) {
        let scratch = Scratch::create(&unique_name());
        tls::write_certificate(scratch.path()).unwrap();
        let client = tls::Client::new(scratch.path()).unwrap();
        let server = tls::Server::new(scratch.path()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        far.set_nonblocking(true).unwrap();
        let near = Channel::new(near, Some(client.connection(order::host(1)).unwrap()));
        let far = Channel::new(far, Some(server.connection().unwrap()));
        (near, far)
    }

    /// Reads from an end that does not block until it has this many bytes.
    fn read(from: &mut Channel, len: usize) -> Vec<u8> {
        let (mut buffer, mut bytes) = (Buffer::new(), Vec::new());
        let deadline = Instant::now() + Duration::from_secs(20);
        while bytes.len() < len {
            assert!(Instant::now() < deadline, "{} of {len}", bytes.len());
            match from.read(&mut buffer).unwrap() {
                Read::Bytes(more) => bytes.extend_from_slice(more),
                Read::Nothing => std::thread::yield_now(),
                Read::End => panic!("the end after {} of {len}", bytes.len()),
            }
        }
        bytes
    }

    #[test]
    fn all_bytes_arrive_when_the_socket_takes_them_in_pieces() {
        let (mut near, mut far) = pair();
        let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n >> 7) as u8).collect();
        let expected = sent.clone();
        let client = std::thread::spawn(move || {
            near.write_all(b"hello").unwrap();
            let mut received = vec![0; expected.len()];
            near.read_exact(&mut received).unwrap();
            assert!(received == expected);
            near
        });
        assert_eq!(read(&mut far, 5), b"hello");
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut left = &sent[..];
        while !left.is_empty() || far.is_stalled() {
            assert!(Instant::now() < deadline, "{} are left", left.len());
            let taken = far.write(left).unwrap();
            // Bounded, whatever is offered.
            assert!(taken <= 64 * 1024);
            left = &left[taken..];
        }
        client.join().unwrap();
    }

    #[test]
    fn what_comes_after_the_end_is_ignored() {
        let (mut near, mut far) = pair();
        let client = std::thread::spawn(move || {
            near.write_all(b"hello").unwrap();
            near.finish().unwrap();
            for _ in 0..1000 {
                near.socket.write_all(&[0; 1000]).unwrap();
            }
        });
        assert_eq!(read(&mut far, 5), b"hello");
        let mut buffer = Buffer::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < deadline, "no end");
            match far.read(&mut buffer).unwrap() {
                Read::Nothing => std::thread::yield_now(),
                Read::Bytes(bytes) => panic!("{bytes:?}"),
                Read::End => break,
            }
        }
        client.join().unwrap();
    }
}
