//! What a complete ClientHello says.

use tls_parser::{TlsExtension, parse_tls_extension_unknown, parse_tls_handshake_client_hello};

use super::ja4::{Ja4, Offer};
use super::{Hello, MalformedReason, extension};

/// Reads the ClientHello in `body`, which is the handshake message without its header, and
/// fingerprints it if that is wanted.
///
/// tls-parser reads the fixed part. It is more lenient than RFC 8446, 4.1.2 in two places, which
/// are checked here: it takes empty lists of cipher suites and compression methods, and where the
/// length of the extensions runs past the end it reports none and leaves the bytes over, so that
/// a name in them would be overlooked.
pub(super) fn parse(body: &[u8], size: usize, wants_ja4: bool) -> Result<Hello, MalformedReason> {
    let Ok((rest, contents)) = parse_tls_handshake_client_hello(body) else {
        return Err(MalformedReason::Body);
    };
    if !rest.is_empty() || contents.ciphers.is_empty() || contents.comp.is_empty() {
        return Err(MalformedReason::Body);
    }

    let mut server_name = None;
    let mut alpn = Vec::new();
    let mut versions = None;
    let mut ech = false;
    let mut signatures = &[][..];
    let mut seen = Seen::default();
    let mut rest = contents.ext.unwrap_or_default();
    while !rest.is_empty() {
        let (kind, data, next) = split_extension(rest)?;
        seen.insert(kind);
        match kind {
            SERVER_NAME => server_name = Some(extension::server_name(data)?),
            ALPN => alpn = extension::alpn(data).ok_or(MalformedReason::Alpn)?,
            SUPPORTED_VERSIONS => {
                versions = Some(
                    extension::supported_versions(data)
                        .ok_or(MalformedReason::SupportedVersions)?,
                );
            }
            ENCRYPTED_CLIENT_HELLO => {
                ech = extension::is_outer_ech(data).ok_or(MalformedReason::Ech)?;
            }
            SIGNATURE_ALGORITHMS => signatures = data,
            _ => {}
        }
        rest = next;
    }
    let Some(extensions) = seen.sorted() else {
        return Err(MalformedReason::DuplicateExtension);
    };

    let versions = versions.unwrap_or_else(|| vec![contents.version.0]);
    let ja4 = if wants_ja4 {
        Ja4::of(Offer {
            versions: &versions,
            has_name: server_name.is_some(),
            // In place: nothing is allocated.
            suites: contents.ciphers.into_iter().map(|suite| suite.0).collect(),
            extensions,
            alpn: &alpn,
            signatures,
        })
    } else {
        None
    };
    Ok(Hello {
        server_name,
        alpn,
        versions,
        ech,
        ja4,
        size,
    })
}

/// Type and content of the first extension, and what follows it.
///
/// `parse_tls_extension_unknown` is tls-parser's reader of any extension. Its readers of the known
/// ones are not used: they stop without an error at an entry of a list that is cut short, ignore
/// bytes after the list, and fail on contents that are the endpoint's business.
fn split_extension(bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), MalformedReason> {
    match parse_tls_extension_unknown(bytes) {
        Ok((rest, TlsExtension::Unknown(kind, data))) => Ok((kind.0, data, rest)),
        _ => Err(MalformedReason::Extensions),
    }
}

/// Which extension types there were: a bit each for the low ones, which are nearly all that
/// clients send, and a list for the rest. 64 KiB have room for 16,000 extensions, so the list is
/// sorted once and never searched.
#[derive(Default)]
struct Seen {
    low: u64,
    low_twice: bool,
    high: Vec<u16>,
}

impl Seen {
    fn insert(&mut self, kind: u16) {
        if kind >= u64::BITS as u16 {
            self.high.push(kind);
            return;
        }
        self.low_twice |= self.low & (1 << kind) != 0;
        self.low |= 1 << kind;
    }

    /// All of them in ascending order, or `None` where one was there twice.
    fn sorted(&mut self) -> Option<impl Iterator<Item = u16> + Clone> {
        self.high.sort_unstable();
        let is_twice = self.low_twice || self.high.windows(2).any(|pair| pair[0] == pair[1]);
        let low = self.low;
        let low = (0..u64::BITS as u16).filter(move |kind| low & (1 << kind) != 0);
        (!is_twice).then(|| low.chain(self.high.iter().copied()))
    }
}

/// RFC 6066, 3.
const SERVER_NAME: u16 = 0;
/// RFC 8446, 4.2.3.
const SIGNATURE_ALGORITHMS: u16 = 13;
/// RFC 7301, 3.1.
const ALPN: u16 = 16;
/// RFC 8446, 4.2.1.
const SUPPORTED_VERSIONS: u16 = 43;
/// RFC 9849, 5. tls-parser does not know it.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
