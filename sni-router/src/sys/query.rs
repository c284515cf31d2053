//! Asking which BPF programs are attached to something, whoever's they are.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Where programs are attached.
#[derive(Clone, Copy, Debug)]
pub enum Hook<'a> {
    /// The ingress of the interface with this number, by TCX (Linux 6.6; EINVAL before).
    TcxIngress(u32),
    /// The look-up of sockets in the network namespace behind this descriptor.
    SkLookup(BorrowedFd<'a>),
}

/// The part of `union bpf_attr` that queries use (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Attr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    _pad: u32,
    attach_flags_of_each: u64,
    links: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The numbers of the programs, in the order in which they run. Needs CAP_NET_ADMIN.
pub fn attached(hook: Hook<'_>) -> io::Result<Vec<u32>> {
    let (target, attach_type) = match hook {
        Hook::TcxIngress(interface) => (interface, BPF_TCX_INGRESS),
        Hook::SkLookup(namespace) => (namespace.as_raw_fd() as u32, BPF_SK_LOOKUP),
    };
    let mut ids = vec![0_u32; MOST];
    let mut attr = Attr {
        target,
        attach_type,
        ids: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        ..Attr::default()
    };
    // SAFETY: the kernel writes `count` numbers at most to `ids`, which outlives the call, and the
    // number of programs to `attr`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut attr,
            size_of::<Attr>(),
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(Vec::new()),
            _ => Err(error),
        };
    }
    ids.truncate(attr.count as usize);
    Ok(ids)
}

const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_SK_LOOKUP: u32 = 36;
const BPF_TCX_INGRESS: u32 = 46;

/// The kernel has room for as many at most (BPF_MPROG_MAX, include/linux/bpf_mprog.h;
/// MAX_PROGS of a network namespace, kernel/bpf/net_namespace.c).
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_that_is_not_there_is_an_error() {
        // EPERM for a user, ENODEV for root, EINVAL before TCX.
        assert!(attached(Hook::TcxIngress(u32::MAX >> 1)).is_err());
    }
}
