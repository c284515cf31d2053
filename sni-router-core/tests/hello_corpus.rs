//! Replays the fuzzing corpus with a stable toolchain, and says what the real captures say.

use std::fs;
use std::path::PathBuf;

use sni_router_core::hello::{DEFAULT_MAX_SIZE, HelloReader, Progress};

#[path = "../../fuzz/entries/hello.rs"]
mod entry;

#[test]
fn captured_hellos_say_what_their_clients_were_told() {
    let mut said = String::new();
    for (name, bytes) in corpus("bin") {
        let mut reader = HelloReader::new(DEFAULT_MAX_SIZE).with_ja4(true);
        let progress = reader.advance(&bytes);
        let Progress::Hello(hello) = progress else {
            panic!("{name}: {progress:?}");
        };
        let server_name = hello.server_name.as_ref().map_or("-", |host| host.as_str());
        let alpn: Vec<_> = hello.alpn_names().collect();
        said += &format!(
            "{name}: {server_name} alpn={alpn:?} versions={:04x?} ech={} size={} of {} ja4={}\n",
            hello.versions,
            hello.ech,
            hello.size,
            bytes.len(),
            hello.ja4.expect("it was asked for"),
        );
    }
    insta::assert_snapshot!(said);
}

#[test]
fn every_corpus_file_holds_the_invariants_of_the_fuzz_target() {
    let files = corpus("");
    assert!(files.len() > 10, "the corpus is missing");
    for (name, bytes) in files {
        println!("{name}");
        entry::check(&bytes);
    }
}

/// Files of the corpus whose names end so, sorted by name.
fn corpus(ending: &str) -> Vec<(String, Vec<u8>)> {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/hello"));
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(ending))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}
