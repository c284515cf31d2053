//! Reading the ClientHello from a socket, without losing a byte.

use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use sni_router_core::hello::{Hello, HelloReader, Progress};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::reason::CloseReason;
use super::record;
use crate::socket::Socket;

/// A hello and every byte received so far, which may be more than the hello.
pub(super) struct Greeting {
    pub(super) hello: Hello,
    pub(super) received: Vec<u8>,
}

/// Why there is no hello.
pub(super) struct Unread {
    pub(super) reason: CloseReason,
    /// What exactly is wrong with a malformed one; else empty.
    pub(super) detail: &'static str,
}

impl From<CloseReason> for Unread {
    fn from(reason: CloseReason) -> Self {
        Self { reason, detail: "" }
    }
}

/// Reading a hello that is not complete yet.
pub(super) struct Reading {
    reader: HelloReader,
    received: Vec<u8>,
}

/// How far reading has come.
pub(super) enum Read {
    /// The whole hello.
    Whole(Greeting),
    /// There is more to come.
    Part(Reading),
}

impl Reading {
    /// Nothing has been read yet.
    pub(super) fn new(max_size: usize) -> Self {
        Self {
            reader: HelloReader::new(max_size).with_ja4(record::is_written()),
            received: Vec::with_capacity(FIRST_BYTES),
        }
    }

    /// Reads what is there already.
    pub(super) fn now(mut self, client: &Socket) -> Result<Read, Unread> {
        let room = spare_capacity(&mut self.received);
        match recv(client, room, RecvFlags::DONTWAIT) {
            Ok(_) => self.judge(0),
            Err(Errno::WOULDBLOCK) => Ok(Read::Part(self)),
            Err(_) => Err(CloseReason::ClientGone.into()),
        }
    }

    /// Reads until the hello is complete. `within` is the time for all of it, so that dripping bytes
    /// gains a client nothing.
    pub(super) async fn on(self, client: &TcpStream, within: Duration) -> Result<Greeting, Unread> {
        match timeout(within, self.read_all(client)).await {
            Ok(result) => result,
            Err(_) => Err(CloseReason::HelloTimeout.into()),
        }
    }

    async fn read_all(mut self, client: &TcpStream) -> Result<Greeting, Unread> {
        loop {
            client
                .readable()
                .await
                .map_err(|_| CloseReason::ClientGone)?;
            let before = self.received.len();
            match client.try_read_buf(&mut self.received) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return Err(CloseReason::ClientGone.into()),
            }
            match self.judge(before)? {
                Read::Whole(greeting) => return Ok(greeting),
                Read::Part(reading) => self = reading,
            }
        }
    }

    /// Looks at what was received behind the first `before` bytes.
    fn judge(mut self, before: usize) -> Result<Read, Unread> {
        if self.received.len() == before {
            return Err(CloseReason::ClientGone.into());
        }
        match self.reader.advance(&self.received) {
            Progress::NeedMore => {}
            Progress::Hello(hello) => {
                let received = self.received;
                return Ok(Read::Whole(Greeting { hello, received }));
            }
            Progress::NotTls => return Err(CloseReason::NotTls.into()),
            Progress::Malformed(why) => {
                return Err(Unread {
                    reason: CloseReason::MalformedHello,
                    detail: why.as_str(),
                });
            }
            Progress::TooLarge => return Err(CloseReason::HelloTooLarge.into()),
        }
        if self.received.len() == self.received.capacity() {
            self.received.reserve(self.received.len());
        }
        Ok(Read::Part(self))
    }
}

/// Holds the hello of every common client, post-quantum key share included (Chromium's takes
/// 1.8 KiB), in one read.
const FIRST_BYTES: usize = 4096;
