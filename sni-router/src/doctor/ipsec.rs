//! IPsec policies, which packets of flows do not meet: what one covers, `tc` declines.

use std::io;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::facts::Facts;
use super::finding::{Finding, Outcome};
use super::host::{AS_ROOT, Host};

/// `ipsec`: whether something that leaves this host is to be encrypted by it.
pub(super) fn ipsec(facts: &Facts) -> Outcome {
    if !facts.wanted.uses_tc() {
        return Ok(vec![Finding::ok("any will do without the tc datapath")]);
    }
    match &facts.policies {
        Ok(0) => Ok(vec![Finding::ok("no policies for what leaves")]),
        Ok(count) => Ok(vec![
            Finding::note(format!("policies for what leaves: {count}"))
                .costs("connections that one covers, either side, are carried by sockets and not by tc")
                .mend("for those of a tunnel, one with an interface (WireGuard, XFRM)"),
        ]),
        Err(error) => Err(Finding::unknown(format!("policies: {error}")).mend(AS_ROOT)),
    }
}

/// How many policies this network namespace has for packets that leave.
pub(super) fn outgoing(host: &Host) -> io::Result<u32> {
    // To ask has the kernel load what answers; without that, nobody has set any.
    if !answers(&host.read("proc/self/net/netlink").unwrap_or_default()) {
        return Ok(0);
    }
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::XFRM),
    )?;
    send(&socket, &question(), SendFlags::empty())?;
    let mut answer = [0; ANSWER];
    // It is there when the question has been sent.
    let (read, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
    count(&answer[..read])
}

/// Whether `/proc/net/netlink` has a socket of the kernel's for IPsec.
fn answers(sockets: &str) -> bool {
    let mut lines = sockets.lines().map(str::split_whitespace);
    lines.any(|mut columns| columns.nth(1) == Some("6") && columns.next() == Some("0"))
}

/// A message that asks for the counts of policies.
fn question() -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + FLAGS);
    message.extend_from_slice(&((HEADER + FLAGS) as u32).to_ne_bytes());
    message.extend_from_slice(&GET_COUNTS.to_ne_bytes());
    message.extend_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence number and sender, which nobody asks for, and no flags.
    message.extend_from_slice(&[0; 8 + FLAGS]);
    message
}

/// The count of outgoing policies in an answer.
fn count(answer: &[u8]) -> io::Result<u32> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let short = |at| Some(u16::from_ne_bytes(*answer.get(at..)?.first_chunk()?));
    let word = |at| Some(u32::from_ne_bytes(*answer.get(at..)?.first_chunk()?));
    if short(4).ok_or_else(wrong)? == libc::NLMSG_ERROR as u16 {
        let error = word(HEADER).ok_or_else(wrong)?.cast_signed();
        return Err(io::Error::from_raw_os_error(error.wrapping_neg()));
    }
    let mut at = HEADER + FLAGS;
    loop {
        let (len, kind) = short(at).zip(short(at + 2)).ok_or_else(wrong)?;
        if kind == COUNTS {
            // Incoming ones come first.
            return word(at + 8).ok_or_else(wrong);
        }
        // One without a length would be met for ever.
        at += usize::from(len).max(4).next_multiple_of(4);
    }
}

/// Bytes of `struct nlmsghdr`, and of what follows it.
const HEADER: usize = 16;
const FLAGS: usize = 4;

const ANSWER: usize = 512;

/// XFRM_MSG_GETSPDINFO and XFRMA_SPD_INFO (include/uapi/linux/xfrm.h).
const GET_COUNTS: u16 = 0x25;
const COUNTS: u16 = 1;

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::tests::Sample;
    use super::*;

    /// An answer with an attribute of another kind before the counts: 7 in, 3 out, 2 forwarded.
    fn answer() -> Vec<u8> {
        let mut bytes = vec![0; HEADER + FLAGS];
        bytes[4..6].copy_from_slice(&0x24_u16.to_ne_bytes());
        for (kind, value) in [(2_u16, &[1_u32][..]), (COUNTS, &[7, 3, 2, 0, 0, 0])] {
            let len = 4 + 4 * value.len() as u16;
            bytes.extend_from_slice(&len.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            value
                .iter()
                .for_each(|word| bytes.extend_from_slice(&word.to_ne_bytes()));
        }
        bytes
    }

    #[test]
    fn count_is_that_of_what_leaves_or_the_kernels_refusal() {
        assert_eq!(count(&answer()).unwrap(), 3);
        let mut refusal = vec![0; HEADER];
        refusal[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        refusal.extend_from_slice(&(-libc::EPERM).to_ne_bytes());
        let error = count(&refusal).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        // Cut anywhere, it is no answer; and attributes of no length do not stop it.
        for len in 0..answer().len() - 16 {
            assert!(count(&answer()[..len]).is_err(), "{len}");
        }
        assert!(count(&[0; ANSWER]).is_err());
    }

    #[test]
    fn kernel_is_asked_only_where_it_has_what_answers() {
        let head = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n";
        let own = format!(
            "{head}ffff9d0 0   0          00000000 0        0        0     2        0        2\n"
        );
        assert!(!answers(&own));
        assert!(
            !answers(&format!("{own}ffff9d1 6   4711       0 0\n")),
            "a program's"
        );
        assert!(answers(&format!("{own}ffff9d1 6   0          0 0\n")));
        assert!(!answers(""));
    }

    #[test]
    fn policies_are_a_note_where_tc_declines_for_them() {
        let mut sample = Sample::new();
        assert_eq!(sample.worst(ipsec).level, Level::Ok);
        sample.facts.policies = Ok(2);
        assert_eq!(sample.worst(ipsec).level, Level::Note);
        sample.facts.policies = Err(io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(sample.worst(ipsec).level, Level::Unknown);
        sample.facts.wanted.datapath = crate::datapath::choose::Choice::Userspace;
        assert_eq!(sample.worst(ipsec).level, Level::Ok);
    }
}
