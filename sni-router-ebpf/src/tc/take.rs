//! Taking what opens a connection away from the stack: the client's hello, and what an endpoint answers to
//! the daemon's SYN. The daemon then makes a flow of it without a socket.
//!
//! `docs/datapaths.md` has the order. Whatever is unusual goes to the stack, which loses nothing by that.

use aya_ebpf::helpers::generated::{bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use sni_router_common::flow::{FlowKey, before};
use sni_router_common::handshake::{Tag, seen, word};
use sni_router_common::rule::{RuleKey, network_words};
use sni_router_common::taken::{MAX_PAYLOAD, MOST_TAKEN, Taken, is_opening, kind, until};

use super::observe::{Observed, Place, Sent, begin, facts, is_repeated, update};
use super::packet::{ACK, FIN, Packet, RST, SYN, TCP_FLAGS, TCP_SUM, URG, bounded};
use super::request::own_scale;
use crate::maps::{BUFFER, RULES, TAKEN, UNTIL};

/// What a packet is.
#[derive(Clone, Copy)]
pub enum What {
    /// Nothing to take.
    Unusual,
    /// Too early, or of no use.
    Early,
    /// The same, but it is noted.
    Noted,
    /// The end of a client's handshake. The stack would make a socket of it. If no hello follows, it
    /// sends its SYN-ACK again, and what answers that comes too late to be taken.
    Greets,
    /// To be taken, but there was no room for it.
    Lost,
    /// It comes by once more, by another interface: then it is judged.
    Passing,
    /// The daemon has forgotten the handshake since it was found.
    Forgotten,
    /// Of this [kind]; of the first one of a client, the scale of our windows is in the upper half.
    Is(u32),
}

impl What {
    /// As a number of 32 bits.
    #[inline(always)] // as below
    pub const fn bits(self) -> u64 {
        match self {
            Self::Unusual => 0,
            Self::Is(kind) => kind as u64,
            Self::Early => 16,
            Self::Noted => 17,
            Self::Greets => 18,
            Self::Lost => 19,
            Self::Passing => 20,
            Self::Forgotten => 21,
        }
    }

    /// Of such a number.
    #[inline(always)] // as below
    pub const fn of(bits: u32) -> Self {
        match bits {
            0 => Self::Unusual,
            16 => Self::Early,
            17 => Self::Noted,
            18 => Self::Greets,
            19 => Self::Lost,
            20 => Self::Passing,
            21 => Self::Forgotten,
            kind => Self::Is(kind),
        }
    }
}

/// Judges a packet of a sender of which a SYN was seen, or whose SYN-ACK the daemon waits for. What is
/// to be taken is in the buffer then, without its payload.
#[inline(always)] // returns more than fits into a register
pub fn judge(ctx: &TcContext, key: &FlowKey, packet: &Packet, tag: u64, slot: u32) -> What {
    What::of(kind_of(ctx, key, packet, tag, slot))
}

#[inline(never)] // with a stack frame of its own
fn kind_of(ctx: &TcContext, key: &FlowKey, packet: &Packet, tag: u64, slot: u32) -> u32 {
    let known = Place::at(slot, Tag::from_bits(tag));
    let (Some(known), Some(facts)) = (known, facts()) else {
        return 0;
    };
    let sent = Sent::new(ctx, key, packet, &facts);
    let read = [word::FLAGS, word::ISN, word::SINCE].map(|index| known.read(index));
    let [Some(seen), Some(isn), Some(since)] = read else {
        return What::Forgotten.bits() as u32;
    };
    let age = sent.now.wrapping_sub(since);
    let what = if seen & seen::AWAITED != 0 {
        answer(&sent, isn)
    } else if seen & seen::TAKEN != 0 {
        next(&sent, isn, age, seen, &known)
    } else {
        match first(ctx, &sent, isn, age, seen, &known) {
            // Another CPU has taken one meanwhile, which has ended the stack's request.
            What::Unusual if has(&known, seen::TAKEN) => What::Early,
            what => what,
        }
    };
    match what {
        What::Is(kind) => {
            fill(&sent, kind, sent.flags | seen, since);
            kind & KIND
        }
        what => what.bits() as u32,
    }
}

/// Notes what has become of a packet.
#[inline(always)] // the verifier follows map pointers through one function only
pub fn note(sent: &Sent, known: &Place, what: What) -> Observed {
    match what {
        What::Early => Observed::Early,
        What::Passing => {
            update(sent, known, 0);
            Observed::Passed
        }
        What::Forgotten => Observed::Unknown,
        // It is sent again.
        What::Lost if has(known, seen::TAKEN | seen::AWAITED) => Observed::Early,
        What::Noted => {
            update(sent, known, 0);
            Observed::Early
        }
        What::Greets => {
            update(sent, known, 0);
            Observed::Taken
        }
        What::Is(kind::ANSWER | kind::REFUSAL) => {
            known.note(word::FLAGS, seen::TAKEN);
            Observed::Taken
        }
        What::Is(kind::FIRST) => {
            update(sent, known, seen::TAKEN);
            Observed::Ended
        }
        What::Is(_) => {
            // The daemon may have given the client back since.
            update(sent, known, 0);
            Observed::Taken
        }
        What::Unusual | What::Lost => {
            if sent.packet.flags & SYN == 0 {
                if known.read(word::ISN).is_none() {
                    return Observed::Unknown;
                }
                update(sent, known, seen::PASSED);
            } else if !is_repeated(sent.packet, known) && !is_awaited(sent, known) {
                begin(sent, known);
            }
            Observed::Passed
        }
    }
}

/// A client's first packet behind its SYN: taken if it is as usual.
#[inline(always)] // as above
fn first(ctx: &TcContext, sent: &Sent, isn: u32, age: u32, seen: u32, known: &Place) -> What {
    let Sent { key, packet, .. } = sent;
    if seen & (NEEDED | HINDERS) != NEEDED
        || sent.flags & (seen::TIMESTAMPS | HINDERS) != seen::TIMESTAMPS
        || packet.flags & USUAL != ACK
        || packet.seq != isn.wrapping_add(1)
        || packet.payload as usize > MAX_PAYLOAD
        || age > PATIENCE
        || is_older(sent, known)
    {
        return What::Unusual;
    }
    if known.read(word::IFINDEX) != Some(sent.ifindex) {
        // A port of a bridge or a bond, by which the SYN has come before.
        return What::Passing;
    }
    if !is_wanted(sent) || !is_steered(key) {
        return What::Unusual;
    }
    let Some(scale) = own_scale(ctx, key, packet) else {
        return What::Unusual;
    };
    match packet.payload {
        0 => What::Greets,
        _ => What::Is(kind::FIRST | u32::from(scale) << SCALE),
    }
}

/// A packet of a client of which one was taken.
#[inline(always)] // as above
fn next(sent: &Sent, isn: u32, age: u32, seen: u32, known: &Place) -> What {
    let packet = sent.packet;
    let is_syn = packet.flags & (SYN | ACK) == SYN;
    if is_syn && packet.seq != isn && seen & seen::RST != 0 || age > MOST_TAKEN {
        // A new connection, or the daemon is gone. A SYN alone may be anybody's.
        return What::Unusual;
    }
    let is_next = known.read(word::END) == Some(packet.seq);
    if packet.flags & RST != 0 {
        // Of others, nobody knows who has sent them (RFC 5961, section 3.2).
        return match is_next && packet.payload == 0 {
            true => What::Noted,
            false => What::Early,
        };
    }
    // Since the SYN-ACK nothing was said to it that it could acknowledge, and its clock goes into the connection.
    let is_usual = sent.flags & seen::TIMESTAMPS != 0 && known.read(word::ACK) == Some(packet.ack);
    if !is_next
        || !is_usual
        || packet.payload == 0
        || packet.flags & USUAL != ACK
        || packet.payload as usize > MAX_PAYLOAD
    {
        return What::Early;
    }
    What::Is(kind::NEXT)
}

/// A packet of an endpoint to which the daemon has sent a SYN. Others than its answer are the stack's: of an
/// older connection, they get a RST.
#[inline(always)] // as above
fn answer(sent: &Sent, isn: u32) -> What {
    let packet = sent.packet;
    if packet.ack != isn.wrapping_add(1) {
        return What::Unusual;
    }
    match packet.flags & (SYN | ACK | RST) {
        SYN_ACK if packet.payload == 0 => What::Is(kind::ANSWER),
        RST_ACK => What::Is(kind::REFUSAL),
        _ => What::Unusual,
    }
}

/// Whether the stack would not take even a RST in its place, as it is older than the SYN (RFC 7323, section 5.2).
#[inline(always)] // as above
fn is_older(sent: &Sent, known: &Place) -> bool {
    known
        .read(word::TSVAL)
        .is_none_or(|tsval| before(sent.facts.tsval, tsval))
}

/// Whether a handshake has one of these flags by now.
#[inline(always)] // as above
fn has(known: &Place, flags: u32) -> bool {
    known.read(word::FLAGS).unwrap_or(0) & flags != 0
}

/// Whether the daemon waits for an answer here: a SYN of somebody else's does not end that.
#[inline(always)] // as above
fn is_awaited(sent: &Sent, known: &Place) -> bool {
    let read = [word::FLAGS, word::SINCE].map(|index| known.read(index));
    let [Some(flags), Some(since)] = read else {
        return false;
    };
    flags & seen::AWAITED != 0 && is_opening(flags, sent.now.wrapping_sub(since))
}

/// Whether the daemon takes clients of the interface that the packet came by.
#[inline(always)] // as above
fn is_wanted(sent: &Sent) -> bool {
    let Some(word) = UNTIL.get_ptr(until::index(sent.ifindex)) else {
        return false;
    };
    // SAFETY: the pointer is into an array map, and a word is read whole.
    #[allow(unsafe_code, reason = "map values are raw pointers")]
    let word = unsafe { word.read_volatile() };
    until::is_ahead(word, sent.ifindex, sent.now)
}

/// Whether the packet is for a listener.
#[inline(always)] // as above
fn is_steered(key: &FlowKey) -> bool {
    let (addr, port) = (network_words(key.dst), key.dport());
    RULES.get_ptr(RuleKey::new(addr, port)).is_some() || RULES.get_ptr(RuleKey::any(port)).is_some()
}

/// Puts what is known of a packet into the buffer.
#[inline(always)] // as above
fn fill(sent: &Sent, kind: u32, flags: u32, since: u32) {
    let Some(buffer) = BUFFER.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the entry belongs to this CPU.
    #[allow(unsafe_code, reason = "map values are raw pointers")]
    let taken = unsafe { &mut (*buffer).taken };
    let Sent { packet, facts, .. } = sent;
    // One by one, since a stack frame has no room for all of them.
    taken.key = *sent.key;
    taken.kind = kind & KIND;
    taken.own_scale = kind >> SCALE;
    taken.seq = packet.seq;
    taken.ack = packet.ack;
    taken.tsval = facts.tsval;
    taken.tsecr = facts.tsecr;
    taken.flags = flags;
    taken.since = since;
    taken.ifindex = sent.ifindex;
    taken.window = packet.window;
    taken.len = packet.payload as u16;
}

/// Hands a packet to the daemon, of which the buffer has all but the payload. False where there is no room.
#[inline(never)] // with a stack frame of its own
#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "map values are raw pointers, and helpers unsafe"
)]
pub fn output(ctx: &TcContext, packet: &Packet) -> bool {
    let Some(buffer) = BUFFER.get_ptr_mut(0) else {
        return false;
    };
    let at = packet.transport + packet.header;
    let mut len = 0;
    if packet.payload > 0 {
        let Some(bytes) = bounded(packet.payload, MAX_PAYLOAD as u32) else {
            return false;
        };
        len = bytes;
        // SAFETY: the entry belongs to this CPU, and has room for this many bytes.
        let loaded = unsafe {
            let payload = (&raw mut (*buffer).payload).cast();
            bpf_skb_load_bytes(ctx.skb.skb.cast(), at, payload, len)
        };
        if loaded != 0 {
            return false;
        }
    }
    // SAFETY: as above.
    let bytes = unsafe {
        core::slice::from_raw_parts(buffer.cast::<u8>(), size_of::<Taken>() + len as usize)
    };
    TAKEN.output::<[u8]>(bytes, 0).is_ok()
}

