//! Hiding the object's own types (BTF) from a kernel that has none.
//!
//! By the object's types the kernel knows which functions are global, and by its own what their context is
//! (`btf_get_prog_ctx_type()`, kernel/bpf/btf.c): where there are only the former, it refuses such functions. Where there
//! are neither, all functions are static, which only takes it longer.

use object::{File, Object as _, ObjectSection as _};

/// The object with its types under names that nobody looks for; `None` if it is none, or has none.
pub fn untyped(object: &[u8]) -> Option<Vec<u8>> {
    let mut found = object.to_vec();
    let mut is_found = false;
    for section in File::parse(object).ok()?.sections() {
        // Sections have their names in either.
        if !matches!(section.name(), Ok(".strtab" | ".shstrtab")) {
            continue;
        }
        let (start, len) = section.file_range()?;
        let (start, len) = (usize::try_from(start).ok()?, usize::try_from(len).ok()?);
        let names = found.get_mut(start..start + len)?;
        for name in [TYPES, OF_FUNCTIONS] {
            while let Some(at) = names.windows(name.len()).position(|it| it == name) {
                names[at] = b'_';
                is_found = true;
            }
        }
    }
    is_found.then_some(found)
}

const TYPES: &[u8] = b".BTF\0";
const OF_FUNCTIONS: &[u8] = b".BTF.ext\0";
