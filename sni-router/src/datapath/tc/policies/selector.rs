//! What a policy covers, as the kernel tells it (`struct xfrm_userpolicy_info` of
//! include/uapi/linux/xfrm.h).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// All policies, as far as they are known.
#[derive(Debug)]
pub(super) enum Policies {
    /// They cannot be read: each connection may be covered by one.
    Unknown,
    Known(Vec<Policy>),
}

impl Default for Policies {
    fn default() -> Self {
        Self::Known(Vec::new())
    }
}

impl Policies {
    /// Whether one covers packets of these connections, by who has opened each and to whom, either way.
    pub(super) fn cover(&self, connections: &[(SocketAddr, SocketAddr)]) -> bool {
        match self {
            Self::Unknown => true,
            Self::Known(policies) => policies.iter().any(|policy| {
                let mut connections = connections.iter();
                connections.any(|(far, own)| match policy.way {
                    Way::In => policy.covers(*far, *own),
                    Way::Out => policy.covers(*own, *far),
                })
            }),
        }
    }
}

/// Whose packets a policy is for. What it does with them does not matter, nor which of several comes
/// first: one that lets them pass is there because there is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    way: Way,
    from: Side,
    to: Side,
    /// 0 for any.
    protocol: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// Addresses and ports of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    network: IpAddr,
    prefix: u8,
    port: u16,
    mask: u16,
}

impl Policy {
    fn covers(&self, from: SocketAddr, to: SocketAddr) -> bool {
        (self.protocol == 0 || i32::from(self.protocol) == libc::IPPROTO_TCP)
            && self.from.covers(from)
            && self.to.covers(to)
    }

    /// Of `struct xfrm_userpolicy_info`; `None` for those of a single socket or of what is forwarded.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let info: &[u8; INFO] = bytes.first_chunk().ok_or_else(wrong)?;
        let way = match info[DIRECTION] {
            0 => Way::In,
            1 => Way::Out,
            _ => return Ok(None),
        };
        let is_v6 = i32::from(short(info, FAMILY)?) == libc::AF_INET6;
        let side = |address, prefix: usize, port| {
            io::Result::Ok(Side {
                network: network(info, address, is_v6)?,
                prefix: info[prefix],
                port: short(info, port)?,
                mask: short(info, port + 2)?,
            })
        };
        let [source_port, destination_port] = [36, 32];
        Ok(Some(Self {
            way,
            from: side(16, 43, source_port)?,
            to: side(0, 42, destination_port)?,
            protocol: info[PROTOCOL],
        }))
    }
}

impl Side {
    fn covers(&self, end: SocketAddr) -> bool {
        // Both as in the packet, in network order.
        let port = u16::from_ne_bytes(end.port().to_be_bytes());
        if port & self.mask != self.port & self.mask {
            return false;
        }
        match (self.network, end.ip().to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let differ = network.to_bits() ^ ip.to_bits();
                differ.leading_zeros() >= u32::from(self.prefix).min(32)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let differ = network.to_bits() ^ ip.to_bits();
                differ.leading_zeros() >= u32::from(self.prefix).min(128)
            }
            _ => false,
        }
    }
}

/// What an answer says of those to come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    More,
    Done,
    /// There was a change meanwhile, and some may be missing.
    Changed,
}

/// Adds the policies of an answer that packets of flows could have to meet.
pub(super) fn read(mut answer: &[u8], policies: &mut Vec<Policy>) -> io::Result<Read> {
    while answer.len() >= HEADER {
        let len = word(answer, 0)? as usize;
        let message = answer.get(HEADER..len).ok_or_else(wrong)?;
        if i32::from(short(answer, 6)?) & libc::NLM_F_DUMP_INTR != 0 {
            return Ok(Read::Changed);
        }
        match i32::from(short(answer, 4)?) {
            libc::NLMSG_DONE => return Ok(Read::Done),
            libc::NLMSG_ERROR => {
                let error = word(message, 0)?.cast_signed();
                return Err(io::Error::from_raw_os_error(error.wrapping_neg()));
            }
            NEW_POLICY => {
                let attributes = message.get(INFO..).ok_or_else(wrong)?;
                if concerns_unmarked(attributes)? {
                    policies.extend(Policy::parse(message)?);
                }
            }
            _ => {}
        }
        answer = answer.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Read::More)
}

/// Whether a policy is for packets that nobody has marked, by no interface of IPsec's own: such an
/// interface gets its packets before they are given to a neighbour.
fn concerns_unmarked(mut attributes: &[u8]) -> io::Result<bool> {
    while attributes.len() >= 4 {
        let len = usize::from(short(attributes, 0)?);
        let value = attributes.get(4..len).ok_or_else(wrong)?;
        let kind = short(attributes, 2)?;
        // The first word of `struct xfrm_mark` is what the marked bits are to be.
        if (kind == MARK || kind == INTERFACE) && word(value, 0)? != 0 {
            return Ok(false);
        }
        attributes = attributes
            .get(len.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(true)
}

fn network(info: &[u8], at: usize, is_v6: bool) -> io::Result<IpAddr> {
    let bytes: &[u8; 16] = info
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .ok_or_else(wrong)?;
    let [a, b, c, d, ..] = *bytes;
    Ok(if is_v6 {
        Ipv6Addr::from(*bytes).into()
    } else {
        Ipv4Addr::new(a, b, c, d).into()
    })
}

fn short(bytes: &[u8], at: usize) -> io::Result<u16> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found
        .map(|bytes| u16::from_ne_bytes(*bytes))
        .ok_or_else(wrong)
}

fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found
        .map(|bytes| u32::from_ne_bytes(*bytes))
        .ok_or_else(wrong)
}