/// Makes a RST of a packet, for the stack. It is one that the stack takes, since it is the next of its stream
/// (`tcp_check_req()`, net/ipv4/tcp_minisocks.c).
#[inline(always)] // as above
#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "helpers are unsafe"
)]
pub fn reset(ctx: &TcContext, packet: &Packet) {
    let skb = ctx.skb.skb;
    let at = packet.transport + TCP_FLAGS;
    let new = packet.flags | RST;
    // What is in front of them does not change, whatever it is.
    let [from, to] = [packet.flags, new].map(|flags| u16::from_ne_bytes([0, flags]).into());
    let sum = packet.transport + TCP_SUM;
    // Neither fails on a packet whose header was there a moment ago; if it did, the stack would drop what
    // it gets, or wait in vain.
    // SAFETY: the helpers check what they are given.
    unsafe {
        bpf_l4_csum_replace(skb, sum, from, to, 2);
        bpf_skb_store_bytes(skb.cast(), at, (&raw const new).cast(), 1, 0);
    }
}

/// Bits of a kind, and what is behind them.
const KIND: u32 = 0xffff;
const SCALE: u32 = 16;

/// What a client's SYN must have agreed to.
const NEEDED: u32 = seen::TIMESTAMPS | seen::SACK | seen::SCALED;
/// What nothing may have shown.
const HINDERS: u32 =
    seen::SIGNED | seen::COUNTS_MARKS | seen::PASSED | seen::RESUMED | seen::FIN | seen::RST;
/// Flags of which a usual packet has ACK alone.
const USUAL: u8 = FIN | SYN | RST | ACK | URG;
const SYN_ACK: u8 = SYN | ACK;
const RST_ACK: u8 = RST | ACK;

/// How long after a SYN its client's hello is taken, in ms: less than the second after which the stack sends
/// its SYN-ACK again.
const PATIENCE: u32 = 500;
