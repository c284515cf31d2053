//! TCP options: reading them, and rewriting those that carry positions or clocks.
//!
//! One loop walks the bytes, and every round does one small thing. Where it is and what is left of
//! an option is kept in [`Memory`]: so neither the compiler nor the kernel's verifier
//! follows the numbers from round to round. The compiler would leave out bounds checks that the
//! verifier wants to see; the verifier would walk every way through forty bytes on its own, which
//! is more than it is ready to do.

use zerocopy::IntoBytes as _;

use crate::flow::{Flow, option};
use crate::handshake::seen;

/// Most bytes of options in a TCP header.
pub const MAX_OPTIONS: usize = 40;

/// The options of a packet, and how far they have been walked. In the kernel this lies in a map.
#[repr(C, align(8))]
#[derive(Debug)]
pub struct Options {
    /// The options as in memory; what is behind `len` bytes is anything.
    pub words: [u32; MAX_OPTIONS / 4],
    /// How many bytes there are.
    pub len: Memory,
    at: Memory,
    /// Numbers of four bytes to add to, from `at` on.
    edges: Memory,
    /// Bytes to blank, from `at` on.
    blanks: Memory,
    /// What was read; see [`Facts`].
    flags: Memory,
    tsval: Memory,
    tsecr: Memory,
    /// What is added, and to what: as in [`Flow`].
    ack_add: Memory,
    ts_add: Memory,
    ecr_add: Memory,
    agreed: Memory,
    /// Nothing.
    _pad: u32,
}

/// What options say that matters before the hand-over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What there is, as [`seen`] has it.
    pub flags: u32,
    /// The TSval of timestamps, if there are any.
    pub tsval: u32,
    /// Their TSecr.
    pub tsecr: u32,
}

/// A number that is read and written as the code says, though nobody else looks.
#[repr(transparent)]
#[derive(Debug)]
pub struct Memory(u32);

impl Memory {
    const fn new(value: u32) -> Self {
        Self(value)
    }

    /// Puts a number in.
    #[allow(unsafe_code, reason = "volatile access")]
    pub fn store(&mut self, value: u32) {
        // SAFETY: the pointer is that of a reference.
        unsafe { (&raw mut self.0).write_volatile(value) };
    }

    #[allow(unsafe_code, reason = "volatile access")]
    fn load(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (&raw const self.0).read_volatile() }
    }
}

impl Options {
    /// Of `len` bytes at the start of `bytes`.
    pub fn new(bytes: [u8; MAX_OPTIONS], len: u32) -> Self {
        Self {
            words: zerocopy::transmute!(bytes),
            len: Memory::new(len),
            at: Memory::new(0),
            edges: Memory::new(0),
            blanks: Memory::new(0),
            flags: Memory::new(0),
            tsval: Memory::new(0),
            tsecr: Memory::new(0),
            ack_add: Memory::new(0),
            ts_add: Memory::new(0),
            ecr_add: Memory::new(0),
            agreed: Memory::new(0),
            _pad: 0,
        }
    }

    /// Rewrites timestamps (RFC 7323) and SACK blocks (RFC 2018). What follows a malformed option
    /// stays as it is.
    pub fn rewrite(&mut self, flow: &Flow) {
        self.aim(flow);
        self.walk();
    }

    /// Notes what there is to do to packets of a flow, for [`walk`](Self::walk), which knows no flow.
    #[inline(always)] // four loads and stores
    pub fn aim(&mut self, flow: &Flow) {
        self.ack_add.store(flow.ack_add);
        self.ts_add.store(flow.ts_add);
        self.ecr_add.store(flow.ecr_add);
        self.agreed.store(flow.options.into());
    }

    /// Does it: both together are [`rewrite`](Self::rewrite).
    pub fn walk(&mut self) {
        self.start();
        for _ in 0..ROUNDS {
            if !self.rewrite_one() {
                break;
            }
        }
    }

    /// There are none.
    pub fn clear(&mut self) {
        self.len.store(0);
    }

    /// Reads them, for [`facts`](Self::facts).
    pub fn read(&mut self) {
        self.start();
        self.flags.store(0);
        for _ in 0..MAX_OPTIONS {
            if !self.read_one() {
                break;
            }
        }
    }

    /// What they were read to say.
    pub fn facts(&self) -> Facts {
        Facts {
            flags: self.flags.load(),
            tsval: self.tsval.load(),
            tsecr: self.tsecr.load(),
        }
    }

