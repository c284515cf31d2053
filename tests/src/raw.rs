//! Plain TCP behind a real ClientHello: the router reads the hello, and cannot know that what
//! follows is no TLS. So a test sees every byte, every FIN and every RST itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use socket2::SockRef;

use crate::tls::Version;
use crate::tls::client::{UNNAMED, config};

/// The bytes of a ClientHello as rustls sends it, one record.
pub fn hello(host: &str) -> Vec<u8> {
    Hello::default().bytes(Some(host))
}

/// What a ClientHello offers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hello<'a> {
    /// The only version.
    pub version: Version,
    /// An application protocol.
    pub alpn: Option<&'a str>,
    /// A share for X25519MLKEM768, which makes the hello longer than a segment.
    pub post_quantum: bool,
}

impl Hello<'_> {
    /// The hello for a host, or without a server name.
    pub fn bytes(self, host: Option<&str>) -> Vec<u8> {
        let mut config = config(self.version, self.alpn, None, self.post_quantum);
        config.enable_sni = host.is_some();
        let name = ServerName::try_from(host.unwrap_or(UNNAMED).to_owned()).expect("a host name");
        let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).expect("write to memory");
        bytes
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With FIN.
    Fin,
    /// With RST.
    Reset,
}

/// Accepts one connection; panics when none comes within `limit`.
#[track_caller]
pub fn accept(listener: &TcpListener, limit: Duration) -> TcpStream {
    try_accept(listener, limit).unwrap_or_else(|| panic!("no connection within {limit:?}"))
}

/// Accepts one connection, or none within `limit`.
pub fn try_accept(listener: &TcpListener, limit: Duration) -> Option<TcpStream> {
    let limit = Timespec::try_from(limit).expect("a limit of seconds");
    let mut polled = [PollFd::new(listener, PollFlags::IN)];
    if poll(&mut polled, Some(&limit)).expect("poll") == 0 {
        return None;
    }
    let (stream, _) = listener.accept().expect("accept");
    stream.set_nodelay(true).expect("set TCP_NODELAY");
    Some(stream)
}

/// Closes a listener. New connections are refused at once, also while a child that another test has just started
/// still has the descriptor.
pub fn refuse(listener: TcpListener) {
    // Fails only where it does not listen.
    let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
}

/// Writes all of it.
#[track_caller]
pub fn write(mut to: &TcpStream, bytes: &[u8]) {
    to.write_all(bytes).expect("write");
}

/// Reads this many bytes; panics when they do not come within `limit`, or the stream ends.
#[track_caller]
pub fn read_exactly(stream: &TcpStream, len: usize, limit: Duration) -> Vec<u8> {
    let deadline = Instant::now() + limit;
    let mut bytes = vec![0; len];
    let mut read = 0;
    while read < len {
        match read_some(stream, &mut bytes[read..], deadline) {
            Ok(n) => read += n,
            Err(end) => panic!("{end:?} after {read} of {len} bytes"),
        }
    }
    bytes
}

/// Reads to the end of the stream; panics when it does not come within `limit`.
#[track_caller]
pub fn read_to_end(stream: &TcpStream, limit: Duration) -> (Vec<u8>, End) {
    let deadline = Instant::now() + limit;
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        match read_some(stream, &mut chunk, deadline) {
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(end) => return (bytes, end),
        }
    }
}

/// Whether nothing, not even an end, comes within this time.
pub fn nothing_comes(stream: &TcpStream, within: Duration) -> bool {
    let within = Timespec::try_from(within).expect("some seconds");
    let mut polled = [PollFd::new(stream, PollFlags::IN)];
    poll(&mut polled, Some(&within)).expect("poll") == 0
}

/// One read(2) of at least one byte.
#[track_caller]
pub fn read_some(mut stream: &TcpStream, into: &mut [u8], deadline: Instant) -> Result<usize, End> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing to read before the deadline");
        stream
            .set_read_timeout(Some(left))
            .expect("set a read timeout");
        match stream.read(into) {
            Ok(0) => return Err(End::Fin),
            Ok(n) => return Ok(n),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Err(End::Reset),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => panic!("read: {e}"),
        }
    }
}

/// Ends a connection with RST, whatever is still in its buffers.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("set SO_LINGER");
}
