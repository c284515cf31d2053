//! The extensions a router reads. Every length must fit its content exactly.

use tls_parser::{SNIType, parse_tls_extension_sni_hostname};

use super::MalformedReason;
use crate::name::{Host, HostError};

/// The one host name of a server_name extension (RFC 6066, 3).
///
/// Names of other types are skipped by their length, which the RFC demands all future types to
/// have. A list with nothing but those is refused: its client asked for something, and the route
/// for clients that asked for nothing would be the wrong answer.
pub(super) fn server_name(data: &[u8]) -> Result<Host, MalformedReason> {
    let mut rest = match vector16(data) {
        Some((list, [])) if !list.is_empty() => list,
        _ => return Err(MalformedReason::ServerNameList),
    };
    let mut host_name = None;
    let mut seen = [false; 1 << u8::BITS];
    while !rest.is_empty() {
        let Ok((next, (kind, name))) = parse_tls_extension_sni_hostname(rest) else {
            return Err(MalformedReason::ServerNameList);
        };
        if std::mem::replace(&mut seen[usize::from(kind.0)], true) {
            return Err(MalformedReason::DuplicateServerName);
        }
        if kind == SNIType::HostName {
            host_name = Some(name);
        }
        rest = next;
    }
    parse_host(host_name.ok_or(MalformedReason::ServerNameList)?)
}

/// The protocols of an ALPN extension (RFC 7301, 3.1).
pub(super) fn alpn(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (mut rest, after) = vector16(data)?;
    if rest.is_empty() || !after.is_empty() {
        return None;
    }
    let mut protocols = Vec::new();
    while let Some((&len, next)) = rest.split_first() {
        let (protocol, next) = next.split_at_checked(len.into())?;
        if protocol.is_empty() {
            return None;
        }
        protocols.push(protocol.to_vec());
        rest = next;
    }
    Some(protocols)
}

/// The versions of a supported_versions extension in a ClientHello (RFC 8446, 4.2.1), without
/// GREASE; none may be left.
pub(super) fn supported_versions(data: &[u8]) -> Option<Vec<u16>> {
    let (&len, list) = data.split_first()?;
    let (pairs, odd) = list.as_chunks::<2>();
    if list.len() != usize::from(len) || list.is_empty() || !odd.is_empty() {
        return None;
    }
    let versions = pairs.iter().copied().map(u16::from_be_bytes);
    Some(versions.filter(|&version| !is_grease(version)).collect())
}

/// The algorithms of a signature_algorithms extension (RFC 8446, 4.2.3), without GREASE; none where
/// its lengths do not add up, which is for the endpoint to refuse.
pub(super) fn signature_algorithms(data: &[u8]) -> impl Iterator<Item = u16> {
    let list = match vector16(data) {
        Some((list, [])) => list,
        _ => &[],
    };
    let (pairs, odd) = list.as_chunks::<2>();
    let pairs = if odd.is_empty() { pairs } else { &[] };
    let algorithms = pairs.iter().copied().map(u16::from_be_bytes);
    algorithms.filter(|&algorithm| !is_grease(algorithm))
}

/// Whether an encrypted_client_hello extension (RFC 9849, 5) is of type outer.
pub(super) fn is_outer_ech(data: &[u8]) -> Option<bool> {
    const OUTER: u8 = 0;
    const INNER: u8 = 1;
    /// HPKE KDF and AEAD identifiers, config_id.
    const FIXED: usize = 2 + 2 + 1;

    match data.split_first()? {
        (&OUTER, rest) => {
            let (_, rest) = rest.split_at_checked(FIXED)?;
            let (_enc, rest) = vector16(rest)?;
            let (payload, rest) = vector16(rest)?;
            (!payload.is_empty() && rest.is_empty()).then_some(true)
        }
        (&INNER, []) => Some(false),
        _ => None,
    }
}

fn parse_host(name: &[u8]) -> Result<Host, MalformedReason> {
    let text = str::from_utf8(name).map_err(|_| MalformedReason::BadServerName)?;
    text.parse().map_err(|error| match error {
        HostError::Empty => MalformedReason::EmptyServerName,
        HostError::IpAddress => MalformedReason::IpServerName,
        _ => MalformedReason::BadServerName,
    })
}

/// Values that clients mix in so that servers keep ignoring what they do not know (RFC 8701, 2):
/// 0x0a0a, 0x1a1a, up to 0xfafa.
pub(super) fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// Content of a vector with a length of 16 bits in front, and what follows it.
fn vector16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*len).into())
}
