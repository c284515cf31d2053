//! Which datapath this host gets, and why not a better one.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use sni_router_common::counter::Counter;
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::bpf::{Counters, Kernel, LoadError};
use super::sockmap::Sockmap;
use super::sockmap::selftest::{self, SelfTestError};
use super::userspace::Userspace;
use crate::carry::{Datapath, Kind};

/// What the operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The best that works here.
    Auto,
    /// `sockmap`, or nothing.
    Sockmap,
    /// No BPF at all.
    Userspace,
}

/// What the host gets.
pub struct Chosen {
    /// Tries the best datapath first.
    pub datapath: Arc<dyn Datapath>,
    /// The kernel programs, unless they were not wanted or not to be had.
    pub kernel: Option<Kernel>,
    /// Their counters.
    pub counters: Option<Arc<Counters>>,
    /// Why the best datapath there is was not taken.
    pub declined: Option<String>,
}

/// Why `--datapath sockmap` was refused.
#[derive(Debug, Error)]
pub enum ChooseError {
    /// The programs are not there.
    #[error("the sockmap datapath is not available")]
    Load(#[from] LoadError),
    /// They are there, but do not do what they must.
    #[error("the sockmap datapath failed its self-test on this kernel")]
    SelfTest(#[from] SelfTestError),
}

/// Loads, tests and chooses. Must run on the runtime that is to serve the kernel's events.
pub async fn choose(choice: Choice) -> Result<Chosen, ChooseError> {
    let userspace: Arc<dyn Datapath> = Arc::new(Userspace);
    let mut chosen = Chosen {
        datapath: userspace,
        kernel: None,
        counters: None,
        declined: None,
    };
    if choice == Choice::Userspace {
        chosen.declined = Some("--datapath userspace".to_owned());
        return Ok(chosen);
    }
    match sockmap(&mut chosen).await {
        Ok(()) => {}
        Err(error) if choice == Choice::Sockmap => return Err(error),
        Err(error) => {
            let why = format!("{:#}", anyhow::Error::from(error));
            warn!(%why, "connections are carried in userspace, at about twice the CPU");
            chosen.declined = Some(why);
        }
    }
    info!(
        datapath = chosen.datapath.kind().as_str(),
        steered = chosen.kernel.is_some(),
        "ready"
    );
    Ok(chosen)
}

/// Puts the sockmap datapath in front of what `chosen` has.
async fn sockmap(chosen: &mut Chosen) -> Result<(), ChooseError> {
    let mut kernel = Kernel::load()?;
    let sockets = kernel.attach_verdict()?;
    let counters = Arc::new(kernel.counters()?);
    chosen.kernel = Some(kernel);
    chosen.counters = Some(Arc::clone(&counters));
    let sockmap = Sockmap::new(sockets, Arc::clone(&chosen.datapath));
    tokio::spawn(Arc::clone(&sockmap).dispatch());
    tokio::spawn(make_up_for_lost_events(Arc::clone(&sockmap), counters));
    selftest::run(&*sockmap).await?;
    debug_assert_eq!(sockmap.kind(), Kind::Sockmap);
    chosen.datapath = sockmap;
    Ok(())
}

/// The ring of events has room for thousands; should it overflow all the same, everybody is woken.
async fn make_up_for_lost_events(sockmap: Arc<Sockmap>, counters: Arc<Counters>) {
    let mut ticks = interval(LOST_EVENTS_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = 0;
    loop {
        ticks.tick().await;
        let lost = counters.read(Counter::EventLost);
        if lost != seen {
            seen = lost;
            sockmap.wake_all();
        }
    }
}

const LOST_EVENTS_TICK: Duration = Duration::from_secs(1);
