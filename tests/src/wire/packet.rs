//! What a hop must know of a packet, and the error it answers with.

use super::device::Layer;

/// A TCP packet, as far as a hop looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) is_v6: bool,
    /// It may be cut into fragments.
    pub(super) has_no_df: bool,
    /// Where the IP header starts.
    pub(super) network: usize,
}

/// `None` for anything but TCP, which a wire leaves alone: neighbours must be found.
pub(super) fn parse(frame: &[u8], layer: Layer) -> Option<Seen> {
    let network = layer.header();
    let ip = frame.get(network..)?;
    match ip.first()? >> 4 {
        4 if ip.len() >= 20 && ip[9] == TCP => Some(Seen {
            is_v6: false,
            has_no_df: ip[6] & 0x40 == 0,
            network,
        }),
        6 if ip.len() >= 40 && ip[6] == TCP => Some(Seen {
            is_v6: true,
            has_no_df: false,
            network,
        }),
        _ => None,
    }
}

/// The packet that tells a sender that its own does not fit: "fragmentation needed" (RFC 792,
/// RFC 1191) or "packet too big" (RFC 4443). `subnet` is that of the link.
pub(super) fn too_big(frame: &[u8], seen: Seen, mtu: u16, subnet: u8) -> Vec<u8> {
    let (link, ip) = frame.split_at(seen.network);
    let mut answer = Vec::with_capacity(link.len() + 600);
    if let [to @ .., kind0, kind1] = link {
        let (to, from) = to.split_at(6);
        answer.extend([from, to, &[*kind0, *kind1]].concat());
    }
    if seen.is_v6 {
        answer.extend(too_big_v6(ip, mtu, subnet));
    } else {
        answer.extend(too_big_v4(ip, mtu, subnet));
    }
    answer
}

fn too_big_v4(ip: &[u8], mtu: u16, subnet: u8) -> Vec<u8> {
    let [m0, m1] = mtu.to_be_bytes();
    // As much as fits into 576 bytes (RFC 1812, section 4.3.2.3).
    let quoted = &ip[..ip.len().min(576 - 28)];
    let mut icmp = [&[3, 4, 0, 0, 0, 0, m0, m1], quoted].concat();
    let sum = checksum(&icmp);
    put(&mut icmp, 2, sum);
    let [t0, t1] = ((20 + icmp.len()) as u16).to_be_bytes();
    let mut header = vec![0x45, 0, t0, t1, 0, 0, 0, 0, 64, 1, 0, 0];
    header.extend([192, 168, subnet, 254]);
    header.extend(&ip[12..16]);
    let sum = checksum(&header);
    put(&mut header, 10, sum);
    [header, icmp].concat()
}

fn too_big_v6(ip: &[u8], mtu: u16, subnet: u8) -> Vec<u8> {
    let [m0, m1] = mtu.to_be_bytes();
    // As much as fits into the smallest MTU there is (RFC 4443, section 3.2).
    let quoted = &ip[..ip.len().min(1280 - 48)];
    let mut icmp = [&[2, 0, 0, 0, 0, 0, m0, m1], quoted].concat();
    let len = (icmp.len() as u16).to_be_bytes();
    // fd00:<subnet>::fe, as people read it: the digits of the number are decimal.
    let digits = ((subnet / 10) << 4) | (subnet % 10);
    let mut addresses = vec![0xfd, 0, 0, digits];
    addresses.extend([0; 11]);
    addresses.push(0xfe);
    addresses.extend(&ip[8..24]);
    let pseudo = [&addresses[..], &[0, 0], &len, &[0, 0, 0, 58], &icmp].concat();
    put(&mut icmp, 2, checksum(&pseudo));
    let header = [&[0x60, 0, 0, 0][..], &len, &[58, 64], &addresses].concat();
    [header, icmp].concat()
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let words = words.map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

const TCP: u8 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_with_its_checksum_sums_up_to_zero() {
        // RFC 1071, section 3.
        let mut bytes = vec![0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7, 0, 0];
        let sum = checksum(&bytes);
        put(&mut bytes, 8, sum);
        assert_eq!(bytes[8..], [0x22, 0x0d]);
        assert_eq!(checksum(&bytes), 0);
    }

    #[test]
    fn answer_goes_back_to_the_sender_and_quotes_its_packet() {
        let mut frame = [[1; 6], [2; 6]].concat();
        frame.extend([8, 0]);
        frame.extend([0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, TCP, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([9; 40]);
        let seen = parse(&frame, Layer::Ether).expect("a TCP packet");
        assert!(!seen.is_v6 && !seen.has_no_df);
        let answer = too_big(&frame, seen, 1300, 10);
        let link = [&[2; 6][..], &[1; 6], &[8, 0]].concat();
        assert_eq!(answer[..14], link);
        assert_eq!(checksum(&answer[14..34]), 0);
        assert_eq!(answer[26..34], [192, 168, 10, 254, 10, 0, 0, 1]);
        assert_eq!(checksum(&answer[34..]), 0);
        assert_eq!(answer[34..36], [3, 4]);
        assert_eq!(answer[40..42], 1300_u16.to_be_bytes());
        assert_eq!(answer[42..], frame[14..]);
    }
}
