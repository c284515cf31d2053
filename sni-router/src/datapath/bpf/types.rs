//! Where the kernel that runs has fields of its own (BTF, Documentation/bpf/btf.rst).

use std::fs;

use sni_router_common::taken::Request;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Where a request has what the program reads of it; `None` where the kernel does not say, or nobody may read
/// its memory: the program then has no instruction that does.
pub(super) fn request() -> Option<Request> {
    if is_confidential() {
        return None;
    }
    let bytes = fs::read("/sys/kernel/btf/vmlinux").ok()?;
    let types = Types::read(&bytes)?;
    // A request of TCP begins with one of IP, and that with what all have.
    let bits = types.bits("inet_request_sock", "rcv_wscale")?;
    let byte = |member| Some(types.bits("tcp_request_sock", member)? / 8);
    Some(Request {
        received: byte("rcv_isn")?,
        sent: byte("snt_isn")?,
        scale: bits / 8,
        shift: bits % 8,
    })
}

/// Whether not even root may read the kernel's memory (kernel_lockdown(7)).
fn is_confidential() -> bool {
    let mode = fs::read_to_string("/sys/kernel/security/lockdown");
    mode.is_ok_and(|mode| mode.contains("[confidentiality]"))
}

/// The types of the kernel.
struct Types<'b> {
    types: &'b [u8],
    strings: &'b [u8],
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
    _type: u32,
    offset: u32,
}

impl<'b> Types<'b> {
    fn read(bytes: &'b [u8]) -> Option<Self> {
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

    /// At which bit of a struct a member begins.
    fn bits(&self, name: &str, member: &str) -> Option<u32> {
        let mut rest = self.types;
        loop {
            let (found, behind) = Type::read_from_prefix(rest).ok()?;
            let (kind, count) = (found.info >> 24 & 0x1f, found.info & 0xffff);
            let more = behind_type(kind, count as usize)?;
            if kind == STRUCT && self.is(found.name, name) {
                let members = behind.get(..more)?;
                return self.member(members, member, found.info >> 31 == 1);
            }
            rest = behind.get(more..)?;
        }
    }

    /// `has_bits` says that some members are a number of bits.
    fn member(&self, mut members: &[u8], name: &str, has_bits: bool) -> Option<u32> {
        loop {
            let (member, behind) = Member::read_from_prefix(members).ok()?;
            if self.is(member.name, name) {
                let offset = member.offset;
                return Some(if has_bits { offset & 0xff_ffff } else { offset });
            }
            members = behind;
        }
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
    use super::*;

    #[test]
    fn this_kernel_says_where_a_request_has_its_numbers() {
        let request = request().expect("a kernel with BTF");
        // Side by side for as long as there are both.
        assert_eq!(request.sent, request.received + 4);
        assert!(request.scale < request.received, "{request:?}");
        assert_eq!(request.shift, 4);
    }

    #[test]
    fn what_is_not_there_or_cut_off_is_not_found() {
        let bytes = fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let types = Types::read(&bytes).unwrap();
        assert!(types.bits("tcp_request_sock", "no_such_member").is_none());
        assert!(types.bits("no_such_struct", "rcv_isn").is_none());
        assert!(Types::read(&bytes[..100]).is_none());
        assert!(Types::read(&[0; 64]).is_none());
    }
}
