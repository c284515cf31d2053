//! Remembering what handshakes and hellos look like, for the hand-over to come.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use sni_router_common::flow::{FlowKey, before};
use sni_router_common::handshake::{Slot, Tag, WAYS, millis, seen, word};
use sni_router_common::options::Facts;
use sni_router_common::taken::is_opening;

use super::intact::is_intact;
use super::packet::{ACK, CWR, ECE, FIN, Packet, RST, SYN, TCP_HEADER, load_options};
use super::take::{self, What};
use crate::maps::{OPTIONS, SEEN};

/// What becomes of a packet that is of no flow.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Observed {
    /// It goes to the local stack.
    Passed,
    /// The same, if there is no flow: nothing is known of what its sender has said before.
    Unknown,
    /// The daemon has it, or needs nothing of it; the stack does not get it.
    Taken,
    /// The same, but the stack gets a RST instead of it, which ends what it knows of the connection.
    Ended,
    /// It comes before the connection is open, and will come again.
    Early,
}

/// Takes notes of a packet that goes to the local stack, or takes it.
///
/// In steps, each a function of its own, one called after the other: a BPF function and those that it calls
/// have 512 bytes of stack together.
#[inline(always)] // one call
pub fn observe(ctx: &TcContext, key: &FlowKey, packet: &Packet) -> Observed {
    match snir_observe(ctx.skb.skb, key, packet) {
        TAKEN => Observed::Taken,
        ENDED => Observed::Ended,
        EARLY => Observed::Early,
        UNKNOWN => Observed::Unknown,
        _ => Observed::Passed,
    }
}

/// The same as a [global function](super).
#[unsafe(no_mangle)]
#[inline(never)]
#[allow(
    unsafe_code,
    reason = "pointers are all that it can be given, and the name is the linker's"
)]
pub extern "C" fn snir_observe(
    skb: *mut __sk_buff,
    key: *const FlowKey,
    packet: *const Packet,
) -> u32 {
    // They are of references, but the verifier does not know.
    // SAFETY: hence; here and below.
    let key = unsafe { key.as_ref() };
    // SAFETY: as above.
    let packet = unsafe { packet.as_ref() };
    let (Some(key), Some(packet)) = (key, packet) else {
        return Observed::Passed as u32;
    };
    judge(&TcContext::new(skb), key, packet) as u32
}

const TAKEN: u32 = Observed::Taken as u32;
const ENDED: u32 = Observed::Ended as u32;
const EARLY: u32 = Observed::Early as u32;
const UNKNOWN: u32 = Observed::Unknown as u32;

#[inline(always)] // as above
fn judge(ctx: &TcContext, key: &FlowKey, packet: &Packet) -> Observed {
    let tag = tag(key);
    if tag == 0 {
        return Observed::Passed;
    }
    let slot = find(tag);
    if slot == 0 && packet.flags & SYN == 0 {
        return Observed::Unknown;
    }
    if slot != 0 && !is_intact(ctx, key, packet) {
        return Observed::Passed;
    }
    read_options(ctx, packet);
    match slot {
        0 => begin_oldest(ctx, key, packet, tag),
        slot => {
            let what = take::judge(ctx, key, packet, tag, slot);
            let what = match what {
                What::Is(_) if !take::output(ctx, packet) => What::Lost,
                what => what,
            };
            let observed = go_on(ctx, key, packet, tag, u64::from(slot) | what.bits() << 32);
            if observed == Observed::Ended {
                take::reset(ctx, packet);
            }
            observed
        }
    }
}

/// The bits of a key's tag; 0 where nobody has put a secret in.
#[inline(never)] // as above
fn tag(key: &FlowKey) -> u64 {
    secret().map_or(0, |secret| Tag::of(key, secret).bits())
}

/// In which slot the handshake of a tag is; 0 if in none.
#[inline(never)] // as above
fn find(tag: u64) -> u32 {
    let tag = Tag::from_bits(tag);
    for way in 0..WAYS as u32 {
        let index = tag.first() + way;
        let is_there = Place::at(index, tag).is_some_and(|place| {
            // Two words have the whole tag.
            place.read(word::ISN).is_some() && place.read(word::END).is_some()
        });
        if is_there {
            return index;
        }
    }
    0
}

/// Notes the SYN of a handshake that is not known.
#[inline(never)] // as above
fn begin_oldest(ctx: &TcContext, key: &FlowKey, packet: &Packet, tag: u64) -> Observed {
    let Some(facts) = facts() else {
        return Observed::Passed;
    };
    let sent = Sent::new(ctx, key, packet, &facts);
    if let Some(place) = Place::oldest(Tag::from_bits(tag), sent.now) {
        begin(&sent, &place);
    }
    match packet.flags & ACK {
        0 => Observed::Passed,
        // An endpoint's, which may have come before.
        _ => Observed::Unknown,
    }
}

