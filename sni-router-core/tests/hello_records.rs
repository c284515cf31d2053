//! The ClientHello reader, record layer: when it knows what, and where the hello ends.

use sni_router_core::hello::{DEFAULT_MAX_SIZE, Hello, HelloReader, MalformedReason, Progress};

use hello_support::{Draft, handshake, in_records, in_records_of, record};

mod hello_support;

#[test]
fn hello_in_one_record_is_read_with_its_size() {
    let stream = Draft::named("www.Example.COM.").stream();
    let hello = hello(&stream);
    assert_eq!(hello.server_name.unwrap().as_str(), "www.example.com");
    assert_eq!(hello.size, stream.len());
}

#[test]
fn hello_is_complete_with_its_last_byte_and_not_before() {
    let stream = Draft::named("www.example.com").stream();
    let mut reader = HelloReader::new(DEFAULT_MAX_SIZE);
    for received in 0..stream.len() {
        assert_eq!(
            reader.advance(&stream[..received]),
            Progress::NeedMore,
            "{received}"
        );
    }
    assert!(matches!(reader.advance(&stream), Progress::Hello(_)));
}

#[test]
fn hello_is_read_when_records_have_one_byte_each() {
    let draft = Draft::named("www.example.com");
    let stream = in_records_of(&draft.handshake(), || 1);
    assert_eq!(stream.len(), draft.handshake().len() * 6);
    let split = hello(&stream);
    assert_eq!(split.size, stream.len());
    let size = draft.stream().len();
    assert_eq!(Hello { size, ..split }, hello(&draft.stream()));
}

#[test]
fn hello_of_the_largest_size_is_read_and_of_one_more_byte_refused() {
    let stream = Draft::padded("www.example.com", DEFAULT_MAX_SIZE).stream();
    assert_eq!(hello(&stream).size, DEFAULT_MAX_SIZE);
    let stream = Draft::padded("www.example.com", DEFAULT_MAX_SIZE + 1).stream();
    assert_eq!(read(&stream), Progress::TooLarge);
}

#[test]
fn hello_too_large_is_refused_when_its_length_is_known() {
    let stream = Draft::padded("www.example.com", DEFAULT_MAX_SIZE + 1).stream();
    assert_eq!(read(&stream[..8]), Progress::NeedMore);
    assert_eq!(read(&stream[..9]), Progress::TooLarge);
    // Small enough, but every byte of it has five of header.
    let tiny = in_records_of(&Draft::padded("www.example.com", 20_000).handshake(), || 1);
    assert_eq!(read(&tiny), Progress::TooLarge);
}

#[test]
fn limit_too_small_for_any_hello_is_too_large_at_once() {
    let stream = Draft::named("www.example.com").stream();
    for max_size in 0..9 {
        assert_eq!(
            HelloReader::new(max_size).advance(&stream),
            Progress::TooLarge,
            "{max_size}"
        );
    }
}

#[test]
fn bytes_after_the_hello_are_left_alone_when_in_records_of_their_own() {
    let stream = Draft::named("www.example.com").stream();
    let early_data = [&stream[..], &[20, 3, 3, 0, 1, 1], &[23, 3, 3, 0, 2, 9, 9]].concat();
    assert_eq!(read(&early_data), read(&stream));
    let noise = [&stream[..], b"\0\0\0not a record"].concat();
    assert_eq!(read(&noise), read(&stream));
}

#[test]
fn record_that_goes_on_after_the_hello_is_malformed_when_the_lengths_show_it() {
    let hello = Draft::named("www.example.com").handshake();
    let next = handshake(16, b"client key exchange");
    let stream = record(&[&hello[..], &next].concat());
    assert_eq!(read(&stream[..8]), Progress::NeedMore);
    assert_eq!(malformed(&stream[..9]), MalformedReason::TrailingData);
    assert_eq!(malformed(&stream), MalformedReason::TrailingData);

    let (start, end) = hello.split_at(20);
    let second = [record(start), record(&[end, &next].concat())].concat();
    assert_eq!(malformed(&second), MalformedReason::TrailingData);
}

