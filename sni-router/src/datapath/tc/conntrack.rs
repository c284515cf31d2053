//! Having the kernel forget the handshakes of connections that were handed over.
//!
//! Where the host tracks connections, both handshakes of a connection have made entries. The
//! packets of a flow do not pass netfilter, so nobody sees it end, and an entry would stay for the
//! five days of an ESTABLISHED connection. So both are deleted, by ctnetlink, once the sockets are
//! gone.
//!
//! Not by `notrack` rules: an untracked SYN-ACK is nothing that a firewall with
//! `ct state established accept` lets in, and translations by others would pass such packets by.
//!
//! A host that does not track connections is left alone. A message for ctnetlink has the kernel
//! load conntrack (nfnetlink_rcv_msg, net/netfilter/nfnetlink.c), so none is sent before there is
//! an entry.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use tracing::warn;

use super::sides::Sides;
use crate::monotonic::now_ns;

/// The kernel's table of tracked connections, in the network namespace of this process.
pub(super) struct Conntrack {
    /// How many there are; not there until conntrack is.
    count: OnceLock<File>,
    socket: OnceLock<OwnedFd>,
    /// Until when it is taken for unused: [`now_ns`].
    unused_until: AtomicU64,
    has_warned: AtomicBool,
}

impl Conntrack {
    /// Nothing has been asked yet.
    pub(super) fn new() -> Self {
        let this = Self {
            count: OnceLock::new(),
            socket: OnceLock::new(),
            has_warned: AtomicBool::new(false),
            unused_until: AtomicU64::new(0),
        };
        // So that a connection costs no descriptor, not even the first one.
        this.count_is_not_zero();
        this
    }

    /// Deletes the entries of both handshakes. Only once no socket of the connection is left: what
    /// a socket sends would make an entry again.
    pub(super) fn forget(&self, sides: &Sides) {
        if !self.is_in_use() {
            return;
        }
        let mut messages = deletion(sides.client, sides.vip);
        messages.extend_from_slice(&deletion(sides.source, sides.endpoint));
        self.delete(&messages);
    }

    /// Deletes the entry of a client's connection, which a RST has closed in place of its hello, and which goes on:
    /// what comes next makes one that lives.
    pub(super) fn forget_client(&self, client: SocketAddr, vip: SocketAddr) {
        if self.is_in_use() {
            self.delete(&deletion(client, vip));
        }
    }

    fn delete(&self, messages: &[u8]) {
        if let Err(error) = self.ask(messages)
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            warn!(%error, "connection tracking keeps entries of connections that were handed over");
        }
    }

    /// Whether there is any entry at all, now or a moment ago. Where there is none, our own handshake
    /// has made none.
    fn is_in_use(&self) -> bool {
        let now = now_ns();
        if now < self.unused_until.load(Ordering::Relaxed) {
            return false;
        }
        let is_used = self.count_is_not_zero();
        if !is_used {
            self.unused_until
                .store(now + A_MOMENT_NS, Ordering::Relaxed);
        }
        is_used
    }

    fn count_is_not_zero(&self) -> bool {
        let count = match self.count.get() {
            Some(count) => count,
            None => match File::open(COUNT) {
                Ok(file) => self.count.get_or_init(|| file),
                Err(_) => return false,
            },
        };
        let mut text = [0; 16];
        // What cannot be read is not known to be zero.
        !matches!(count.read_at(&mut text, 0), Ok(read) if text[..read].trim_ascii() == b"0")
    }

    /// Sends messages, which the kernel works off before it returns, and reads what it says.
    fn ask(&self, messages: &[u8]) -> io::Result<()> {
        let socket = match self.socket.get() {
            Some(socket) => socket,
            None => {
                let opened = open()?;
                self.socket.get_or_init(|| opened)
            }
        };
        send(socket, messages, SendFlags::empty())?;
        let mut result = Ok(());
        let mut answer = [0; ANSWER];
        // It answers only where it could not do it. Threads may read each other's answers, which
        // does not matter.
        while let Ok((read, _)) = recv(socket, answer.as_mut_slice(), RecvFlags::DONTWAIT) {
            match refusal(&answer[..read]) {
                // It was not tracked.
                None | Some(libc::ENOENT) => {}
                Some(error) => result = Err(io::Error::from_raw_os_error(error)),
            }
        }
        result
    }
}

