//! The ClientHello reader, contents: what a whole hello says, and when it is refused.

use std::collections::HashSet;

use sni_router_core::hello::{DEFAULT_MAX_SIZE, Hello, HelloReader, MalformedReason, Progress};

use hello_support::{
    ALPN, Draft, ECH, SERVER_NAME, SUPPORTED_VERSIONS, alpn, handshake, in_records, outer_ech,
    server_name, supported_versions, vector8, vector16,
};

mod hello_support;

#[test]
fn hello_without_extensions_has_no_name_and_its_legacy_version() {
    let mut draft = Draft::new(vec![]);
    draft.legacy_version = 0x0301;
    let empty = read(&draft).unwrap();
    draft.extensions = None;
    let none = read(&draft).unwrap();
    for hello in [empty, none] {
        assert_eq!(hello.server_name, None);
        assert_eq!(hello.alpn, Vec::<Vec<u8>>::new());
        assert_eq!(hello.versions, [0x0301]);
        assert!(!hello.ech);
    }
}

#[test]
fn hello_is_malformed_when_its_fixed_part_does_not_add_up() {
    let good = Draft::named("www.example.com");
    let mut no_suites = good.clone();
    no_suites.cipher_suites.clear();
    let mut odd_suites = good.clone();
    odd_suites.cipher_suites.push(0);
    let mut no_compression = good.clone();
    no_compression.compression_methods.clear();
    let mut long_session = good.clone();
    long_session.session_id.push(0);
    for draft in [no_suites, odd_suites, no_compression, long_session] {
        assert_eq!(read(&draft), Err(MalformedReason::Body), "{draft:?}");
    }
}

#[test]
fn hello_is_malformed_when_cut_short_or_continued_inside_its_message() {
    let body = Draft::named("www.example.com").body();
    let without_extensions = {
        let mut draft = Draft::named("www.example.com");
        draft.extensions = None;
        draft.body().len()
    };
    for len in 0..body.len() {
        let cut = read_body(&body[..len]);
        match len == without_extensions {
            true => assert_eq!(cut.unwrap().server_name, None),
            false => assert_eq!(cut, Err(MalformedReason::Body), "{len}"),
        }
    }
    let longer = [&body[..], &[0]].concat();
    assert_eq!(read_body(&longer), Err(MalformedReason::Body));
}

#[test]
fn extensions_are_malformed_when_one_runs_past_the_end() {
    let mut body = Draft::named("www.example.com").body();
    let extension_len = body.len() - server_name(&[(0, b"www.example.com")]).len() - 1;
    body[extension_len] += 1;
    assert_eq!(read_body(&body), Err(MalformedReason::Extensions));

    let mut draft = Draft::named("www.example.com");
    draft.extensions = None;
    for block in [&[0][..], &[0, 0], &[0, 0, 0], &[0, 23, 0, 1]] {
        let body = [&draft.body()[..], &vector16(block)].concat();
        assert_eq!(
            read_body(&body),
            Err(MalformedReason::Extensions),
            "{block:?}"
        );
    }
}

#[test]
fn extension_is_malformed_when_there_twice() {
    for kind in [SERVER_NAME, 10, ALPN, 43, 63, 64, 0x0a0a, ECH, 0xffff] {
        let data = match kind {
            SERVER_NAME => server_name(&[(0, b"www.example.com")]),
            ALPN => alpn(&[b"h2"]),
            SUPPORTED_VERSIONS => supported_versions(&[0x0304]),
            ECH => outer_ech(),
            _ => vec![],
        };
        let between = (23, vec![]);
        let twice = Draft::new(vec![(kind, data.clone()), between, (kind, data)]);
        assert_eq!(
            read(&twice),
            Err(MalformedReason::DuplicateExtension),
            "{kind:#06x}"
        );
    }
    let grease = Draft::new(vec![(0x0a0a, vec![]), (0x1a1a, vec![0])]);
    assert!(read(&grease).is_ok());
}

