//! Loading a program, again if need be.

use std::io;

use aya::programs::ProgramError;

/// Loads a program: the verifier gives up when a signal is pending (`do_check()`, kernel/bpf/verifier.c).
pub fn verified(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    for _ in 1..ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
    load()
}

const ATTEMPTS: u32 = 10;
