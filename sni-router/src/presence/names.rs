//! The names without a file that Unix sockets of this network namespace have, and whose they are (sock_diag(7)).

use std::fs;
use std::io;

use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// The name of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Without the zero byte in front. What is no text is replaced.
    pub(super) text: String,
    /// The user who has made it, where the kernel tells.
    pub(super) owner: Option<u32>,
}

/// All of them; without their owners where the kernel does not tell: that takes Linux 5.3 and CONFIG_UNIX_DIAG.
pub(super) fn all() -> io::Result<Vec<Name>> {
    asked().or_else(|_| listed())
}

/// Needs no privilege.
fn asked() -> io::Result<Vec<Name>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&socket, &question(), SendFlags::empty())?;
    let mut names = Vec::new();
    let mut answer = vec![0; ANSWER];
    loop {
        // The kernel has the first part of its answer ready when it has taken the question, and each further one when
        // the part before has been read (netlink_recvmsg(), net/netlink/af_netlink.c).
        let (read, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
        let mut rest = &answer[..read];
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            match message.message_type() {
                NLMSG_DONE | NLMSG_ERROR => return result(message.payload()).map(|()| names),
                _ => names.extend(name(message.payload())),
            }
            let length = (message.length() as usize).next_multiple_of(ALIGNED);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// For the name and the owner of every Unix socket: a `nlmsghdr` and a `unix_diag_req`.
fn question() -> Vec<u8> {
    let mut question = Vec::new();
    question.extend(QUESTION.to_ne_bytes());
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    question.extend([0; 8]);
    let family_and_protocol = [libc::AF_UNIX as u8, 0, 0, 0];
    question.extend(family_and_protocol);
    let (any_state, any_inode, no_cookie) = (u32::MAX, 0_u32, [0; 8]);
    question.extend(any_state.to_ne_bytes());
    question.extend(any_inode.to_ne_bytes());
    question.extend((UDIAG_SHOW_NAME | UDIAG_SHOW_UID).to_ne_bytes());
    question.extend(no_cookie);
    question
}

/// What an answer ends with.
fn result(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    match i32::from_ne_bytes(*code) {
        code @ ..0 => Err(io::Error::from_raw_os_error(-code)),
        _ => Ok(()),
    }
}

/// What a `unix_diag_msg` says of a socket, if that has a name and no file.
fn name(message: &[u8]) -> Option<Name> {
    let (mut path, mut owner) = (None, None);
    for attribute in NlasIterator::new(message.get(UNIX_DIAG_MSG..)?) {
        let attribute = attribute.ok()?;
        match attribute.kind() {
            UNIX_DIAG_NAME => path = Some(attribute.value().to_vec()),
            UNIX_DIAG_UID => owner = attribute.value().first_chunk().copied(),
            _ => {}
        }
    }
    let path = path?;
    let text = path.strip_prefix(b"\0")?;
    Some(Name {
        text: String::from_utf8_lossy(text).into_owned(),
        owner: owner.map(u32::from_ne_bytes),
    })
}

/// The table that every kernel has.
fn listed() -> io::Result<Vec<Name>> {
    // Names of others need not be text.
    let table = fs::read("/proc/self/net/unix")?;
    Ok(names_in(&String::from_utf8_lossy(&table)))
}

/// What is `@` there is a zero byte.
fn names_in(table: &str) -> Vec<Name> {
    let names = table.lines().filter_map(|line| line.split_once(" @"));
    let name = |(_, text): (&str, &str)| Name {
        text: text.to_owned(),
        owner: None,
    };
    names.map(name).collect()
}

/// Bytes of the question.
const QUESTION: u32 = 16 + 24;

/// Bytes that a part of an answer has at most (netlink_recvmsg(), net/netlink/af_netlink.c).
const ANSWER: usize = 32 * 1024;

/// NLMSG_ALIGNTO (include/uapi/linux/netlink.h).
const ALIGNED: usize = 4;

/// include/uapi/linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// include/uapi/linux/unix_diag.h.
const UDIAG_SHOW_NAME: u32 = 0x01;
const UDIAG_SHOW_UID: u32 = 0x40;
const UNIX_DIAG_MSG: usize = 16;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_UID: u16 = 7;

#[cfg(test)]
mod tests {
    use std::process;

    use rustix::net::{SocketAddrUnix, bind, socket};
    use rustix::process::geteuid;

    use super::*;

    #[test]
    fn names_are_found_among_other_sockets() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000003 00000000 00000000 0001 03  1148\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 10 /run/@sni-router/tc/1\n\
            0000000000000000: 00000002 00000000 00000000 0001 01 11 @sni-router/tc\n";
        let only = Name {
            text: "sni-router/tc".into(),
            owner: None,
        };
        assert_eq!(names_in(table), [only]);
    }

    #[test]
    fn kernel_tells_whose_a_name_is() {
        // More sockets than one part of an answer has room for.
        let names: Vec<_> = (0..700)
            .map(|it| format!("sni-router/tests/owners/{}/{it}", process::id()))
            .collect();
        let named: Vec<_> = names
            .iter()
            .map(|name| {
                let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
                let addr = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
                bind(&socket, &addr).unwrap();
                socket
            })
            .collect();
        let (told, listed) = (asked().unwrap(), listed().unwrap());
        for text in names {
            let mut name = Name {
                text,
                owner: Some(geteuid().as_raw()),
            };
            assert!(told.contains(&name), "{name:?}");
            name.owner = None;
            assert!(listed.contains(&name), "{name:?}");
        }
        drop(named);
    }

    #[test]
    fn kernel_that_does_not_answer_says_why() {
        let refused = result(&(-libc::ENOENT).to_ne_bytes()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        assert!(result(&0_i32.to_ne_bytes()).is_ok());
        assert!(result(&[]).is_err());
    }
}
