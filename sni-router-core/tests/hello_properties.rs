//! The ClientHello reader, properties: whatever the bytes and however they are cut.

use std::{fmt, fs};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::FileFailurePersistence;
use rustls::server::Acceptor;
use sni_router_core::hello::{DEFAULT_MAX_SIZE, Hello, HelloReader, Progress};

use entry::without_record_headers;
use hello_support::{
    ALPN, Draft, ECH, SERVER_NAME, SUPPORTED_VERSIONS, alpn, in_records_of, outer_ech, server_name,
    supported_versions,
};

#[path = "../../fuzz/entries/hello.rs"]
mod entry;
mod hello_support;

proptest! {
    #![proptest_config(ProptestConfig {
        // Next to this file; the default looks for a lib.rs above it.
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn hello_says_what_was_put_in_however_it_is_recorded(
        offer in offer(),
        records in vec(1..200usize, 1..40),
        others in vec((100..60_000u16, vec(any::<u8>(), 0..300)), 0..20),
        order in any::<Index>(),
    ) {
        let mut extensions = offer.extensions();
        extensions.extend(others.into_iter().filter(|(kind, _)| *kind != ECH));
        extensions.sort();
        extensions.dedup_by_key(|(kind, _)| *kind);
        let middle = order.index(extensions.len() + 1).min(extensions.len());
        extensions.rotate_left(middle);

        let draft = Draft::new(extensions);
        let mut records = records.iter().cycle().copied();
        let stream = in_records_of(&draft.handshake(), || records.next().unwrap());
        let expected = Progress::Hello(Hello { size: stream.len(), ..offer.hello() });
        prop_assert_eq!(HelloReader::new(DEFAULT_MAX_SIZE).advance(&stream), expected);
        entry::check(&stream);
    }

    #[test]
    fn real_hello_says_the_same_when_recorded_anew(
        capture in select(captures()),
        records in vec(prop_oneof![Just(1), 1..20usize, 1..2000usize], 1..100),
    ) {
        let stream = capture.stream;
        let whole = hello(&stream);
        let mut records = records.iter().cycle().copied();
        let handshake = without_record_headers(&stream[..whole.size]);
        let anew = in_records_of(&handshake, || records.next().unwrap());
        prop_assert_eq!(hello(&anew), Hello { size: anew.len(), ..whole });
        entry::check(&anew);
    }

    #[test]
    fn answer_is_the_same_however_the_stream_is_cut(
        capture in select(captures()),
        pieces in vec(1..600usize, 1..50),
        max_size in prop_oneof![0..3000usize, Just(DEFAULT_MAX_SIZE)],
    ) {
        let stream = capture.stream;
        let whole = HelloReader::new(max_size).advance(&stream);
        let mut pieces = pieces.iter().cycle().copied();
        let dripped = entry::dripped(&stream, max_size, |_| pieces.next().unwrap());
        prop_assert_eq!(dripped, whole);
    }

    #[test]
    fn arbitrary_bytes_hold_the_invariants(
        start in select(vec![&b""[..], b"\x16\x03\x01", b"\x16\x03\x01\0\x40\x01\0\0\x3c\x03\x03"]),
        bytes in vec(any::<u8>(), 0..3000),
        max_size in 0..4000usize,
    ) {
        let stream = [start, &bytes].concat();
        entry::check(&stream);
        let whole = HelloReader::new(max_size).advance(&stream);
        prop_assert_eq!(entry::dripped(&stream, max_size, |_| 1), whole);
    }

    #[test]
    fn changed_hello_holds_the_invariants_and_has_no_name_that_rustls_reads_differently(
        capture in select(captures()),
        changes in vec(change(), 1..4),
    ) {
        let stream = changes.iter().fold(capture.stream, |stream, change| change.apply(stream));
        entry::check(&stream);
        agrees_with_rustls(&stream)?;
    }

    #[test]
    fn changed_server_name_is_read_as_rustls_reads_it(
        names in vec((prop_oneof![Just(0), any::<u8>()], "[a-cA-C0-9.*_-]{0,12}"), 0..3),
        change in change(),
        changed in any::<bool>(),
    ) {
        let names: Vec<_> = names.iter().map(|(kind, name)| (*kind, name.as_bytes())).collect();
        let data = server_name(&names);
        let data = if changed { change.apply(data) } else { data };
        // What rustls wants to see besides: versions, signature algorithms, groups, key shares.
        let draft = Draft::new(vec![
            (SUPPORTED_VERSIONS, supported_versions(&[0x0304])),
            (13, vec![0, 2, 8, 4]),
            (10, vec![0, 2, 0, 29]),
            (51, vec![0, 0]),
            (SERVER_NAME, data),
        ]);
        agrees_with_rustls(&draft.stream())?;
    }
}

