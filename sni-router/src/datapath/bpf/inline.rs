//! Putting instructions into the object that its compiler cannot make.

use object::elf::SHF_EXECINSTR;
use object::{File, Object as _, ObjectSection as _, SectionFlags};

/// What is put in the place of calls with these numbers.
pub type Inlined = [(i32, Instruction); 2];

/// An instruction, as the kernel reads it (`struct bpf_insn`, include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction([u8; 8]);

impl Instruction {
    /// Register 0 becomes what a function of the kernel makes of register 1; it has this number among the kernel's
    /// types.
    pub fn call_of_kernel(function: u32) -> Option<Self> {
        let number = i32::try_from(function).ok()?;
        Some(Self::new(CALL, PSEUDO_KFUNC_CALL << 4, 0, number))
    }

    /// Register 0 becomes the byte that is so far behind where register 1 points to.
    pub fn load_byte(offset: i16) -> Self {
        Self::new(LOAD_BYTE, 1 << 4, offset, 0)
    }

    /// A call of a helper.
    fn call(number: i32) -> Self {
        Self::new(CALL, 0, 0, number)
    }

    fn new(code: u8, registers: u8, offset: i16, immediate: i32) -> Self {
        let [o0, o1] = offset.to_ne_bytes();
        let [i0, i1, i2, i3] = immediate.to_ne_bytes();
        Self([code, registers, o0, o1, i0, i1, i2, i3])
    }
}

/// The object with them in it; `None` if it is none, or has no such calls.
pub fn inline(object: &[u8], inlined: &Inlined) -> Option<Vec<u8>> {
    let mut found = object.to_vec();
    let mut is_found = [false; 2];
    for section in File::parse(object).ok()?.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else {
            continue;
        };
        if sh_flags & u64::from(SHF_EXECINSTR) == 0 {
            continue;
        }
        let (start, len) = section.file_range()?;
        let (start, len) = (usize::try_from(start).ok()?, usize::try_from(len).ok()?);
        let (instructions, _) = found.get_mut(start..start + len)?.as_chunks_mut::<8>();
        for instruction in instructions {
            for (has, (number, other)) in is_found.iter_mut().zip(inlined) {
                if *instruction == Instruction::call(*number).0 {
                    *instruction = other.0;
                    *has = true;
                }
            }
        }
    }
    is_found.iter().all(|has| *has).then_some(found)
}

// include/uapi/linux/bpf.h and bpf_common.h
const CALL: u8 = 0x85;
const LOAD_BYTE: u8 = 0x71;
const PSEUDO_KFUNC_CALL: u8 = 2;
