//! JA4 fingerprints of ClientHellos. What real clients have is in `hello_corpus.rs`.

use sni_router_core::hello::{DEFAULT_MAX_SIZE, HelloReader, Ja4, Progress};

use hello_support::{
    ALPN, Draft, SERVER_NAME, SUPPORTED_VERSIONS, alpn, server_name, supported_versions, vector16,
};

mod hello_support;

const SIGNATURE_ALGORITHMS: u16 = 13;

/// FoxIO's own examples: the fingerprint, the first protocol, and what it is made of in the
/// client's order (JA4_ro). The first is that of the specification, the others are clients in
/// packet captures of the repository: LibreSSL, Schannel, Safari, one without any extension but
/// the name.
const EXAMPLES: [(&str, &str, &str); 5] = [
    (
        "t13d1516h2_8daaf6152771_e5627efa2ab1",
        "h2",
        "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035_\
         001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015_\
         0403,0804,0401,0503,0805,0501,0806,0601",
    ),
    (
        "t12d4605h2_85626a9a5f7f_aaf95bb78ec9",
        "h2",
        "c030,c02c,c028,c024,c014,c00a,009f,006b,0039,cca9,cca8,ccaa,ff85,00c4,0088,0081,009d,\
         003d,0035,00c0,0084,c02f,c02b,c027,c023,c013,c009,009e,0067,0033,00be,0045,009c,003c,\
         002f,00ba,0041,c011,c007,0005,0004,c012,c008,0016,000a,00ff_\
         0000,000b,000a,000d,0010_\
         0601,0603,efef,0501,0503,0401,0403,eeee,eded,0301,0303,0201,0203",
    ),
    (
        "t12d190800_d83cc789557e_7af1ed941c26",
        "",
        "c02c,c02b,c030,c02f,c024,c023,c028,c027,c00a,c009,c014,c013,009d,009c,003d,003c,0035,\
         002f,000a_0000,0005,000a,000b,000d,0023,0017,ff01_\
         0804,0805,0806,0401,0501,0201,0403,0503,0203,0202,0601,0603",
    ),
    (
        "t13d2613h2_2802a3db6c62_845d286b0d67",
        "h2",
        "1301,1302,1303,c02c,c02b,c024,c023,c00a,c009,cca9,c030,c02f,c028,c027,c014,c013,cca8,\
         009d,009c,003d,003c,0035,002f,c008,c012,000a_\
         ff01,0000,0017,000d,0005,0012,0010,000b,0033,002d,002b,000a,0015_\
         0403,0804,0401,0503,0203,0805,0805,0501,0806,0601,0201",
    ),
    (
        "t10d230100_6a57a6f57151_000000000000",
        "",
        "0039,0038,0035,0016,0013,000a,0033,0032,002f,009a,0099,0096,0005,0004,0015,0012,0009,\
         0014,0011,0008,0006,0003,00ff_0000",
    ),
];

/// What GREASE looks like among numbers of 16 bits (RFC 8701, 2).
const GREASE: [u16; 3] = [0x0a0a, 0x7a7a, 0xfafa];

#[test]
fn published_examples_have_their_published_fingerprints() {
    for (expected, protocol, offered) in EXAMPLES {
        assert_eq!(ja4(&example(expected, protocol, offered)), expected);
    }
}

#[test]
fn published_examples_have_the_same_fingerprint_with_grease_everywhere() {
    for (expected, protocol, offered) in EXAMPLES {
        let mut draft = example(expected, protocol, offered);
        let grease = GREASE.map(u16::to_be_bytes).concat();
        draft.cipher_suites.splice(2..2, grease.clone());
        let extensions = draft.extensions.as_mut().unwrap();
        for (kind, data) in extensions.iter_mut() {
            match *kind {
                SIGNATURE_ALGORITHMS => *data = vector16(&[&data[2..], &grease].concat()),
                SUPPORTED_VERSIONS => *data = supported_versions(&[0xfafa, 0x0303, 0x0304]),
                ALPN => *data = alpn(&[b"\xba\xba", protocol.as_bytes()]),
                _ => {}
            }
        }
        extensions.insert(0, (0x0a0a, vec![]));
        extensions.push((0xfafa, vec![0]));
        assert_eq!(ja4(&draft), expected);
    }
}