#[test]
fn real_hellos_are_read_as_rustls_reads_them() {
    for Capture { stream, .. } in captures() {
        let (name, alpn) = rustls_reads(&stream).expect("rustls takes every real hello");
        let hello = hello(&stream);
        assert_eq!(hello.server_name.map(|host| host.to_string()), name);
        assert_eq!(hello.alpn, alpn);
    }
}

/// Where both take the hello, both must have read the same.
fn agrees_with_rustls(stream: &[u8]) -> Result<(), TestCaseError> {
    let ours = HelloReader::new(DEFAULT_MAX_SIZE).advance(stream);
    if let (Progress::Hello(hello), Some((name, alpn))) = (ours, rustls_reads(stream)) {
        prop_assert_eq!(hello.server_name.map(|host| host.to_string()), name);
        prop_assert_eq!(hello.alpn, alpn);
    }
    Ok(())
}

/// Name and protocols, where rustls takes the bytes as a ClientHello.
fn rustls_reads(mut stream: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = Acceptor::default();
    while !stream.is_empty() {
        acceptor.read_tls(&mut stream).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let canonical = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
            let alpn = hello
                .alpn()
                .into_iter()
                .flatten()
                .map(<[u8]>::to_vec)
                .collect();
            return Some((hello.server_name().map(canonical), alpn));
        }
    }
    None
}

/// What a client offers, as far as the reader tells it.
#[derive(Clone, Debug)]
struct Offer {
    name: Option<String>,
    alpn: Vec<Vec<u8>>,
    versions: Vec<u16>,
    ech: bool,
}

fn offer() -> impl Strategy<Value = Offer> {
    (
        proptest::option::of("[a-zA-Z0-9]{1,20}(-[a-z0-9]{1,9})?(\\.[A-Za-z]{2,9}){0,3}x"),
        vec(vec(any::<u8>(), 1..20), 0..5),
        vec(0x0300..0x0305u16, 0..5),
        any::<bool>(),
    )
        .prop_map(|(name, alpn, versions, ech)| Offer {
            name,
            alpn,
            versions,
            ech,
        })
}

impl Offer {
    fn extensions(&self) -> Vec<(u16, Vec<u8>)> {
        let mut extensions = Vec::new();
        if let Some(name) = &self.name {
            extensions.push((SERVER_NAME, server_name(&[(0, name.as_bytes())])));
        }
        if !self.alpn.is_empty() {
            let protocols: Vec<_> = self.alpn.iter().map(Vec::as_slice).collect();
            extensions.push((ALPN, alpn(&protocols)));
        }
        if !self.versions.is_empty() {
            let mut with_grease = self.versions.clone();
            with_grease.insert(0, 0xbaba);
            extensions.push((SUPPORTED_VERSIONS, supported_versions(&with_grease)));
        }
        if self.ech {
            extensions.push((ECH, outer_ech()));
        }
        extensions
    }

    fn hello(&self) -> Hello {
        Hello {
            server_name: self
                .name
                .as_ref()
                .map(|name| name.to_ascii_lowercase().parse().unwrap()),
            alpn: self.alpn.clone(),
            versions: match self.versions.is_empty() {
                true => vec![0x0303],
                false => self.versions.clone(),
            },
            ech: self.ech,
            ja4: None,
            size: 0,
        }
    }
}

/// Something that happens to bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    /// Takes the first record header off and cuts the rest into records of these lengths.
    Record(Vec<usize>),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), 1..8usize).prop_map(|(at, len)| Change::Remove(at, len)),
        (any::<Index>(), vec(any::<u8>(), 1..8)).prop_map(|(at, new)| Change::Insert(at, new)),
        vec(1..400usize, 1..5).prop_map(Change::Record),
    ]
}

impl Change {
    fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self {
            _ if bytes.is_empty() => {}
            Self::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Remove(at, len) => {
                let start = at.index(bytes.len());
                bytes.drain(start..bytes.len().min(start + len));
            }
            Self::Insert(at, new) => {
                let start = at.index(bytes.len());
                bytes.splice(start..start, new.iter().copied());
            }
            Self::Record(records) => {
                let mut records = records.iter().cycle().copied();
                let content = bytes.get(5..).unwrap_or_default();
                bytes = in_records_of(content, || records.next().unwrap());
            }
        }
        bytes
    }
}

/// A stream that starts with a real hello. Shown by its name, for bytes fill screens.
#[derive(Clone)]
struct Capture {
    name: String,
    stream: Vec<u8>,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn captures() -> Vec<Capture> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/hello");
    let mut captures: Vec<_> = fs::read_dir(directory)
        .expect("the corpus is there")
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .map(|path| Capture {
            name: path.display().to_string(),
            stream: fs::read(&path).unwrap(),
        })
        .collect();
    captures.sort_by(|a, b| a.name.cmp(&b.name));
    captures
}

fn hello(stream: &[u8]) -> Hello {
    match HelloReader::new(DEFAULT_MAX_SIZE).advance(stream) {
        Progress::Hello(hello) => hello,
        other => panic!("{other:?}"),
    }
}