    /// One round; false at the end.
    #[inline(never)] // or the compiler unrolls the loop, and runs out of stack
    fn rewrite_one(&mut self) -> bool {
        let at = self.at();
        let agreed = self.agreed.load() as u8;
        if self.edges.load() > 0 {
            self.add(at, self.ack_add.load());
            self.at.store(at + 4);
            self.edges.store(self.edges.load() - 1);
            return true;
        }
        if self.blanks.load() > 0 {
            self.blank(at);
            self.at.store(at + 1);
            self.blanks.store(self.blanks.load() - 1);
            return true;
        }
        let Some((kind, size)) = self.next() else {
            return false;
        };
        match kind {
            TIMESTAMPS if size == 10 && agreed & option::TIMESTAMPS != 0 => {
                self.add(at + 2, self.ts_add.load());
                self.add(at + 6, self.ecr_add.load());
            }
            SACK if agreed & option::NO_SACK != 0 => {
                self.at.store(at);
                self.blanks.store(size);
            }
            // Not a whole number of blocks: no receiver reads it, and the walk is behind it.
            SACK if size % 8 != 2 => {}
            SACK => {
                self.at.store(at + 2);
                self.edges.store((size - 2) / 4);
            }
            _ => {}
        }
        true
    }

    /// One round; false at the end.
    #[inline(never)] // as above
    fn read_one(&mut self) -> bool {
        let at = self.at();
        let Some((kind, size)) = self.next() else {
            return false;
        };
        let said = match kind {
            TIMESTAMPS if size == 10 => {
                self.tsval.store(self.number(at + 2));
                self.tsecr.store(self.number(at + 6));
                seen::TIMESTAMPS
            }
            MD5 | AO => seen::SIGNED,
            SACK_PERMITTED if size == 2 => seen::SACK,
            SEGMENT if size == 4 => seen::segments(self.number(at) as u16),
            SCALE if size == 3 => seen::scaled(self.byte_at(at + 2)),
            _ => 0,
        };
        self.flags.store(self.flags.load() | said);
        true
    }

    /// The sum of all words, to be taken before and after rewriting.
    pub fn sum(&self) -> u64 {
        self.words.iter().map(|&word| u64::from(word)).sum()
    }

    /// The option that is here, and its size; the walk goes on behind it. `None` at the end, and
    /// where an option is not all there.
    #[inline(always)] // returns two values
    fn next(&mut self) -> Option<(u8, u32)> {
        let (at, len) = (self.at(), self.len.load());
        if at >= len || at as usize >= MAX_OPTIONS {
            return None;
        }
        let kind = self.byte(at);
        if kind == END {
            return None;
        }
        let size = if kind == NOP { 1 } else { self.size(at) };
        if size == 0 || at + size > len {
            return None;
        }
        self.at.store(at + size);
        Some((kind, size))
    }

    /// 0 if there is none, or if it is none.
    #[inline(always)] // small
    fn size(&self, at: u32) -> u32 {
        if at as usize >= MAX_OPTIONS - 1 {
            return 0;
        }
        let size = u32::from(self.byte(at + 1));
        if size < 2 { 0 } else { size }
    }

    #[inline(always)] // small
    fn bytes(&mut self) -> &mut [u8] {
        self.words.as_mut_bytes()
    }

    #[inline(always)] // small
    fn byte(&self, at: u32) -> u8 {
        self.words.as_bytes()[at as usize]
    }

    /// 0 where there is none.
    #[inline(always)] // small
    fn byte_at(&self, at: u32) -> u8 {
        if at as usize >= MAX_OPTIONS {
            return 0;
        }
        self.byte(at)
    }

    fn start(&mut self) {
        self.at.store(0);
        self.edges.store(0);
        self.blanks.store(0);
    }

    #[inline(always)] // one load
    fn at(&self) -> u32 {
        self.at.load()
    }

    /// Nothing where the four bytes are not all there; here and below.
    #[inline(always)] // small
    fn add(&mut self, at: u32, by: u32) {
        let at = at as usize;
        if at <= MAX_OPTIONS - 4 {
            let new = self.number(at as u32).wrapping_add(by).to_be_bytes();
            let bytes = self.bytes();
            bytes[at] = new[0];
            bytes[at + 1] = new[1];
            bytes[at + 2] = new[2];
            bytes[at + 3] = new[3];
        }
    }

    #[inline(always)] // small
    fn number(&self, at: u32) -> u32 {
        let at = at as usize;
        if at > MAX_OPTIONS - 4 {
            return 0;
        }
        let bytes = self.words.as_bytes();
        u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    #[inline(always)] // small
    fn blank(&mut self, at: u32) {
        if (at as usize) < MAX_OPTIONS {
            self.bytes()[at as usize] = NOP;
        }
    }
}

/// An option is a round, and each byte of it one more where it is blanked; the shortest have two.
const ROUNDS: usize = MAX_OPTIONS + MAX_OPTIONS / 2;

// https://www.iana.org/assignments/tcp-parameters
const END: u8 = 0;
const NOP: u8 = 1;
const SEGMENT: u8 = 2;
const SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const MD5: u8 = 19;
const AO: u8 = 29;
