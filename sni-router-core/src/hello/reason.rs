//! Why a ClientHello was refused.

use thiserror::Error;

/// Why a ClientHello cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum MalformedReason {
    /// A record of another type (alert, application data) before the hello is complete
    /// (RFC 8446, 5.1: a message's records must follow each other without others between).
    #[error("a record of another type came before the hello was complete")]
    RecordType,
    /// A record after the first whose version does not start with 3.
    #[error("a record inside the hello has a version that is not TLS")]
    RecordVersion,
    /// A handshake record without content (RFC 8446, 5.1 forbids it).
    #[error("a handshake record is empty")]
    EmptyRecord,
    /// A record of more than 2^14 bytes (RFC 8446, 5.1).
    #[error("a record is longer than 16384 bytes")]
    RecordTooLong,
    /// The first handshake message is another one.
    #[error("the first handshake message is not a ClientHello")]
    NotClientHello,
    /// The hello's last record goes on after the hello. A client has nothing to say there before
    /// the server answered, and RFC 8446, 5.1 wants the hello to end with a record.
    #[error("the record goes on after the end of the hello")]
    TrailingData,
    /// The part in front of the extensions: a length that runs past the end or leaves bytes over,
    /// a session ID of more than 32 bytes, no cipher suite or no compression method.
    #[error("the lengths inside the hello do not add up")]
    Body,
    /// An extension's length runs past the end of the extensions.
    #[error("the lengths of the extensions do not add up")]
    Extensions,
    /// The same extension twice (RFC 8446, 4.2).
    #[error("an extension is there twice")]
    DuplicateExtension,
    /// The server_name extension: lengths that do not add up, an empty list, or no host name in it.
    #[error("the server_name extension is not a list with one host name")]
    ServerNameList,
    /// Two names of one type (RFC 6066, 3).
    #[error("the server_name extension has two names of one type")]
    DuplicateServerName,
    /// A host name of no bytes, or only a dot.
    #[error("the server name is empty")]
    EmptyServerName,
    /// An address in place of a name (RFC 6066, 3 forbids it).
    #[error("the server name is an IP address")]
    IpServerName,
    /// A name that DNS cannot have: a NUL or another byte that is not a host name's, an empty or
    /// over-long label, more than 253 bytes.
    #[error("the server name is not a host name")]
    BadServerName,
    /// The ALPN extension: lengths that do not add up, an empty list, an empty protocol
    /// (RFC 7301, 3.1).
    #[error("the application_layer_protocol_negotiation extension is malformed")]
    Alpn,
    /// The supported_versions extension: lengths that do not add up, or an empty list
    /// (RFC 8446, 4.2.1).
    #[error("the supported_versions extension is malformed")]
    SupportedVersions,
    /// The encrypted_client_hello extension: an unknown type, or lengths that do not add up
    /// (RFC 9849, 5).
    #[error("the encrypted_client_hello extension is malformed")]
    Ech,
}

impl MalformedReason {
    /// A label for metrics and logs, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RecordType => "record_type",
            Self::RecordVersion => "record_version",
            Self::EmptyRecord => "empty_record",
            Self::RecordTooLong => "record_too_long",
            Self::NotClientHello => "not_client_hello",
            Self::TrailingData => "trailing_data",
            Self::Body => "body",
            Self::Extensions => "extensions",
            Self::DuplicateExtension => "duplicate_extension",
            Self::ServerNameList => "server_name_list",
            Self::DuplicateServerName => "duplicate_server_name",
            Self::EmptyServerName => "empty_server_name",
            Self::IpServerName => "ip_server_name",
            Self::BadServerName => "bad_server_name",
            Self::Alpn => "alpn",
            Self::SupportedVersions => "supported_versions",
            Self::Ech => "ech",
        }
    }
}