#[test]
fn server_name_is_malformed_when_not_a_list_with_one_host_name() {
    use MalformedReason::*;
    for (data, reason) in [
        (vec![], ServerNameList),
        (vec![0], ServerNameList),
        (server_name(&[]), ServerNameList),
        (vector16(&[0]), ServerNameList),
        (vector16(&[0, 0, 5, b'a']), ServerNameList),
        (
            [server_name(&[(0, b"a.test")]), vec![0]].concat(),
            ServerNameList,
        ),
        (server_name(&[(1, b"a.test")]), ServerNameList),
        (
            server_name(&[(0, b"a.test"), (0, b"a.test")]),
            DuplicateServerName,
        ),
        (
            server_name(&[(0, b"a.test"), (0, b"b.test")]),
            DuplicateServerName,
        ),
        (
            server_name(&[(9, b"x"), (9, b"y"), (0, b"a.test")]),
            DuplicateServerName,
        ),
        (server_name(&[(0, b"")]), EmptyServerName),
        (server_name(&[(0, b".")]), EmptyServerName),
        (server_name(&[(0, b"192.0.2.1")]), IpServerName),
        (server_name(&[(0, b"2001:db8::1")]), IpServerName),
        (server_name(&[(0, b"[2001:db8::1]")]), IpServerName),
        (server_name(&[(0, b"www.example.com\0")]), BadServerName),
        (server_name(&[(0, b"good.test\0.evil.test")]), BadServerName),
        (server_name(&[(0, b"*.example.com")]), BadServerName),
        (server_name(&[(0, b"a..test")]), BadServerName),
        (server_name(&[(0, b".a.test")]), BadServerName),
        (server_name(&[(0, b"a.test..")]), BadServerName),
        (server_name(&[(0, b"-a.test")]), BadServerName),
        (server_name(&[(0, b"a b.test")]), BadServerName),
        (
            server_name(&[(0, "b\u{fc}cher.test".as_bytes())]),
            BadServerName,
        ),
        (server_name(&[(0, b"\xff\xfe.test")]), BadServerName),
        (
            server_name(&[(0, "a".repeat(64).as_bytes())]),
            BadServerName,
        ),
        (
            server_name(&[(0, "a.".repeat(128).as_bytes())]),
            BadServerName,
        ),
        (server_name(&[(0, &[b'a'; 65_000])]), BadServerName),
    ] {
        let draft = Draft::new(vec![(SERVER_NAME, data.clone())]);
        assert_eq!(read(&draft), Err(reason), "{}", data.escape_ascii());
    }
}

#[test]
fn server_name_is_canonical_when_usable() {
    for (names, expected) in [
        (&[(0, &b"WWW.Example.COM"[..])][..], "www.example.com"),
        (&[(0, b"www.example.com.")], "www.example.com"),
        (&[(0, b"localhost")], "localhost"),
        (&[(0, b"xn--bcher-kva.example")], "xn--bcher-kva.example"),
        (&[(0, b"_service.example.com")], "_service.example.com"),
        // Types that nobody has defined yet are skipped by their length.
        (&[(1, b"\0\xff"), (0, b"a.test"), (255, b"")], "a.test"),
    ] {
        let draft = Draft::new(vec![(SERVER_NAME, server_name(names))]);
        assert_eq!(
            read(&draft).unwrap().server_name.unwrap().as_str(),
            expected
        );
    }
}

