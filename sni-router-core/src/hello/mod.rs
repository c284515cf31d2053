//! The ClientHello reader: sans-I/O, incremental.

use crate::name::Host;

/// Reads a ClientHello from the first bytes of a connection.
///
/// It keeps no copy of the stream: the caller holds what was received and shows all of it, from
/// the first byte, at every call; the reader remembers how far it has looked.
#[derive(Debug)]
pub struct HelloReader {
    max_size: usize,
}

impl HelloReader {
    /// A reader that gives up with [`Progress::TooLarge`] where more than `max_size` bytes of
    /// stream would be needed.
    pub fn new(max_size: usize) -> Self {
        Self { max_size }
    }

    /// Looks at the stream so far. `received` is all of it from the first byte; it only grows
    /// between calls.
    pub fn advance(&mut self, received: &[u8]) -> Progress {
        let _ = (received, self.max_size);
        Progress::NeedMore
    }
}

/// How far a [`HelloReader`] has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The hello is not complete yet.
    NeedMore,
    /// The whole ClientHello has been read.
    Hello(Hello),
    /// The first bytes are not a TLS handshake record.
    NotTls,
    /// TLS, but not a ClientHello one may route by.
    Malformed(MalformedReason),
    /// The hello does not fit into the allowed size.
    TooLarge,
}

/// What a ClientHello says, as far as a router may look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The server name (RFC 6066, 3); the outer one where ECH is used.
    pub server_name: Option<Host>,
    /// Application protocols offered (RFC 7301), in the client's order.
    pub alpn: Vec<Vec<u8>>,
    /// Protocol versions offered, most wanted first; from supported_versions where present, GREASE
    /// left out.
    pub versions: Vec<u16>,
    /// Whether an encrypted_client_hello extension is present, so that `server_name` is the
    /// outer one.
    pub ech: bool,
    /// Bytes of stream up to the end of the hello, record headers included.
    pub size: usize,
}

/// Why a ClientHello cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MalformedReason {
    /// Placeholder until the reader exists.
    Todo,
}
