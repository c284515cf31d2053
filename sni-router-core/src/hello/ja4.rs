//! JA4: a fingerprint of TLS clients, made of what a hello offers and not of what differs from one
//! hello of a client to the next.
//!
//! By FoxIO's specification (github.com/FoxIO-LLC/ja4, technical_details/JA4.md, as of June 2026).
//! JA4 is under the BSD licence; the other fingerprints of that family are not, and not here.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::extension::{is_grease, signature_algorithms};

/// A JA4 fingerprint, as `t13d1516h2_8daaf6152771_e5627efa2ab1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ja4([u8; LEN]);

/// What of a hello is in its fingerprint. GREASE (RFC 8701) may be anywhere in it and counts
/// nowhere.
pub(super) struct Offer<'h, E> {
    /// What [`Hello::versions`](super::Hello::versions) has.
    pub(super) versions: &'h [u16],
    /// Whether there is a server name.
    pub(super) has_name: bool,
    /// Cipher suites, in any order.
    pub(super) suites: Vec<u16>,
    /// Types of the extensions, in ascending order.
    pub(super) extensions: E,
    /// Application protocols, in the client's order.
    pub(super) alpn: &'h [Vec<u8>],
    /// Content of the signature_algorithms extension (RFC 8446, 4.2.3); empty where there is none.
    pub(super) signatures: &'h [u8],
}

impl Ja4 {
    /// The fingerprint of what is offered, whatever that is; `None` where a list is longer than
    /// any client's, and would only cost time.
    pub(super) fn of(offer: Offer<'_, impl Iterator<Item = u16> + Clone>) -> Option<Self> {
        let mut suites = offer.suites;
        let extensions = offer.extensions.filter(|&kind| !is_grease(kind));
        let extension_count = extensions.clone().count();
        // Two bytes are the length of the list.
        let signature_count = offer.signatures.len().saturating_sub(2) / 2;
        let counts = [suites.len(), extension_count, signature_count];
        if counts.iter().any(|&count| count > LONGEST) {
            return None;
        }
        suites.retain(|&suite| !is_grease(suite));
        suites.sort_unstable();

        let [version, version_end] = version(offer.versions);
        let [suites_tens, suites_ones] = two_digits(suites.len());
        let [extensions_tens, extensions_ones] = two_digits(extension_count);
        let [alpn_first, alpn_last] = ends(offer.alpn);
        let offered = [
            b't',
            version,
            version_end,
            if offer.has_name { b'd' } else { b'i' },
            suites_tens,
            suites_ones,
            extensions_tens,
            extensions_ones,
            alpn_first,
            alpn_last,
        ];

        let mut suites_list = List::default();
        for suite in suites {
            suites_list.push(b",", suite);
        }
        let mut extensions_list = List::default();
        for kind in extensions.filter(|kind| !IN_THE_OPEN.contains(kind)) {
            extensions_list.push(b",", kind);
        }
        let mut separator = b"_";
        for algorithm in signature_algorithms(offer.signatures) {
            extensions_list.push(separator, algorithm);
            separator = b",";
        }

        let mut text = [b'_'; LEN];
        text[..OFFERED].copy_from_slice(&offered);
        text[SUITES..SUITES + DIGITS].copy_from_slice(&suites_list.digits());
        text[EXTENSIONS..].copy_from_slice(&extensions_list.digits());
        Some(Self(text))
    }

    /// As the specification writes it: 36 characters of ASCII.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("made of ASCII only")
    }
}

impl fmt::Display for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The highest version. One of DTLS is not to be expected here, and is a number as any other.
fn version(versions: &[u16]) -> [u8; 2] {
    match versions.iter().max() {
        Some(0x0304) => *b"13",
        Some(0x0303) => *b"12",
        Some(0x0302) => *b"11",
        Some(0x0301) => *b"10",
        Some(0x0300) => *b"s3",
        Some(0x0002) => *b"s2",
        Some(0xfeff) => *b"d1",
        Some(0xfefd) => *b"d2",
        Some(0xfefc) => *b"d3",
        _ => *b"00",
    }
}

/// A count, or 99 where it is more.
fn two_digits(count: usize) -> [u8; 2] {
    let count = count.min(99) as u8;
    [b'0' + count / 10, b'0' + count % 10]
}

/// First and last character of the first protocol, or of its hexadecimal digits where one of the
/// two is neither a letter nor a digit.
fn ends(protocols: &[Vec<u8>]) -> [u8; 2] {
    let first = protocols
        .iter()
        .find(|protocol| !is_grease_protocol(protocol));
    let Some((&first, &last)) = first.and_then(|it| it.first().zip(it.last())) else {
        return *b"00";
    };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        [first, last]
    } else {
        [hex(first >> 4), hex(last & 0xf)]
    }
}

/// RFC 8701, 2: the GREASE protocols are the two bytes of the other GREASE values.
fn is_grease_protocol(protocol: &[u8]) -> bool {
    protocol
        .try_into()
        .is_ok_and(|bytes| is_grease(u16::from_be_bytes(bytes)))
}

/// A list of numbers, each as four hexadecimal digits, of which only the hash is kept.
#[derive(Default)]
struct List {
    hash: Sha256,
    has_any: bool,
}

impl List {
    /// Adds a number; the separator goes in front, unless it is the first.
    fn push(&mut self, separator: &[u8; 1], number: u16) {
        if self.has_any {
            self.hash.update(separator);
        }
        self.has_any = true;
        let [high, low] = number.to_be_bytes();
        let digits = [high >> 4, high & 0xf, low >> 4, low & 0xf].map(hex);
        self.hash.update(digits);
    }

    /// The first digits of the hash; zeros where nothing is in the list.
    fn digits(self) -> [u8; DIGITS] {
        if !self.has_any {
            return [b'0'; DIGITS];
        }
        let hash = self.hash.finalize();
        std::array::from_fn(|index| {
            let byte = hash[index / 2];
            hex(if index % 2 == 0 {
                byte >> 4
            } else {
                byte & 0xf
            })
        })
    }
}

/// The digit of a number below 16.
fn hex(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble & 0xf)]
}

/// server_name and ALPN are told in front of the hashes, so that the last one is the same for a
/// client whatever it asks for.
const IN_THE_OPEN: [u16; 2] = [0, 16];

/// Numbers in a list. There are fewer cipher suites than that, and the largest hello has room for
/// 32,000, which take more than a millisecond to sort and to hash.
const LONGEST: usize = 512;

/// Bytes of what is told in front of the hashes.
const OFFERED: usize = 10;
/// Digits of each hash.
const DIGITS: usize = 12;
/// Where the hashes are, with a `_` in front of each.
const SUITES: usize = OFFERED + 1;
const EXTENSIONS: usize = SUITES + DIGITS + 1;
const LEN: usize = EXTENSIONS + DIGITS;