/// Notes a packet of a handshake that is known. `place` is its slot and, in the upper half, [what](What) it is.
#[inline(never)] // as above
fn go_on(ctx: &TcContext, key: &FlowKey, packet: &Packet, tag: u64, place: u64) -> Observed {
    let known = Place::at(place as u32, Tag::from_bits(tag));
    let (Some(known), Some(facts)) = (known, facts()) else {
        return Observed::Passed;
    };
    let sent = Sent::new(ctx, key, packet, &facts);
    take::note(&sent, &known, What::of((place >> 32) as u32))
}

/// What is known of a packet.
pub struct Sent<'p> {
    pub key: &'p FlowKey,
    pub packet: &'p Packet,
    pub facts: &'p Facts,
    /// What it says, as [`seen`] has it.
    pub flags: u32,
    /// The time, in [milliseconds](millis).
    pub now: u32,
    /// The interface it came in by.
    pub ifindex: u32,
}

impl<'p> Sent<'p> {
    #[inline(always)] // part of two functions
    pub fn new(ctx: &TcContext, key: &'p FlowKey, packet: &'p Packet, facts: &'p Facts) -> Self {
        Self {
            key,
            packet,
            facts,
            flags: flags(facts, packet),
            now: now(),
            ifindex: ifindex(ctx),
        }
    }
}

/// Notes a SYN.
#[inline(always)] // the verifier follows map pointers through one function only
pub fn begin(sent: &Sent, place: &Place) {
    let Sent { packet, facts, .. } = sent;
    // One by one, since a stack frame has no room for all of them.
    place.note(word::ISN, packet.seq);
    place.note(word::END, packet.seq.wrapping_add(1 + packet.payload));
    place.note(word::ACK, packet.ack);
    place.note(word::TSVAL, facts.tsval);
    place.note(word::TSECR, facts.tsecr);
    place.note(word::IFINDEX, sent.ifindex);
    place.note(word::FLAGS, sent.flags);
    place.note(word::SINCE, sent.now);
}

/// What the daemon has put in; `None` before it has.
fn secret() -> Option<[u64; 2]> {
    let slot = SEEN.get_ptr(0)?;
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "map values are raw pointers"
    )]
    // SAFETY: the pointer is into an array map, and words are read whole.
    let secret = unsafe {
        [
            (&raw const (*slot)[0]).read_volatile(),
            (&raw const (*slot)[1]).read_volatile(),
        ]
    };
    (secret[0] != 0 && secret[1] != 0).then_some(secret)
}

/// Where a handshake is, or gets.
pub struct Place {
    slot: *mut Slot,
    tag: Tag,
}

#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "map values are raw pointers"
)]
impl Place {
    #[inline(always)] // the verifier follows map pointers through one function only
    pub fn at(slot: u32, tag: Tag) -> Option<Self> {
        let slot = SEEN.get_ptr_mut(slot)?;
        Some(Self { slot, tag })
    }

    /// Where it may get: a place that nobody has used, or that of the oldest. Not that of a connection that is being
    /// opened, whose packets the stack would reset: nobody has such a place who has only sent a SYN.
    #[inline(always)] // as above
    fn oldest(tag: Tag, now: u32) -> Option<Self> {
        let (mut most, mut oldest) = (-1, None);
        for way in 0..WAYS as u32 {
            let slot = SEEN.get_ptr(tag.first() + way)?;
            // SAFETY: of a pointer into an array map; words are read whole.
            let (first, flags, last) = unsafe {
                (
                    (&raw const (*slot)[word::ISN]).read_volatile(),
                    (&raw const (*slot)[word::FLAGS]).read_volatile(),
                    (&raw const (*slot)[word::SINCE]).read_volatile(),
                )
            };
            let age = match first {
                0 => i64::from(u32::MAX),
                // Nothing where another CPU was here in between.
                _ => i64::from(now.wrapping_sub(last as u32) as i32).max(0),
            };
            if age > most && !is_opening(flags as u32, age as u32) {
                (most, oldest) = (age, Some(way));
            }
        }
        let slot = SEEN.get_ptr_mut(tag.first() + oldest?)?;
        Some(Self { slot, tag })
    }

    /// A number of the handshake; `None` if this is another one's.
    #[inline(always)] // as above
    pub fn read(&self, index: usize) -> Option<u32> {
        // SAFETY: of a pointer into an array map; a word is read whole.
        let word = unsafe { (&raw const (*self.slot)[index]).read_volatile() };
        self.tag.value(index, word)
    }

