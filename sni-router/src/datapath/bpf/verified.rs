//! Loading a program, again if need be, and what the verifier says when it refuses one.

use std::io;

use aya::programs::ProgramError;
use thiserror::Error;
use tracing::debug;

/// Why a program is not loaded.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The verifier has said why.
    #[error("\"{0}\"")]
    Verifier(String, #[source] io::Error),
    /// The kernel has not come to that.
    #[error("it is not loaded")]
    Kernel(#[source] io::Error),
    /// Not even the kernel was asked.
    #[error(transparent)]
    Other(ProgramError),
}

/// Loads a program: the verifier gives up when a signal is pending (`do_check()`, kernel/bpf/verifier.c).
pub fn verified(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), Refusal> {
    for _ in 1..ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other.map_err(Refusal::from),
        }
    }
    Ok(load()?)
}

impl From<ProgramError> for Refusal {
    fn from(error: ProgramError) -> Self {
        let ProgramError::LoadError {
            io_error,
            verifier_log,
        } = error
        else {
            return Self::Other(error);
        };
        let log = verifier_log.to_string();
        debug!(log, "what the verifier says");
        match last_words(&log) {
            why if why.is_empty() => Self::Kernel(io_error),
            why => Self::Verifier(why, io_error),
        }
    }
}

/// What the verifier says last, before its statistics: thousands of lines tell what it has followed until then.
fn last_words(log: &str) -> String {
    const STATISTICS: [&str; 3] = ["verification time ", "stack depth ", "processed "];
    let is_statistics = |line: &&str| STATISTICS.iter().any(|it| line.starts_with(it));
    let lines = log.lines().map(str::trim).rev();
    let lines = lines.filter(|line| !line.is_empty() && !is_statistics(line));
    let mut last: Vec<_> = lines.take(2).collect();
    last.reverse();
    last.join("; ")
}

const ATTEMPTS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_program_is_told_with_what_the_verifier_says_last() {
        let log = "0: (b7) r0 = 0\n1: (95) exit\n\nfun()\n5310: (85) call unknown#160\ninvalid func unknown#160\n\
            verification time 9 usec\nstack depth 224+0\nprocessed 24464 insns (limit 1000000)\n";
        assert_eq!(
            last_words(log),
            "5310: (85) call unknown#160; invalid func unknown#160"
        );
        assert_eq!(last_words("R0 !read_ok\n"), "R0 !read_ok");
        assert_eq!(last_words("\n"), "");
    }
}
