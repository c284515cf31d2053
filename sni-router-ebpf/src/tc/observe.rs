//! Remembering what handshakes and hellos look like, for the hand-over to come.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use sni_router_common::flow::{FlowKey, before};
use sni_router_common::handshake::{Seen, Slot, Tag, WAYS, millis, seen, word};
use sni_router_common::options::Facts;

use super::intact::is_intact;
use super::packet::{ACK, CWR, FIN, Packet, RST, SYN, TCP_HEADER, load_options};
use crate::maps::SEEN;

/// Takes notes of a packet that goes to the local stack.
#[inline(never)] // with a stack frame of its own: a BPF function has 512 bytes
pub fn observe(ctx: &TcContext, key: &FlowKey, packet: &Packet) {
    let Some(secret) = secret() else { return };
    let tag = Tag::of(key, secret);
    let known = Place::find(tag);
    if packet.flags & SYN == 0 {
        if let Some(known) = known
            && is_intact(ctx, key, packet)
        {
            update(ctx, packet, &known);
        }
        return;
    }
    if known
        .as_ref()
        .is_some_and(|known| is_repeated(packet, known))
    {
        return;
    }
    // SAFETY: a helper without arguments.
    #[allow(unsafe_code, reason = "helpers are unsafe")]
    let since = millis(unsafe { bpf_ktime_get_ns() });
    let Some(place) = known.or_else(|| Place::oldest(tag, since)) else {
        return;
    };
    let facts = read_options(ctx, packet);
    let next = Seen {
        isn: packet.seq,
        end: packet.seq.wrapping_add(1 + packet.payload),
        ack: packet.ack,
        tsval: facts.tsval,
        tsecr: facts.tsecr,
        ifindex: ifindex(ctx),
        flags: flags(&facts, packet),
        since,
    };
    for (index, word) in next.slot(tag).into_iter().enumerate() {
        place.write(index, word);
    }
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
struct Place {
    slot: *mut Slot,
    tag: Tag,
}

#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "map values are raw pointers"
)]
impl Place {
    /// Where this one is.
    #[inline(always)] // the verifier follows map pointers through one function only
    fn find(tag: Tag) -> Option<Self> {
        for way in 0..WAYS as u32 {
            let slot = SEEN.get_ptr_mut(tag.first() + way)?;
            let place = Self { slot, tag };
            // Two words have the whole tag.
            if place.read(word::ISN).is_some() && place.read(word::END).is_some() {
                return Some(place);
            }
        }
        None
    }

    /// Where it may get: a place that nobody has used, or that of the oldest.
    #[inline(always)] // as above
    fn oldest(tag: Tag, now: u32) -> Option<Self> {
        let (mut most, mut oldest) = (0, 0);
        for way in 0..WAYS as u32 {
            let slot = SEEN.get_ptr(tag.first() + way)?;
            // SAFETY: of a pointer into an array map; words are read whole.
            let (first, last) = unsafe {
                (
                    (&raw const (*slot)[word::ISN]).read_volatile(),
                    (&raw const (*slot)[word::SINCE]).read_volatile(),
                )
            };
            let age = match first {
                0 => i64::MAX,
                // Less than nothing where another CPU was here in between.
                _ => (now.wrapping_sub(last as u32) as i32).into(),
            };
            if age > most {
                (most, oldest) = (age, way);
            }
        }
        let slot = SEEN.get_ptr_mut(tag.first() + oldest)?;
        Some(Self { slot, tag })
    }

    /// A number of the handshake; `None` if this is another one's.
    #[inline(always)] // as above
    fn read(&self, index: usize) -> Option<u32> {
        // SAFETY: of a pointer into an array map; a word is read whole.
        let word = unsafe { (&raw const (*self.slot)[index]).read_volatile() };
        self.tag.value(index, word)
    }

    #[inline(always)] // as above
    fn note(&self, index: usize, value: u32) {
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
fn is_repeated(packet: &Packet, known: &Place) -> bool {
    let end = packet.seq.wrapping_add(1 + packet.payload);
    let is_behind = known.read(word::END).is_some_and(|seen| before(end, seen));
    is_behind && known.read(word::ISN) == Some(packet.seq)
}

#[inline(always)] // as above
fn update(ctx: &TcContext, packet: &Packet, known: &Place) {
    let facts = read_options(ctx, packet);
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
    if facts.has_timestamps {
        known.note(word::TSVAL, facts.tsval);
        known.note(word::TSECR, facts.tsecr);
    }
    // Timestamps are agreed upon if a packet other than the SYN has them.
    let lasting = known.read(word::FLAGS).unwrap_or(0) & !seen::TIMESTAMPS;
    known.note(word::FLAGS, lasting | flags(&facts, packet));
}

fn read_options(ctx: &TcContext, packet: &Packet) -> Facts {
    let mut facts = Facts::default();
    if let Some(options) = load_options(ctx, packet, TCP_HEADER) {
        // SAFETY: the entry belongs to this CPU.
        #[allow(unsafe_code, reason = "map values are raw pointers")]
        unsafe { &mut *options }.read(&mut facts);
    }
    facts
}

fn flags(facts: &Facts, packet: &Packet) -> u32 {
    let mut flags = 0;
    if facts.has_timestamps {
        flags |= seen::TIMESTAMPS;
    }
    if facts.is_signed {
        flags |= seen::SIGNED;
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