    #[inline(always)] // as above
    pub fn note(&self, index: usize, value: u32) {
        self.write(index, self.tag.word(index, value));
    }

    #[inline(always)] // as above
    fn write(&self, index: usize, word: u64) {
        // SAFETY: as above; a word is written whole.
        unsafe { (&raw mut (*self.slot)[index]).write_volatile(word) };
    }
}

/// Whether a SYN comes again, behind what was sent after it: it takes nothing back.
#[inline(always)] // as above
pub fn is_repeated(packet: &Packet, known: &Place) -> bool {
    let end = packet.seq.wrapping_add(1 + packet.payload);
    let is_behind = known.read(word::END).is_some_and(|seen| before(end, seen));
    is_behind && known.read(word::ISN) == Some(packet.seq)
}

/// Notes what a packet says, and flags besides.
#[inline(always)] // as above
pub fn update(sent: &Sent, known: &Place, more: u32) {
    let Sent { packet, facts, .. } = sent;
    let fin = u32::from(packet.flags & FIN != 0);
    let end = packet.seq.wrapping_add(packet.payload).wrapping_add(fin);
    // The packets of one side mostly come by one CPU. Where they do not, this may go back: the daemon
    // reads once more than it says.
    if known.read(word::END).is_some_and(|seen| before(seen, end)) {
        known.note(word::END, end);
    }
    if packet.flags & ACK != 0 {
        known.note(word::ACK, packet.ack);
    }
    if facts.flags & seen::TIMESTAMPS != 0 {
        known.note(word::TSVAL, facts.tsval);
        known.note(word::TSECR, facts.tsecr);
    }
    // Timestamps are agreed upon if a packet other than the SYN has them.
    let lasting = known.read(word::FLAGS).unwrap_or(0) & !seen::TIMESTAMPS;
    known.note(word::FLAGS, lasting | sent.flags | more);
}

/// Reads a packet's options, to where [`facts`] finds what they say.
#[inline(never)] // as above
fn read_options(ctx: &TcContext, packet: &Packet) {
    if load_options(ctx, packet, TCP_HEADER).is_none() {
        let Some(options) = OPTIONS.get_ptr_mut(0) else {
            return;
        };
        // SAFETY: the entry belongs to this CPU.
        #[allow(unsafe_code, reason = "map values are raw pointers")]
        unsafe { &mut *options }.clear();
    }
    snir_read_options();
}

/// Reads the options that lie in this CPU's place. A [global function](super).
#[unsafe(no_mangle)]
#[inline(never)]
#[allow(
    unsafe_code,
    reason = "map values are raw pointers, and the name is the linker's"
)]
pub extern "C" fn snir_read_options() -> u32 {
    let Some(options) = OPTIONS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: as above.
    unsafe { &mut *options }.read();
    0
}

#[inline(always)] // returns more than fits into a register
pub fn facts() -> Option<Facts> {
    let options = OPTIONS.get_ptr(0)?;
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "map values are raw pointers")]
    Some(unsafe { &*options }.facts())
}

#[inline(always)] // as above
fn flags(facts: &Facts, packet: &Packet) -> u32 {
    let mut flags = facts.flags;
    if packet.flags & SYN == 0 {
        // The others are for SYNs.
        flags &= seen::TIMESTAMPS | seen::SIGNED;
    } else if packet.flags & (ECE | CWR) != 0 {
        flags |= seen::ECN;
    }
    if counts_marks(packet) {
        flags |= seen::COUNTS_MARKS;
    }
    if packet.flags & FIN != 0 {
        flags |= seen::FIN;
    }
    if packet.flags & RST != 0 {
        flags |= seen::RST;
    }
    flags
}

/// Whether a packet is of a connection with Accurate ECN (RFC 9768): by the answer to a SYN (section
/// 3.1.2), or by a counter of marks that begins with 5 (section 3.2.1), of which AE is the highest bit. A
/// SYN only asks for it. A client's first acknowledgement has no counter yet: one that carries the hello
/// does not show it.
fn counts_marks(packet: &Packet) -> bool {
    match packet.flags & (SYN | ACK) {
        SYN => false,
        flags => packet.has_ae || (flags & SYN != 0 && packet.flags & CWR != 0),
    }
}

fn now() -> u32 {
    // SAFETY: a helper without arguments.
    #[allow(unsafe_code, reason = "helpers are unsafe")]
    millis(unsafe { bpf_ktime_get_ns() })
}

fn ifindex(ctx: &TcContext) -> u32 {
    #[allow(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "context access"
    )]
    // SAFETY: the context is valid while the program runs.
    unsafe {
        (&raw const (*ctx.skb.skb).ifindex).read_volatile()
    }
}