#[test]
fn stream_is_not_tls_as_soon_as_a_byte_shows_it() {
    for (stream, decisive) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], 1),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 1),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n", 1),
        // An SSLv2 CLIENT-HELLO, in the form old clients offered SSLv3 with.
        (&[0x80, 0x2e, 0x01, 0x03, 0x00, 0x00, 0x15], 1),
        // An alert, and application data, before anything else.
        (&[21, 3, 1, 0, 2, 2, 40], 1),
        (&[23, 3, 3, 0, 1, 0], 1),
        // DTLS 1.2.
        (&[22, 0xfe, 0xfd, 0, 0], 2),
        (&[22, 2, 0, 0, 9], 2),
    ] {
        let before = &stream[..decisive - 1];
        assert_eq!(read(before), Progress::NeedMore, "{before:02x?}");
        assert_eq!(read(&stream[..decisive]), Progress::NotTls, "{stream:02x?}");
        assert_eq!(read(stream), Progress::NotTls, "{stream:02x?}");
    }
}

#[test]
fn record_version_is_ignored_but_for_its_first_byte() {
    let draft = Draft::named("www.example.com");
    for minor in [0, 1, 2, 3, 4, 0xff] {
        let mut stream = draft.stream();
        stream[2] = minor;
        assert_eq!(read(&stream), read(&draft.stream()));
    }
}

#[test]
fn record_is_malformed_when_empty_or_too_long() {
    assert_eq!(malformed(&[22, 3, 1, 0, 0]), MalformedReason::EmptyRecord);
    assert_eq!(
        malformed(&[22, 3, 1, 0x40, 1]),
        MalformedReason::RecordTooLong
    );
    assert_eq!(read(&[22, 3, 1, 0x40, 0]), Progress::NeedMore);

    let hello = Draft::named("www.example.com").handshake();
    let start = record(&hello[..10]);
    let empty = [&start[..], &record(&[]), &record(&hello[10..])].concat();
    assert_eq!(malformed(&empty), MalformedReason::EmptyRecord);
    let long = [&start[..], &[22, 3, 1, 0xff, 0xff]].concat();
    assert_eq!(malformed(&long), MalformedReason::RecordTooLong);
}

#[test]
fn record_of_another_type_inside_the_hello_is_malformed() {
    let hello = Draft::named("www.example.com").handshake();
    for (other, reason) in [
        (&[21, 3, 1, 0, 2, 1, 0][..], MalformedReason::RecordType),
        (&[20, 3, 1, 0, 1, 1], MalformedReason::RecordType),
        (&[23], MalformedReason::RecordType),
        (&[22, 2], MalformedReason::RecordVersion),
    ] {
        let stream = [&record(&hello[..10])[..], other, &record(&hello[10..])].concat();
        assert_eq!(malformed(&stream), reason, "{other:?}");
    }
}

#[test]
fn handshake_of_another_type_is_malformed_with_its_first_byte() {
    let server_hello = in_records(&handshake(2, &[0; 40]));
    assert_eq!(read(&server_hello[..5]), Progress::NeedMore);
    assert_eq!(
        malformed(&server_hello[..6]),
        MalformedReason::NotClientHello
    );
    assert_eq!(malformed(&server_hello), MalformedReason::NotClientHello);
}

#[test]
fn final_answer_stays_when_asked_again() {
    let draft = Draft::named("www.example.com");
    for stream in [
        draft.stream(),
        in_records_of(&draft.handshake(), || 3),
        b"HTTP".to_vec(),
    ] {
        let mut reader = HelloReader::new(DEFAULT_MAX_SIZE);
        let answer = reader.advance(&stream);
        assert_ne!(answer, Progress::NeedMore);
        assert_eq!(reader.advance(&stream), answer);
        assert_eq!(reader.advance(&[&stream[..], b"more"].concat()), answer);
    }
}

fn read(stream: &[u8]) -> Progress {
    HelloReader::new(DEFAULT_MAX_SIZE).advance(stream)
}

fn hello(stream: &[u8]) -> Hello {
    match read(stream) {
        Progress::Hello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

fn malformed(stream: &[u8]) -> MalformedReason {
    match read(stream) {
        Progress::Malformed(reason) => reason,
        other => panic!("{other:?}"),
    }
}
