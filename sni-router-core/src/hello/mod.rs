//! The ClientHello reader: sans-I/O, incremental.
//!
//! [`HelloReader`] follows the records until the whole ClientHello is there, `body` reads what it
//! says. The reader is as strict as routing needs, and no stricter:
//!
//! - What two parsers could read differently is refused ([`Progress::Malformed`]): lengths that do
//!   not add up, a name or an extension given twice, records that do not belong there. A router
//!   that reads another name than the endpoint can be talked past its own routes.
//! - What a router does not route by (cipher suites, groups, signatures, tickets) is not looked
//!   into, but for a fingerprint where that is wanted. Whether it is acceptable is for the endpoint
//!   to say.
//!
//! Invariant: the answer depends on the bytes alone, never on how they were cut, and every answer
//! but [`Progress::NeedMore`] is final.

mod body;
mod extension;
mod ja4;
mod reader;
mod reason;

pub use ja4::Ja4;
pub use reader::HelloReader;
pub use reason::MalformedReason;

use crate::name::Host;

/// The usual limit for [`HelloReader::new`], in bytes of stream.
///
/// A post-quantum hello takes about 2 KiB; one with a session ticket that carries a client's
/// certificate chain takes 10 KiB and more.
pub const DEFAULT_MAX_SIZE: usize = 64 * 1024;

/// How far a [`HelloReader`] has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The hello is not complete yet.
    NeedMore,
    /// The whole ClientHello has been read.
    Hello(Hello),
    /// The first bytes are not a TLS handshake record. An SSLv2 hello is not one either.
    NotTls,
    /// TLS, but not a ClientHello one may route by.
    Malformed(MalformedReason),
    /// The hello does not fit into the allowed size. Told as soon as its announced length shows
    /// it, without waiting for the bytes.
    TooLarge,
}

/// What a ClientHello says, as far as a router may look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The server name (RFC 6066, 3); the outer one where ECH is used. `None` where the client
    /// sent no server_name extension, never where it sent one that cannot be used.
    pub server_name: Option<Host>,
    /// Application protocols offered (RFC 7301), in the client's order. Arbitrary bytes, none of
    /// them empty; [`Hello::alpn_names`] has them as text.
    pub alpn: Vec<Vec<u8>>,
    /// Protocol versions offered, as on the wire (0x0304 is TLS 1.3): from supported_versions in
    /// the client's order where present, else the one legacy_version. GREASE (RFC 8701) left out.
    pub versions: Vec<u16>,
    /// Whether an encrypted_client_hello extension of type outer (RFC 9849, 5) is present, so that
    /// `server_name` may be the public name in front of a hidden one.
    ///
    /// Browsers send a random one (GREASE ECH, RFC 9849, 6.2) to every server, and it is made to
    /// look the same. Type inner, which a client-facing server sends on to a backend, does not
    /// count: there `server_name` is the true one.
    pub ech: bool,
    /// The fingerprint, where [`HelloReader::with_ja4`] has asked for it. `None` also for what has
    /// more than 512 cipher suites, extensions or signature algorithms.
    pub ja4: Option<Ja4>,
    /// Bytes of stream up to the end of the hello, record headers included. What follows (early
    /// data, for one) was not looked at.
    pub size: usize,
}

impl Hello {
    /// [`Hello::alpn`] as text that is safe to print: bytes other than printable ASCII are
    /// escaped as in `\x0a`.
    pub fn alpn_names(&self) -> impl Iterator<Item = String> + '_ {
        self.alpn
            .iter()
            .map(|protocol| protocol.escape_ascii().to_string())
    }
}