#[test]
fn alpn_is_in_the_clients_order_and_printable() {
    let draft = Draft::new(vec![(ALPN, alpn(&[b"h2", b"http/1.1", b"\x0a\xff\""]))]);
    let hello = read(&draft).unwrap();
    assert_eq!(hello.alpn, [&b"h2"[..], b"http/1.1", b"\x0a\xff\""]);
    let names: Vec<_> = hello.alpn_names().collect();
    assert_eq!(names, ["h2", "http/1.1", r#"\n\xff\""#]);
}

#[test]
fn alpn_is_malformed_when_its_list_is() {
    for data in [
        vec![],
        vec![0],
        alpn(&[]),
        alpn(&[b""]),
        alpn(&[b"h2", b""]),
        vector16(&[3, b'h', b'2']),
        [alpn(&[b"h2"]), vec![0]].concat(),
        [&[0, 9][..], b"\x02h2"].concat(),
    ] {
        let draft = Draft::new(vec![(ALPN, data.clone())]);
        assert_eq!(read(&draft), Err(MalformedReason::Alpn), "{data:?}");
    }
}

#[test]
fn versions_are_those_of_supported_versions_without_grease() {
    for (offered, expected) in [
        (&[0x0304, 0x0303][..], &[0x0304, 0x0303][..]),
        (&[0x0303, 0x0304], &[0x0303, 0x0304]),
        (&[0x7a7a, 0x0304, 0xfafa, 0x0a0a], &[0x0304]),
        (&[0x0a1a, 0x7f1c, 0x0305], &[0x0a1a, 0x7f1c, 0x0305]),
        // The extension is there, so legacy_version does not count (RFC 8446, 4.2.1).
        (&[0x1a1a], &[]),
    ] {
        let draft = Draft::new(vec![(SUPPORTED_VERSIONS, supported_versions(offered))]);
        assert_eq!(read(&draft).unwrap().versions, expected);
    }
}

#[test]
fn supported_versions_is_malformed_when_its_list_is() {
    for data in [
        vec![],
        vector8(&[]),
        vector8(&[3]),
        vector8(&[3, 4, 3]),
        vec![4, 3, 4],
        vec![2, 3, 4, 3, 3],
    ] {
        let draft = Draft::new(vec![(SUPPORTED_VERSIONS, data.clone())]);
        assert_eq!(
            read(&draft),
            Err(MalformedReason::SupportedVersions),
            "{data:?}"
        );
    }
}

#[test]
fn ech_is_told_when_outer_and_not_when_inner() {
    let name = (SERVER_NAME, server_name(&[(0, b"public.example")]));
    let outer = read(&Draft::new(vec![name.clone(), (ECH, outer_ech())])).unwrap();
    assert!(outer.ech);
    assert_eq!(outer.server_name.unwrap().as_str(), "public.example");
    let inner = read(&Draft::new(vec![name, (ECH, vec![1])])).unwrap();
    assert!(!inner.ech);
}

#[test]
fn ech_is_malformed_when_its_lengths_or_type_are() {
    let outer = outer_ech();
    let longer = [&outer[..], &[0]].concat();
    let no_payload = [&[0, 0, 1, 0, 1, 9][..], &vector16(&[1; 32]), &vector16(&[])].concat();
    let mut cases = vec![vec![2], vec![1, 0], longer, no_payload];
    cases.extend((0..outer.len()).map(|len| outer[..len].to_vec()));
    for data in cases {
        let draft = Draft::new(vec![(ECH, data.clone())]);
        assert_eq!(read(&draft), Err(MalformedReason::Ech), "{data:02x?}");
    }
}

#[test]
fn extensions_that_routing_does_not_need_may_hold_anything() {
    // Contents that tls-parser's own readers of these extensions fail on.
    for kind in [
        1, 5, 10, 11, 13, 15, 22, 23, 28, 41, 42, 44, 45, 48, 49, 51, 13172, 0xffce,
    ] {
        let mut draft = Draft::named("www.example.com");
        draft.extensions.as_mut().unwrap().push((kind, vec![0xff]));
        assert_eq!(
            read(&draft).unwrap().server_name.unwrap().as_str(),
            "www.example.com"
        );
    }
}

#[test]
fn hello_full_of_extensions_is_read() {
    let many = (1000..17_000).map(|kind| (kind, vec![])).collect();
    assert!(read(&Draft::new(many)).is_ok());
    let mut twice: Vec<_> = (1000..17_000).map(|kind| (kind, vec![])).collect();
    twice.push((1000, vec![]));
    assert_eq!(
        read(&Draft::new(twice)),
        Err(MalformedReason::DuplicateExtension)
    );
}

#[test]
fn reasons_have_labels_of_their_own() {
    use MalformedReason::*;
    let reasons = [
        RecordType,
        RecordVersion,
        EmptyRecord,
        RecordTooLong,
        NotClientHello,
        TrailingData,
        Body,
        Extensions,
        DuplicateExtension,
        ServerNameList,
        DuplicateServerName,
        EmptyServerName,
        IpServerName,
        BadServerName,
        Alpn,
        SupportedVersions,
        Ech,
    ];
    let labels: HashSet<_> = reasons.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(labels.len(), reasons.len());
    for label in labels {
        assert!(
            label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{label}"
        );
    }
}

fn read(draft: &Draft) -> Result<Hello, MalformedReason> {
    read_body(&draft.body())
}

fn read_body(body: &[u8]) -> Result<Hello, MalformedReason> {
    // Larger than usual, so that no list is too long for it.
    let stream = in_records(&handshake(1, body));
    match HelloReader::new(4 * DEFAULT_MAX_SIZE).advance(&stream) {
        Progress::Hello(hello) => {
            assert_eq!(hello.size, stream.len());
            Ok(hello)
        }
        Progress::Malformed(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}
