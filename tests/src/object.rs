//! The kernel programs that a router has inside.

use std::fs;
use std::sync::LazyLock;

use crate::daemon::binary;

/// The object file in the router's binary, as its build script put it there. So what is tested is
/// what it loads.
#[track_caller]
pub fn object() -> &'static [u8] {
    // Read once: the binary of a debug build has more than 100 MB.
    static OBJECT: LazyLock<Vec<u8>> = LazyLock::new(find);
    &OBJECT
}

fn find() -> Vec<u8> {
    let path = binary();
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let start = bytes
        .windows(HEADER)
        .position(is_bpf)
        .unwrap_or_else(|| panic!("{} was built without BPF", path.display()));
    let object = &bytes[start..];
    // What follows the object does not belong to it, and nobody looks there.
    object[..object.len().min(MOST)].to_vec()
}

/// Whether an ELF file for the machine BPF starts so (elf(5)).
fn is_bpf(header: &[u8]) -> bool {
    header.starts_with(b"\x7fELF") && u16::from_ne_bytes([header[18], header[19]]) == EM_BPF
}

const HEADER: usize = 20;
const EM_BPF: u16 = 247;

/// Bytes: more than it has.
const MOST: usize = 8 << 20;
