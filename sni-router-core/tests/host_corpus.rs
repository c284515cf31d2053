//! Replays the fuzzing corpus of host names with a stable toolchain.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/entries/host.rs"]
mod entry;

#[test]
fn every_corpus_file_holds_the_invariants_of_the_fuzz_target() {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/host"));
    let mut files = 0;
    for file in fs::read_dir(directory).expect("the corpus is there") {
        let path = file.expect("the corpus is readable").path();
        println!("{}", path.display());
        entry::check(&fs::read(path).expect("the corpus is readable"));
        files += 1;
    }
    assert!(files > 20, "the corpus is missing");
}