fn wrong() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Bytes of `struct nlmsghdr`, and of `struct xfrm_userpolicy_info`.
const HEADER: usize = 16;
const INFO: usize = 168;

/// Where these are in the latter.
const FAMILY: usize = 40;
const PROTOCOL: usize = 44;
const DIRECTION: usize = 160;

// include/uapi/linux/xfrm.h: XFRM_MSG_NEWPOLICY, XFRMA_MARK, XFRMA_IF_ID
const NEW_POLICY: i32 = 0x13;
const MARK: u16 = 21;
const INTERFACE: u16 = 31;

#[cfg(test)]
mod tests {
    use super::*;

    /// The message of a policy for TCP from 192.0.2.0/24 to 203.0.113.9, port 8443.
    fn message(direction: u8, attributes: &[(u16, u32)]) -> Vec<u8> {
        let mut info = vec![0; INFO];
        info[..4].copy_from_slice(&[203, 0, 113, 9]);
        info[16..20].copy_from_slice(&[192, 0, 2, 0]);
        info[32..34].copy_from_slice(&8443_u16.to_be_bytes());
        info[34..36].copy_from_slice(&[0xff; 2]);
        info[FAMILY..FAMILY + 2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        info[42] = 32;
        info[43] = 24;
        info[PROTOCOL] = 6;
        info[DIRECTION] = direction;
        for (kind, value) in attributes {
            info.extend(8_u16.to_ne_bytes());
            info.extend(kind.to_ne_bytes());
            info.extend(value.to_ne_bytes());
        }
        framed(NEW_POLICY as u16, &info)
    }

    fn framed(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    fn read_one(message: &[u8]) -> Vec<Policy> {
        let mut policies = Vec::new();
        assert_eq!(read(message, &mut policies).unwrap(), Read::More);
        policies
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn policy_covers_what_its_selector_says_and_in_its_direction() {
        let own = at("192.0.2.1:21000");
        let endpoint = at("203.0.113.9:8443");
        let out = Policies::Known(read_one(&message(1, &[])));
        assert!(out.cover(&[(endpoint, own)]));
        assert!(!out.cover(&[(own, endpoint)]));
        for (far, own) in [
            ("203.0.113.9:8444", "192.0.2.1:21000"),
            ("203.0.113.8:8443", "192.0.2.1:21000"),
            ("203.0.113.9:8443", "192.0.3.1:21000"),
            ("[2001:db8::9]:8443", "[2001:db8::1]:21000"),
        ] {
            assert!(!out.cover(&[(at(far), at(own))]), "{far} {own}");
        }
        let mapped = at("[::ffff:203.0.113.9]:8443");
        assert!(out.cover(&[(at("198.51.100.1:1"), own), (mapped, own)]));
        let incoming = Policies::Known(read_one(&message(0, &[])));
        assert!(incoming.cover(&[(own, endpoint)]));
        assert!(!incoming.cover(&[(endpoint, own)]));
        assert!(Policies::Unknown.cover(&[(own, endpoint)]));
        assert!(!Policies::default().cover(&[(own, endpoint)]));
    }

    #[test]
    fn policies_for_others_than_flows_are_left_out() {
        for direction in 2..6 {
            assert_eq!(read_one(&message(direction, &[])), []);
        }
        assert_eq!(read_one(&message(1, &[(MARK, 3)])), []);
        assert_eq!(read_one(&message(1, &[(INTERFACE, 3)])), []);
        let plain = [(5, 7), (MARK, 0), (INTERFACE, 0)];
        assert_eq!(read_one(&message(1, &plain)).len(), 1);
    }

    #[test]
    fn answer_ends_or_is_refused_and_what_is_cut_is_an_error() {
        let mut policies = Vec::new();
        let two = [message(1, &[]), message(0, &[])].concat();
        let all = [two, framed(libc::NLMSG_DONE as u16, &[0; 4])].concat();
        assert_eq!(read(&all, &mut policies).unwrap(), Read::Done);
        assert_eq!(policies.len(), 2);
        let mut changed = all.clone();
        changed[6..8].copy_from_slice(&(libc::NLM_F_DUMP_INTR as u16).to_ne_bytes());
        assert_eq!(read(&changed, &mut policies).unwrap(), Read::Changed);
        let refusal = framed(libc::NLMSG_ERROR as u16, &(-libc::EPERM).to_ne_bytes());
        let error = read(&refusal, &mut policies).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        let one = message(1, &[(MARK, 0)]);
        for len in HEADER..one.len() {
            assert!(read(&one[..len], &mut policies).is_err(), "{len}");
        }
        // A length of nothing does not keep it.
        assert!(read(&[0; 64], &mut policies).is_err());
    }
}
