//! What must hold for the ClientHello reader, whatever the bytes. The fuzz target and
//! `sni-router-core/tests/hello_corpus.rs` both come in here.

use sni_router_core::hello::{DEFAULT_MAX_SIZE, Hello, HelloReader, Progress};

/// Panics where the reader's answer to `stream` depends on the cuts, is not final, or says what is
/// not in the bytes.
pub(crate) fn check(stream: &[u8]) {
    let whole = HelloReader::new(DEFAULT_MAX_SIZE).advance(stream);
    assert_eq!(
        dripped(stream, DEFAULT_MAX_SIZE, |_| 1),
        whole,
        "one byte at a time"
    );
    let mut random = Random::seeded_by(stream);
    for longest in [7, 100, 1500] {
        let cut = |_| 1 + random.below(longest);
        assert_eq!(
            dripped(stream, DEFAULT_MAX_SIZE, cut),
            whole,
            "up to {longest} bytes at a time"
        );
    }
    fingerprint_adds_nothing_else(stream, &whole);
    let Progress::Hello(hello) = whole else {
        return;
    };

    let size = hello.size;
    let exact = &stream[..size];
    let found = Progress::Hello(hello.clone());
    assert_eq!(
        HelloReader::new(size).advance(exact),
        found,
        "without what follows"
    );
    assert_eq!(
        HelloReader::new(size).advance(&exact[..size - 1]),
        Progress::NeedMore
    );
    assert_eq!(
        HelloReader::new(size - 1).advance(exact),
        Progress::TooLarge
    );

    let content = without_record_headers(exact);
    if let Some(name) = &hello.server_name {
        let wire = name.as_str().as_bytes();
        let found = content
            .windows(wire.len())
            .any(|window| window.eq_ignore_ascii_case(wire));
        assert!(found, "{name} is not in the hello");
    }
    for protocol in &hello.alpn {
        assert!(!protocol.is_empty());
        assert!(
            content
                .windows(protocol.len())
                .any(|window| window == protocol)
        );
    }
    for version in &hello.versions {
        assert!(
            content
                .windows(2)
                .any(|window| window == version.to_be_bytes())
        );
    }
}

/// A reader that also fingerprints gives the same answer, and a fingerprint of the right shape with
/// every hello that has no endless list.
fn fingerprint_adds_nothing_else(stream: &[u8], whole: &Progress) {
    let fingerprinted = HelloReader::new(DEFAULT_MAX_SIZE)
        .with_ja4(true)
        .advance(stream);
    let Progress::Hello(hello) = fingerprinted else {
        assert_eq!(&fingerprinted, whole);
        return;
    };
    match hello.ja4 {
        Some(ja4) => assert_ja4(ja4.as_str(), &hello),
        None => assert!(hello.size > 2 * 512, "it was asked for"),
    }
    assert_eq!(&Progress::Hello(Hello { ja4: None, ..hello }), whole);
}

/// Shape and what is told in the open, as the specification has them.
fn assert_ja4(ja4: &str, hello: &Hello) {
    let [offered, suites, extensions] = ja4.split('_').collect::<Vec<_>>()[..] else {
        panic!("{ja4} is not of three parts");
    };
    let (head, rest) = offered.split_at(4);
    let (counts, alpn) = rest.split_at(4);
    assert_eq!(alpn.len(), 2, "{ja4}");
    let name = if hello.server_name.is_some() {
        "d"
    } else {
        "i"
    };
    let versions = ["13", "12", "11", "10", "s3", "s2", "d1", "d2", "d3", "00"];
    assert!(head.starts_with('t') && versions.contains(&&head[1..3]) && head.ends_with(name));
    assert!(counts.bytes().all(|b| b.is_ascii_digit()), "{ja4}");
    assert!(alpn.bytes().all(|b| b.is_ascii_alphanumeric()), "{ja4}");
    for hash in [suites, extensions] {
        assert_eq!(hash.len(), 12, "{ja4}");
        assert!(
            hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
            "{ja4}"
        );
    }
}

/// The answer to `stream` when it comes in pieces of `piece(offset)` bytes. Every answer but
/// `NeedMore` is final, so the first of them is the one.
pub(crate) fn dripped(
    stream: &[u8],
    max_size: usize,
    mut piece: impl FnMut(usize) -> usize,
) -> Progress {
    let mut reader = HelloReader::new(max_size);
    let mut received = 0;
    while received < stream.len() {
        received = (received + piece(received)).min(stream.len());
        let progress = reader.advance(&stream[..received]);
        if progress != Progress::NeedMore {
            let again = reader.advance(&stream[..received]);
            assert_eq!(again, progress, "asked a second time");
            return progress;
        }
        assert!(received < max_size, "more is wanted than may be had");
    }
    Progress::NeedMore
}

/// The handshake bytes of a stream of whole records.
pub(crate) fn without_record_headers(mut stream: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some((&[_, _, _, high, low], rest)) = stream.split_first_chunk() {
        let (fragment, rest) = rest.split_at(u16::from_be_bytes([high, low]).into());
        content.extend_from_slice(fragment);
        stream = rest;
    }
    content
}

/// xorshift64: the same bytes are always cut the same, so that a finding can be replayed.
pub(crate) struct Random(u64);

impl Random {
    /// Seeds by the FNV-1a hash of `bytes`.
    pub(crate) fn seeded_by(bytes: &[u8]) -> Self {
        let hash = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        Self(hash | 1)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize % limit
    }
}
