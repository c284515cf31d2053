//! One router a network namespace: taking over from the one that runs.
//!
//! ```text
//! new                                             old
//! owns the pins? no ──SIGUSR2──▶                  hands nothing over any more, leaves its flows to the
//!                                                 kernel, stops its admin API, releases the pins
//! owns the pins: adopts the flows, puts its
//! programs into the links, steers connections
//! to itself, serves ──SIGTERM──▶                  drains the connections that have sockets, and ends
//! ```
//!
//! Who lets go is noted with the pins until it is told to end: should the new one be killed before it serves, the next one ends
//! the old one.
//!
//! The old one accepts until the end, and what it accepts it carries by sockets. So there is no moment in
//! which nobody accepts. New connections go to the new one as soon as it steers: of several
//! `snir_lookup` programs, the last one attached decides (`BPF_PROG_SK_LOOKUP_RUN_ARRAY`,
//! include/linux/filter.h).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::carry::Adopt;
use crate::datapath::bpf::{PinError, Pins};
use crate::datapath::choose::Choice;
use crate::datapath::tc::Tc;
use crate::presence::{Occupied, Presence};
use crate::sys::allocator;

/// Where to pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinDir {
    /// Here, if it can be.
    Preferred(PathBuf),
    /// Here, or not at all.
    Demanded(PathBuf),
    /// Nowhere: flows end with the process.
    Nowhere,
}

/// The router that was here first; ends when it is told to, not before.
#[derive(Clone, Copy, Debug)]
pub struct Predecessor {
    pid: Pid,
    /// Somebody else tells it to.
    is_spared: bool,
    /// It has let go for a process that did not live to tell it.
    pub is_noted: bool,
}

/// What comes of a predecessor.
pub struct Inheritance {
    pub predecessor: Predecessor,
    /// Where it is noted.
    pub pins: Option<Arc<Pins>>,
    /// Who watches its flows, if somebody can.
    pub heir: Option<(Arc<Tc>, Arc<dyn Adopt>)>,
}

impl Predecessor {
    /// The same, to be ended by whoever has started it. Where that is a supervisor it would start the
    /// old one again if we ended it, and that would take over in turn.
    pub fn spared(self) -> Self {
        Self {
            is_spared: true,
            ..self
        }
    }

    fn is_there(&self) -> bool {
        test_kill_process(self.pid).is_ok()
    }

    /// The one that was noted in case that nobody lives to see its end.
    fn noted(pins: &Pins) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pins.before()?).ok()?)?;
        let noted = Self {
            pid,
            is_spared: false,
            is_noted: true,
        };
        Some(noted).filter(|it| it.is_there() && is_router(pid))
    }

    /// It is not needed any more.
    pub fn tell(self) {
        if self.is_spared {
            return;
        }
        if let Err(error) = kill_process(self.pid, Signal::TERM) {
            warn!(%error, "the router before this one has ended by itself");
        }
    }
}

impl Inheritance {
    /// The predecessor is not needed any more. Returns when it has ended, and what it was still handing over when
    /// it let go has been adopted.
    pub async fn take(self) {
        let Self {
            predecessor,
            pins,
            heir,
        } = self;
        predecessor.tell();
        if let Some(pins) = pins.filter(|pins| pins.is_owned()) {
            // A second time would hurry it.
            pins.forget_before();
        }
        let adopt = async |is_alone| {
            let Some((tc, adopter)) = heir.clone() else {
                return;
            };
            // There may be a million to look at, and others have something to do here.
            let adopted = spawn_blocking(move || adopt(&tc, &*adopter, is_alone));
            if let Err(error) = adopted.await {
                warn!(%error, "the flows of the router before this one are not watched");
            }
        };
        let mut next = Instant::now();
        while predecessor.is_there() {
            sleep(LATE_TICK).await;
            let began = Instant::now();
            if began >= next {
                adopt(false).await;
                next = Instant::now() + (began.elapsed() * LATE_REST).min(LONGEST_REST);
            }
        }
        adopt(true).await;
        info!("the router before this one has ended");
    }
}

/// The directory of pins, taken over from another router if need be. With them or without, no other router carries by
/// `tc` here from now on, where this one may.
pub async fn pins(
    dir: &PinDir,
    choice: Choice,
    presence: &Presence,
) -> Result<(Option<Pins>, Option<Predecessor>)> {
    if !matches!(choice, Choice::Auto | Choice::Tc) {
        return Ok((None, None));
    }
    let owned = pins_of(dir).await?;
    // Who let go of the pins has left. One that was killed may be still ending, and have lost its pins first.
    let deadline = Instant::now() + ENDING;
    while let Err(occupied) = presence.carry() {
        if Instant::now() >= deadline {
            return Err(refusal(occupied));
        }
        sleep(TICK).await;
    }
    Ok(owned)
}