#[test]
fn version_is_the_highest_offered_or_unknown() {
    for (versions, expected) in [
        (&[0x0303, 0x0304, 0x0301][..], "13"),
        (&[0x0303], "12"),
        (&[0x0302, 0x0301], "11"),
        (&[0x0301, 0x0300], "10"),
        (&[0x0300], "s3"),
        (&[0x0002], "s2"),
        (&[0xfeff], "d1"),
        (&[0xfefd], "d2"),
        (&[0xfefc], "d3"),
        (&[0x0305, 0x0304], "00"),
        (&[0x7a7a], "00"),
    ] {
        let versions = supported_versions(versions);
        let draft = Draft::new(vec![(SUPPORTED_VERSIONS, versions)]);
        assert_eq!(&ja4(&draft)[1..3], expected);
    }
    let mut draft = Draft::new(vec![]);
    for (legacy_version, expected) in [(0x0301, "10"), (0x0304, "13"), (0x1234, "00")] {
        draft.legacy_version = legacy_version;
        assert_eq!(&ja4(&draft)[1..3], expected);
    }
}

#[test]
fn name_is_said_to_be_there_or_not() {
    assert_eq!(&ja4(&Draft::named("www.example.com"))[3..4], "d");
    assert_eq!(&ja4(&Draft::new(vec![]))[3..4], "i");
}

#[test]
fn counts_leave_grease_out_and_end_at_99() {
    let with = |suites: u16, extensions: u16| {
        let mut draft = Draft::new((0..extensions).map(|n| (100 + n, vec![])).collect());
        let suites = GREASE.into_iter().chain(0x1000..0x1000 + suites);
        draft.cipher_suites = suites.flat_map(u16::to_be_bytes).collect();
        draft.extensions.as_mut().unwrap().push((0x1a1a, vec![]));
        ja4(&draft)[4..8].to_owned()
    };
    assert_eq!(with(0, 0), "0000");
    assert_eq!(with(6, 7), "0607");
    assert_eq!(with(99, 99), "9999");
    assert_eq!(with(100, 100), "9999");
    assert_eq!(with(500, 500), "9999");
}

/// Sorting and hashing the longest lists would cost a hundred times what reading them does.
#[test]
fn hello_with_a_list_longer_than_any_clients_has_no_fingerprint() {
    let named = || Draft::named("www.example.com");
    let numbers = |count: u16| (0..count).flat_map(|n| (0x1000 + n).to_be_bytes());
    let with_suites = |count| {
        let mut draft = named();
        draft.cipher_suites = numbers(count).collect();
        draft
    };
    let with_extensions = |count| {
        let mut draft = named();
        let more = (1..count).map(|n| (100 + n, vec![]));
        draft.extensions.as_mut().unwrap().extend(more);
        draft
    };
    let with_signatures = |count| {
        let mut draft = named();
        let list = vector16(&numbers(count).collect::<Vec<_>>());
        let extensions = draft.extensions.as_mut().unwrap();
        extensions.push((SIGNATURE_ALGORITHMS, list));
        draft
    };
    for draft in [with_suites(512), with_extensions(512), with_signatures(512)] {
        assert!(fingerprint(&draft).is_some());
    }
    for draft in [with_suites(513), with_extensions(513), with_signatures(513)] {
        assert!(fingerprint(&draft).is_none());
    }
}

/// The examples of the specification, and its rule for one character.
#[test]
fn protocol_is_told_by_its_ends_or_by_those_of_its_digits() {
    for (protocol, expected) in [
        (&b"h2"[..], "h2"),
        (b"http/1.1", "h1"),
        (b"a", "aa"),
        (b"\xab", "ab"),
        (b"\x20", "20"),
        (b"\xab\xcd", "ad"),
        (b"\x20\x61", "21"),
        (b"\x30\xab", "3b"),
        (b"\x61\x20", "60"),
        (b"\x30\x31\xab\xcd", "3d"),
        (b"\x30\xab\xcd\x31", "01"),
        (b"\x0a\x0a\x0a", "0a"),
    ] {
        let draft = Draft::new(vec![(ALPN, alpn(&[protocol, b"http/1.1"]))]);
        assert_eq!(&ja4(&draft)[8..10], expected, "{protocol:x?}");
    }
    assert_eq!(&ja4(&Draft::new(vec![]))[8..10], "00");
    let grease_alone = Draft::new(vec![(ALPN, alpn(&[b"\x5a\x5a"]))]);
    assert_eq!(&ja4(&grease_alone)[8..10], "00");
}

