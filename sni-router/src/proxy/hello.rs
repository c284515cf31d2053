//! Reading the ClientHello from a socket, without losing a byte.

use std::time::Duration;

use sni_router_core::hello::{Hello, HelloReader, Progress};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::reason::CloseReason;

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

/// Reads until the hello is complete. `within` is the time for all of it, so that dripping bytes
/// gains a client nothing.
pub(super) async fn read(
    client: &TcpStream,
    max_size: usize,
    within: Duration,
) -> Result<Greeting, Unread> {
    match timeout(within, read_all(client, max_size)).await {
        Ok(result) => result,
        Err(_) => Err(CloseReason::HelloTimeout.into()),
    }
}

async fn read_all(client: &TcpStream, max_size: usize) -> Result<Greeting, Unread> {
    let mut reader = HelloReader::new(max_size);
    let mut received = Vec::with_capacity(FIRST_BYTES);
    loop {
        client
            .readable()
            .await
            .map_err(|_| CloseReason::ClientGone)?;
        match client.try_read_buf(&mut received) {
            Ok(0) => return Err(CloseReason::ClientGone.into()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(CloseReason::ClientGone.into()),
        }
        match reader.advance(&received) {
            Progress::NeedMore => {}
            Progress::Hello(hello) => return Ok(Greeting { hello, received }),
            Progress::NotTls => return Err(CloseReason::NotTls.into()),
            Progress::Malformed(why) => {
                return Err(Unread {
                    reason: CloseReason::MalformedHello,
                    detail: why.as_str(),
                });
            }
            Progress::TooLarge => return Err(CloseReason::HelloTooLarge.into()),
        }
        if received.len() == received.capacity() {
            received.reserve(received.len());
        }
    }
}

/// Holds the hello of every common client, post-quantum key share included (Chromium's takes
/// 1.8 KiB), in one read.
const FIRST_BYTES: usize = 4096;
