//! Replays the fuzzing corpus of manifests with a stable toolchain.

use std::fs;
use std::path::Path;

use sni_router_core::manifest::fuzz_entry;

#[test]
fn every_corpus_file_holds_the_invariants_of_the_fuzz_target() {
    let directory = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fuzz/corpus/manifests"
    ));
    let mut files = 0;
    for file in fs::read_dir(directory).expect("the corpus is there") {
        let path = file.expect("the corpus is readable").path();
        println!("{}", path.display());
        fuzz_entry(&fs::read(path).expect("the corpus is readable"));
        files += 1;
    }
    assert!(files > 10, "the corpus is missing");
}