/// Rules that track connections come once in a while; looking is a system call a connection.
const A_MOMENT_NS: u64 = 10_000_000;

fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    );
    socket.map_err(io::Error::from)
}

/// A message that deletes the connection which `from` has opened to `to`.
fn deletion(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (family, source, destination) = match from.ip() {
        IpAddr::V4(_) => (libc::AF_INET, CTA_IP_V4_SRC, CTA_IP_V4_DST),
        IpAddr::V6(_) => (libc::AF_INET6, CTA_IP_V6_SRC, CTA_IP_V6_DST),
    };
    let addresses = [
        attribute(source, &octets(from.ip())),
        attribute(destination, &octets(to.ip())),
    ];
    let ports = [
        attribute(CTA_PROTO_NUM, &[libc::IPPROTO_TCP as u8]),
        attribute(CTA_PROTO_SRC_PORT, &from.port().to_be_bytes()),
        attribute(CTA_PROTO_DST_PORT, &to.port().to_be_bytes()),
    ];
    let tuple = [
        attribute(CTA_TUPLE_IP | NESTED, &addresses.concat()),
        attribute(CTA_TUPLE_PROTO | NESTED, &ports.concat()),
    ];
    let tuple = attribute(CTA_TUPLE_ORIG | NESTED, &tuple.concat());
    let len = (HEADER + FAMILY + tuple.len()) as u32;
    let mut message = Vec::with_capacity(len as usize);
    message.extend_from_slice(&len.to_ne_bytes());
    message.extend_from_slice(&DELETE.to_ne_bytes());
    message.extend_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence number and sender, which nobody asks for.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[family as u8, 0, 0, 0]);
    message.extend_from_slice(&tuple);
    message
}

/// An attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = 4 + value.len();
    let mut bytes = Vec::with_capacity(len.next_multiple_of(4));
    bytes.extend_from_slice(&(len as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(len.next_multiple_of(4), 0);
    bytes
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// The error number in an answer, if it is one that says no.
fn refusal(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let error = i32::from_ne_bytes(*answer.get(HEADER..)?.first_chunk()?);
    (i32::from(kind) == libc::NLMSG_ERROR && error != 0).then_some(-error)
}

/// Entries of the namespace (net/netfilter/nf_conntrack_standalone.c).
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// Bytes of `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 16;
const FAMILY: usize = 4;

/// An answer has a header, an error, and the message that it is about.
const ANSWER: usize = 256;

/// NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_DELETE.
const DELETE: u16 = 1 << 8 | 2;

// include/uapi/linux/netlink.h
const NESTED: u16 = 1 << 15;

// include/uapi/linux/netfilter/nfnetlink_conntrack.h
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_names_the_tuple_of_one_connection() {
        let from = "192.0.2.1:4096".parse().unwrap();
        let to = "198.51.100.2:443".parse().unwrap();
        let message = deletion(from, to);
        let tuple = [
            [8, 0, 1, 0, 192, 0, 2, 1],
            [8, 0, 2, 0, 198, 51, 100, 2],
            [28, 0, 2, 0x80, 5, 0, 1, 0],
            [6, 0, 0, 0, 6, 0, 2, 0],
            [16, 0, 0, 0, 6, 0, 3, 0],
        ];
        assert_eq!(message[..4], 72_u32.to_ne_bytes());
        assert_eq!(message.len(), 72);
        if cfg!(target_endian = "little") {
            assert_eq!(message[20..28], [52, 0, 1, 0x80, 20, 0, 1, 0x80]);
            assert_eq!(message[28..68], tuple.concat());
            assert_eq!(message[68..], [1, 187, 0, 0]);
        }
        let v6 = deletion("[::1]:1".parse().unwrap(), "[::2]:2".parse().unwrap());
        assert_eq!(v6.len(), 72 + 2 * 12);
        assert_eq!(v6[16], libc::AF_INET6 as u8);
    }

    #[test]
    fn an_answer_is_a_refusal_if_it_has_an_error() {
        let answer = |kind: u16, error: i32| {
            let mut bytes = [0; 36];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..20].copy_from_slice(&error.to_ne_bytes());
            bytes
        };
        assert_eq!(refusal(&answer(2, -libc::EPERM)), Some(libc::EPERM));
        assert_eq!(refusal(&answer(2, 0)), None);
        assert_eq!(refusal(&answer(3, -1)), None);
        assert_eq!(refusal(&[0; 10]), None);
    }
}
