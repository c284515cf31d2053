//! How long a ClientHello takes to read, once it is there and while it drips in.
//!
//! `cargo bench -p sni-router-core --bench hello`

use divan::{Bencher, black_box};
use sni_router_core::hello::{DEFAULT_MAX_SIZE, HelloReader, Progress};

use hello_support::{Draft, in_records_of};

#[path = "../tests/hello_support/mod.rs"]
mod hello_support;

const OPENSSL: &[u8] = include_bytes!("../../fuzz/corpus/hello/openssl-alpn.bin");
const CHROMIUM: &[u8] = include_bytes!("../../fuzz/corpus/hello/chromium.bin");

fn main() {
    divan::main();
}

#[divan::bench]
fn openssl(bencher: Bencher<'_, '_>) {
    read(bencher, OPENSSL);
}

#[divan::bench]
fn chromium_post_quantum(bencher: Bencher<'_, '_>) {
    read(bencher, CHROMIUM);
}

#[divan::bench]
fn openssl_with_ja4(bencher: Bencher<'_, '_>) {
    fingerprint(bencher, OPENSSL);
}

#[divan::bench]
fn chromium_post_quantum_with_ja4(bencher: Bencher<'_, '_>) {
    fingerprint(bencher, CHROMIUM);
}

/// As many cipher suites as are fingerprinted, in an order that no sorting can guess.
#[divan::bench]
fn cipher_suites_512_with_ja4(bencher: Bencher<'_, '_>) {
    fingerprint(bencher, &with_suites(512));
}

/// As many as fit: too many to be fingerprinted.
#[divan::bench]
fn cipher_suites_32000_with_ja4(bencher: Bencher<'_, '_>) {
    fingerprint(bencher, &with_suites(32_000));
}

/// Four full records, put together before they are read.
#[divan::bench]
fn padded_to_64_kib(bencher: Bencher<'_, '_>) {
    read(
        bencher,
        &Draft::padded("www.example.com", DEFAULT_MAX_SIZE).stream(),
    );
}

/// Chromium's handshake, each byte of it in a record of its own: 12 KiB.
#[divan::bench]
fn chromium_in_records_of_one_byte(bencher: Bencher<'_, '_>) {
    read(bencher, &in_records_of(&CHROMIUM[5..], || 1));
}

/// One record, every byte of it shown to the reader on its own: 1,987 calls.
#[divan::bench]
fn chromium_dripped(bencher: Bencher<'_, '_>) {
    drip(bencher, CHROMIUM);
}

/// The largest stream in the smallest records, a byte at a time: 65,532 calls.
#[divan::bench]
fn largest_in_records_of_one_byte_dripped(bencher: Bencher<'_, '_>) {
    let handshake = Draft::padded("www.example.com", DEFAULT_MAX_SIZE / 6 + 5).handshake();
    drip(bencher, &in_records_of(&handshake, || 1));
}

fn fingerprint(bencher: Bencher<'_, '_>, stream: &[u8]) {
    let reader = || HelloReader::new(DEFAULT_MAX_SIZE).with_ja4(true);
    bencher
        .counter(divan::counter::BytesCount::of_slice(stream))
        .bench(|| reader().advance(black_box(stream)));
}

fn with_suites(count: u16) -> Vec<u8> {
    let mut draft = Draft::named("www.example.com");
    let suites = (0..count).map(|n| n.wrapping_mul(40_503));
    draft.cipher_suites = suites.flat_map(u16::to_be_bytes).collect();
    draft.stream()
}

fn read(bencher: Bencher<'_, '_>, stream: &[u8]) {
    bencher
        .counter(divan::counter::BytesCount::of_slice(stream))
        .bench(|| HelloReader::new(DEFAULT_MAX_SIZE).advance(black_box(stream)));
}

fn drip(bencher: Bencher<'_, '_>, stream: &[u8]) {
    bencher.bench(|| {
        let mut reader = HelloReader::new(DEFAULT_MAX_SIZE);
        let last = (1..=stream.len())
            .map(|received| reader.advance(&stream[..received]))
            .last();
        assert!(matches!(last, Some(Progress::Hello(_))));
    });
}
