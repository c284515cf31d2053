//! The types of the kernel that runs (BTF, Documentation/bpf/btf.rst).

use std::iter;

use zerocopy::{FromBytes, Immutable, KnownLayout};

/// The types of the kernel.
pub struct Types<'b> {
    types: &'b [u8],
    strings: &'b [u8],
}

/// One of them.
struct Entry<'b> {
    kind: u32,
    /// Whether some members are a number of bits.
    has_bits: bool,
    name: u32,
    /// What is behind its head.
    body: &'b [u8],
}

/// `struct btf_header` of include/uapi/linux/btf.h.
#[repr(C)]
#[derive(FromBytes, KnownLayout, Immutable)]
struct Header {
    magic: u16,
    _version: u8,
    _flags: u8,
    header: u32,
    types_at: u32,
    types: u32,
    strings_at: u32,
    strings: u32,
}

/// `struct btf_type` of the same.
#[repr(C)]
#[derive(FromBytes, KnownLayout, Immutable)]
struct Type {
    name: u32,
    info: u32,
    _size_or_type: u32,
}

/// `struct btf_member` of the same.
#[repr(C)]
#[derive(FromBytes, KnownLayout, Immutable)]
struct Member {
    name: u32,
    r#type: u32,
    offset: u32,
}

impl<'b> Types<'b> {
    pub fn read(bytes: &'b [u8]) -> Option<Self> {
        let (header, _) = Header::read_from_prefix(bytes).ok()?;
        if header.magic != MAGIC {
            return None;
        }
        let part = |at: u32, len: u32| {
            let start = header.header as usize + at as usize;
            bytes.get(start..start + len as usize)
        };
        Some(Self {
            types: part(header.types_at, header.types)?,
            strings: part(header.strings_at, header.strings)?,
        })
    }

    /// At which bit of a struct a member begins, be it in a part of it that has no name.
    pub fn bits(&self, name: &str, member: &str) -> Option<u32> {
        let mut all = self.all();
        let found = all.find(|entry| entry.kind == STRUCT && self.is(entry.name, name))?;
        self.member(&found, member)
    }

    /// The number of a function.
    pub fn function(&self, name: &str) -> Option<u32> {
        let mut all = self.all();
        let place = all.position(|entry| entry.kind == FUNC && self.is(entry.name, name))?;
        // Number 0 is nothing at all.
        u32::try_from(place + 1).ok()
    }

    /// All, in the order of their numbers.
    fn all(&self) -> impl Iterator<Item = Entry<'b>> {
        let mut rest = self.types;
        iter::from_fn(move || {
            let (found, behind) = Type::read_from_prefix(rest).ok()?;
            let (kind, count) = (found.info >> 24 & 0x1f, found.info & 0xffff);
            let (body, next) = behind.split_at_checked(behind_type(kind, count as usize)?)?;
            rest = next;
            Some(Entry {
                kind,
                has_bits: found.info >> 31 == 1,
                name: found.name,
                body,
            })
        })
    }

    fn member(&self, of: &Entry<'b>, name: &str) -> Option<u32> {
        let mut members = of.body;
        loop {
            let (member, behind) = Member::read_from_prefix(members).ok()?;
            let offset = match of.has_bits {
                true => member.offset & 0xff_ffff,
                false => member.offset,
            };
            if self.is(member.name, name) {
                return Some(offset);
            }
            let part = self.is(member.name, "").then(|| self.part(member.r#type));
            if let Some(bits) = part.flatten().and_then(|part| self.member(&part, name)) {
                return Some(offset + bits);
            }
            members = behind;
        }
    }

    /// A struct or union, by its number.
    fn part(&self, number: u32) -> Option<Entry<'b>> {
        let part = self.all().nth((number as usize).checked_sub(1)?)?;
        matches!(part.kind, STRUCT | UNION).then_some(part)
    }

    fn is(&self, offset: u32, name: &str) -> bool {
        let string = self.strings.get(offset as usize..).unwrap_or_default();
        string.strip_prefix(name.as_bytes()).and_then(<[u8]>::first) == Some(&0)
    }
}

/// Bytes that follow the head of a type; `None` of a kind that came later.
fn behind_type(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION | ENUM64 => 12 * count,
        ENUM | FUNC_PROTO => 8 * count,
        DATASEC => 12 * count,
        PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => 0,
        _ => return None,
    })
}

const MAGIC: u16 = 0xeb9f;

// include/uapi/linux/btf.h
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_not_there_or_cut_off_is_not_found() {
        let bytes = fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let types = Types::read(&bytes).unwrap();
        assert!(types.bits("tcp_request_sock", "no_such_member").is_none());
        assert!(types.bits("no_such_struct", "rcv_isn").is_none());
        assert!(types.function("no_such_function").is_none());
        assert!(Types::read(&bytes[..100]).is_none());
        assert!(Types::read(&[0; 64]).is_none());
    }
}