/// Zeros, not the hash of nothing.
#[test]
fn hash_of_an_empty_list_is_zeros() {
    const ZEROS: &str = "000000000000";
    let mut draft = Draft::new(vec![
        (SERVER_NAME, server_name(&[(0, b"www.example.com")])),
        (ALPN, alpn(&[b"h2"])),
        (0x0a0a, vec![]),
    ]);
    draft.cipher_suites = GREASE.map(u16::to_be_bytes).concat();
    assert_eq!(ja4(&draft), format!("t12d0002h2_{ZEROS}_{ZEROS}"));
    draft.extensions = None;
    assert_eq!(ja4(&draft), format!("t12i000000_{ZEROS}_{ZEROS}"));
}

#[test]
fn last_hash_is_without_an_underscore_when_there_is_no_signature_algorithm() {
    // The specification's own: the extensions of its example and nothing behind them.
    let kinds = [
        0x0005, 0x000a, 0x000b, 0x000d, 0x0012, 0x0015, 0x0017, 0x001b, 0x0023, 0x002b, 0x002d,
        0x0033, 0x4469, 0xff01,
    ];
    let list_of = |data: &[u8]| {
        let data_of = |kind| match kind {
            SIGNATURE_ALGORITHMS => data.to_vec(),
            SUPPORTED_VERSIONS => supported_versions(&[0x0304]),
            _ => vec![],
        };
        let draft = Draft::new(kinds.map(|kind| (kind, data_of(kind))).to_vec());
        ja4(&draft)[24..].to_owned()
    };
    assert_eq!(list_of(&[0, 0]), "6d807ffa2a79");
    // What does not add up is the endpoint's to refuse, and counts as nothing.
    for wrong in [
        &[][..],
        &[0],
        &[0, 1, 4],
        &[0, 3, 4, 3, 8],
        &[0, 2, 4, 3, 8],
        &[0, 9, 4, 3],
    ] {
        assert_eq!(list_of(wrong), "6d807ffa2a79", "{wrong:?}");
    }
    assert_ne!(list_of(&[0, 2, 4, 3]), "6d807ffa2a79");
}

#[test]
fn nothing_is_fingerprinted_unless_it_is_asked_for() {
    let stream = Draft::named("www.example.com").stream();
    let progress = HelloReader::new(DEFAULT_MAX_SIZE).advance(&stream);
    assert!(matches!(progress, Progress::Hello(hello) if hello.ja4.is_none()));
}

/// A hello that offers this, with the version that its fingerprint begins with.
fn example(fingerprint: &str, protocol: &str, offered: &str) -> Draft {
    let mut lists = offered.split('_').map(numbers);
    let mut list = || lists.next().unwrap_or_default();
    let (suites, kinds, algorithms) = (list(), list(), list());
    let version = 0x0301 + u16::from_str_radix(&fingerprint[2..3], 16).unwrap();
    let bytes = |list: Vec<u16>| {
        list.into_iter()
            .flat_map(u16::to_be_bytes)
            .collect::<Vec<_>>()
    };
    let algorithms = vector16(&bytes(algorithms));
    let extensions = kinds.into_iter().map(|kind| {
        let data = match kind {
            SERVER_NAME => server_name(&[(0, b"www.example.com")]),
            ALPN => alpn(&[protocol.as_bytes(), b"http/1.1"]),
            SIGNATURE_ALGORITHMS => algorithms.clone(),
            SUPPORTED_VERSIONS => supported_versions(&[version, 0x0303]),
            _ => vec![0; 4],
        };
        (kind, data)
    });
    let mut draft = Draft::new(extensions.collect());
    draft.legacy_version = version.min(0x0303);
    draft.cipher_suites = bytes(suites);
    draft
}

fn numbers(list: &str) -> Vec<u16> {
    list.split(',')
        .map(|number| u16::from_str_radix(number, 16).unwrap())
        .collect()
}

fn ja4(draft: &Draft) -> String {
    fingerprint(draft).expect("it was asked for").to_string()
}

fn fingerprint(draft: &Draft) -> Option<Ja4> {
    let stream = draft.stream();
    let mut reader = HelloReader::new(4 * DEFAULT_MAX_SIZE).with_ja4(true);
    match reader.advance(&stream) {
        Progress::Hello(hello) => hello.ja4,
        other => panic!("{other:?}"),
    }
}
