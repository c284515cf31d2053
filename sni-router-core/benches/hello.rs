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