/// Why this router must not carry beside that one.
fn refusal(Occupied { by }: Occupied) -> anyhow::Error {
    let pid = by.and_then(|by| Pid::from_raw(i32::try_from(by).ok()?));
    let who = match (by, pid.is_some_and(is_router)) {
        (Some(by), true) => format!("process {by}"),
        (Some(by), false) => format!("process {by} of another process namespace"),
        (None, _) => "`grep @sni-router/tc/ /proc/net/unix` names its process".to_owned(),
    };
    anyhow!(
        "another router carries connections by tc in this network namespace ({who}), and both would use the \
         same ports: stop it and wait for its end, or start both with the same --pin-dir, so that this one takes \
         over; --datapath userspace may run beside it"
    )
}

async fn pins_of(dir: &PinDir) -> Result<(Option<Pins>, Option<Predecessor>)> {
    let (dir, is_demanded) = match dir {
        PinDir::Preferred(dir) => (dir, false),
        PinDir::Demanded(dir) => (dir, true),
        PinDir::Nowhere => return Ok((None, None)),
    };
    match own(dir).await {
        Ok((pins, predecessor)) => Ok((Some(pins), predecessor)),
        Err(error)
            if !is_demanded
                && matches!(
                    error.downcast_ref(),
                    Some(PinError::NotBpf(_) | PinError::Directory(..))
                ) =>
        {
            let why = format!("{error:#}");
            warn!(%why, "nothing is pinned: connections end with this process");
            Ok((None, None))
        }
        Err(error) => Err(error),
    }
}

/// Owns the pins below `dir`, also if another router has to let go of them first.
async fn own(dir: &Path) -> Result<(Pins, Option<Predecessor>)> {
    let mut predecessor: Option<Predecessor> = None;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let owner = match Pins::own(dir) {
            Ok(pins) => {
                // One that was killed meanwhile has let go of nothing.
                let predecessor = predecessor.filter(Predecessor::is_there);
                let Some(predecessor) = predecessor else {
                    let noted = Predecessor::noted(&pins);
                    if noted.is_none() {
                        pins.forget_before();
                    }
                    return Ok((pins, noted));
                };
                let pid = predecessor.pid.as_raw_nonzero().get() as u32;
                if let Err(error) = pins.note_before(pid) {
                    warn!(%error, "the router before this one is not noted");
                }
                return Ok((pins, Some(predecessor)));
            }
            Err(PinError::Owned(pid)) => pid,
            Err(error) => return Err(error.into()),
        };
        if predecessor.is_none() && owner != 0 {
            let pid = i32::try_from(owner).ok().and_then(Pid::from_raw);
            let pid = pid.filter(|pid| is_router(*pid)).with_context(|| {
                format!("a router of another process namespace runs here (process {owner} there); stop it first")
            })?;
            info!(pid = owner, "taking over from the router that runs here");
            match kill_process(pid, Signal::USR2) {
                Ok(()) => {
                    predecessor = Some(Predecessor {
                        pid,
                        is_spared: false,
                        is_noted: false,
                    });
                }
                Err(Errno::PERM) => {
                    bail!(
                        "the router that runs here (process {owner}) is another user's; stop it first"
                    )
                }
                // Gone meanwhile: the next round owns what it had.
                Err(_) => {}
            }
        }
        if Instant::now() >= deadline {
            bail!("the router that runs here (process {owner}) does not let go; stop it first");
        }
        sleep(TICK).await;
    }
}

/// Takes over the flows that an earlier process has left; `is_alone` if that is gone.
pub fn adopt(tc: &Tc, adopter: &dyn Adopt, is_alone: bool) {
    match tc.adopt(adopter, is_alone) {
        Ok(0) => {}
        Ok(flows) => {
            // What was read of them took more than what is kept.
            allocator::give_back();
            info!(flows, "adopted");
        }
        Err(error) => warn!(%error, "the flows of the router before this one are not watched"),
    }
}

/// Whether it is another one of ours: another process namespace has other numbers, of which one may be this process's.
fn is_router(pid: Pid) -> bool {
    if pid == rustix::process::getpid() {
        return false;
    }
    let name = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    name(&pid.as_raw_nonzero().to_string()).is_some_and(|it| Some(it) == name("self"))
}

const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(5);

/// What the kernel may take to end a process.
const ENDING: Duration = Duration::from_secs(1);

const LATE_TICK: Duration = Duration::from_secs(1);

/// How many times longer there is rest than a look takes.
const LATE_REST: u32 = 30;

/// Less than what has ended stays in the table.
const LONGEST_REST: Duration = Duration::from_secs(20);
