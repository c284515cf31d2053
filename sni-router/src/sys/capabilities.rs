//! Capabilities of all threads of this process.
//!
//! Capabilities belong to threads: capset(2) changes those of the calling one, and nobody can change
//! another's. So every thread is interrupted by a signal whose handler does it, which is how C libraries
//! make setuid(2) hold for a process (nptl(7), "NPTL and signals").

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use libc::{c_int, sighandler_t};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// What [`limit_self`] leaves.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// Takes from every thread what is not in `kept`, effective, permitted and inheritable. Threads that are
/// started later have no more than those that start them.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] where a thread still has more after a second; another one where /proc or
/// the signal cannot be used.
pub fn limit_threads(kept: CapabilitySet) -> io::Result<()> {
    KEPT.store(kept.bits(), Ordering::SeqCst);
    limit_self();
    let signal = libc::SIGRTMAX();
    let handler: extern "C" fn(c_int) = on_signal;
    handle(signal, handler as sighandler_t)?;
    // A thread that hangs has the signal wait for it, and then finds the handler.
    interrupt_others(kept, signal)?;
    // One that is still under way must not find the default, which is to end the process.
    handle(signal, libc::SIG_IGN)
}

/// Takes from the calling thread what is not in `kept`; nothing is inheritable any more.
///
/// # Errors
/// None that is known: less is always granted.
pub fn limit_thread(kept: CapabilitySet) -> io::Result<()> {
    let has = capabilities(None)?;
    let sets = CapabilitySets {
        effective: has.effective & kept,
        permitted: has.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Of the signal: only system calls, which a handler may make.
extern "C" fn on_signal(_: c_int) {
    limit_self();
}

fn limit_self() {
    // Whether it has worked is read from outside.
    let _ = limit_thread(CapabilitySet::from_bits_retain(KEPT.load(Ordering::SeqCst)));
}

/// Interrupts all threads that have more, until there is none.
fn interrupt_others(kept: CapabilitySet, signal: c_int) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // A thread may have been started, by one that had more, after the first list had passed it.
    let mut clean = 0;
    while clean < 2 {
        let others = with_more_than(kept)?;
        if others.is_empty() {
            clean += 1;
            continue;
        }
        clean = 0;
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        others.iter().for_each(|thread| interrupt(*thread, signal));
        sleep(TICK);
    }
    Ok(())
}

/// The threads whose permitted set has more.
fn with_more_than(kept: CapabilitySet) -> io::Result<Vec<libc::pid_t>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        // One that has ended meanwhile has nothing.
        let (Some(Ok(thread)), Ok(status)) = (
            name.map(str::parse),
            fs::read_to_string(path.join("status")),
        ) else {
            continue;
        };
        if !permitted(&status).is_some_and(|has| kept.contains(has)) {
            found.push(thread);
        }
    }
    Ok(found)
}

/// `CapPrm` of `/proc/PID/task/TID/status` (proc_pid_status(5)).
fn permitted(status: &str) -> Option<CapabilitySet> {
    let mut lines = status.lines();
    let bits = lines.find_map(|line| line.strip_prefix("CapPrm:"))?;
    let bits = u64::from_str_radix(bits.trim(), 16).ok()?;
    Some(CapabilitySet::from_bits_retain(bits))
}

fn interrupt(thread: libc::pid_t, signal: c_int) {
    let process = std::process::id();
    // SAFETY: tgkill(2) takes three numbers. A thread that has ended is an error that changes nothing,
    // and no other process is meant.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
}

/// Has a handler, or `SIG_IGN`, called at a signal; system calls it interrupts go on.
fn handle(signal: c_int, handler: sighandler_t) -> io::Result<()> {
    // SAFETY: all zeroes is a `sigaction` without handler, flags or mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is a valid one, and the handlers given here only make system calls.
    match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permitted_is_read_from_status() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000001400\nCapEff:\t0\n";
        let expected = CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE;
        assert_eq!(permitted(status), Some(expected));
        assert_eq!(permitted("CapPrm:\tnone\n"), None);
        assert_eq!(permitted(""), None);
    }
}
