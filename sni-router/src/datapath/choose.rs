//! Which datapath this host gets, and why not a better one.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use sni_router_common::counter::Counter;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::bpf::{Attach, Counters, Flows, Hooks, Kernel, LoadError, Pins};
use super::fill::Fill;
use super::sockmap::Sockmap;
use super::sockmap::selftest::{self, SelfTestError};
use super::tc::reserve::{self, ReserveError};
use super::tc::{Ports, Shortcuts, Tc, interfaces};
use super::userspace::Userspace;
use crate::carry::{Datapath, Kind, Limits};
use crate::meter::Meter;

/// What the operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// `tc` if it works here, with `userspace` for what it declines.
    Auto,
    /// The same, or nothing.
    Tc,
    /// `sockmap` with `userspace` for what it declines, or nothing. Not chosen by `auto`:
    /// on paths that lose packets the kernel may hand it bytes twice.
    Sockmap,
    /// No BPF at all.
    Userspace,
}

/// What the `tc` datapath uses of this host: ports and addresses towards endpoints, and interfaces.
#[derive(Clone, Debug)]
pub struct TcPorts {
    /// First and last.
    pub range: RangeInclusive<u16>,
    /// Whether the kernel is to be told not to give them to anybody else.
    pub reserve: bool,
    /// Of this host. Without any, the kernel takes the one of the route.
    pub sources: Vec<IpAddr>,
    /// How the program gets to interfaces.
    pub attach: Attach,
    /// How connections are opened.
    pub open: Open,
    /// Names of interfaces behind which packets go right into another namespace.
    pub shortcuts: Vec<String>,
}

/// How connections of the `tc` datapath are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Open {
    /// Packet by packet and without a socket, where everything is as usual.
    Packets,
    /// With two sockets, which are closed once the kernel has the connection.
    Sockets,
}

/// What the host gets.
pub struct Chosen {
    /// Tries the best datapath first.
    pub datapath: Arc<dyn Datapath>,
    /// The kernel programs, unless they were not wanted or not to be had.
    pub kernel: Option<Kernel>,
    /// The `tc` datapath, if it is part of that.
    pub tc: Option<Arc<Tc>>,
    /// The `sockmap` datapath, if it is.
    pub sockmap: Option<Arc<Sockmap>>,
    /// Their counters.
    pub counters: Option<Arc<Counters>>,
    /// How full their maps are.
    pub fill: Fill,
    /// Why the best datapath there is was not taken.
    pub declined: Option<String>,
}

/// What the start has found out about a datapath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelfTest {
    /// Its programs were loaded and attached; those of `sockmap` have carried bytes besides.
    Works,
    /// They were not, for this reason.
    Fails(String),
    /// It was not tried, for this reason.
    NotTried(&'static str),
}

impl Chosen {
    /// What the start has found out about each datapath, if this was asked for.
    pub fn self_tests(&self, choice: Choice) -> [(Kind, SelfTest); 3] {
        let not_asked = SelfTest::NotTried("another datapath was asked for");
        let tc = match (&self.tc, &self.declined, choice) {
            (Some(_), ..) => SelfTest::Works,
            (None, Some(why), Choice::Auto) => SelfTest::Fails(why.clone()),
            _ => not_asked.clone(),
        };
        let sockmap = match (&self.sockmap, choice) {
            (Some(_), _) => SelfTest::Works,
            (None, Choice::Auto) => SelfTest::NotTried("only with --datapath sockmap"),
            _ => not_asked,
        };
        let userspace = SelfTest::Works;
        [
            (Kind::Tc, tc),
            (Kind::Sockmap, sockmap),
            (Kind::Userspace, userspace),
        ]
    }
}

/// Why the datapath that was asked for was refused.
#[derive(Debug, Error)]
pub enum ChooseError {
    /// The host's interfaces are not known.
    #[error("cannot attach to the interfaces")]
    Interfaces(#[source] io::Error),
    /// The ports belong to somebody else as well.
    #[error(transparent)]
    Ports(#[from] ReserveError),
    /// One of the addresses is not ours.
    #[error("--tc-source {0}: no interface of this host has this address")]
    Source(IpAddr, #[source] io::Error),
    /// One of the addresses is no host's, or only means this one.
    #[error("--tc-source {0}: no endpoint could answer to it; take an address of an interface")]
    NoSource(IpAddr),
    /// There is nothing that packets could come in by.
    #[error("the tc datapath needs an interface other than the loopback one")]
    NoInterface,
    /// The programs are not there.
    #[error("the kernel programs are not available")]
    Load(#[from] LoadError),
    /// They are there, but do not do what they must.
    #[error("the sockmap datapath failed its self-test on this kernel")]
    SelfTest(#[from] SelfTestError),
}

/// Loads, tests and chooses. Must run on the runtime that is to serve the kernel's events.
///
/// `limits` are those of connections that the kernel carries alone; `meter` counts the bytes that this
/// process moves.
pub async fn choose(
    choice: Choice,
    ports: &TcPorts,
    pins: Option<Arc<Pins>>,
    limits: Limits,
    meter: &Meter,
) -> Result<Chosen, ChooseError> {
    let userspace: Arc<dyn Datapath> = Arc::new(Userspace::new(meter.clone()));
    let mut chosen = Chosen {
        datapath: userspace,
        kernel: None,
        tc: None,
        sockmap: None,
        counters: None,
        fill: Fill::default(),
        declined: None,
    };
    if choice == Choice::Userspace {
        chosen.declined = Some("--datapath userspace".to_owned());
        return Ok(chosen);
    }
    match kernel(&mut chosen, choice, ports, pins, limits, meter).await {
        Ok(()) => {}
        Err(error) if choice != Choice::Auto => return Err(error),
        Err(error) => {
            let why = format!("{:#}", anyhow::Error::from(error));
            warn!(%why, "connections are carried in userspace: every byte passes through this process");
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

/// Puts the datapath of the kernel in front of what `chosen` has.
async fn kernel(
    chosen: &mut Chosen,
    choice: Choice,
    ports: &TcPorts,
    pins: Option<Arc<Pins>>,
    limits: Limits,
    meter: &Meter,
) -> Result<(), ChooseError> {
    let kernel = chosen.kernel.insert(Kernel::load(pins)?);
    chosen.fill.rules = Some(kernel.rule_count());
    let counters = Arc::new(kernel.counters()?);
    chosen.counters = Some(Arc::clone(&counters));
    let next = Arc::clone(&chosen.datapath);
    if choice == Choice::Sockmap {
        let sockmap = sockmap(kernel, counters, next, meter).await?;
        chosen.fill.sockmap = Some(Arc::clone(&sockmap));
        chosen.sockmap = Some(Arc::clone(&sockmap));
        chosen.datapath = sockmap;
        return Ok(());
    }
    match tc(kernel, counters, next, ports, limits, meter).await {
        Ok(tc) => {
            chosen.fill.tc = Some(Arc::clone(&tc));
            chosen.tc = Some(Arc::clone(&tc));
            chosen.datapath = tc;
        }
        Err(error) if choice == Choice::Tc => return Err(error),
        Err(error) => {
            let why = format!("{:#}", anyhow::Error::from(error));
            warn!(%why, "connections are steered by the kernel, and carried in userspace");
            chosen.declined = Some(why);
        }
    }
    Ok(())
}

async fn sockmap(
    kernel: &mut Kernel,
    counters: Arc<Counters>,
    next: Arc<dyn Datapath>,
    meter: &Meter,
) -> Result<Arc<Sockmap>, ChooseError> {
    let sockmap = Sockmap::new(kernel.attach_verdict()?, next);
    tokio::spawn(Arc::clone(&sockmap).dispatch());
    let woken = Arc::clone(&sockmap);
    tokio::spawn(make_up_for_lost(
        Counter::VerdictEventLost,
        Arc::clone(&counters),
        move || woken.wake_all(),
    ));
    selftest::run(&*sockmap).await?;
    // What was tested with is no traffic.
    counters.start_over();
    Ok(sockmap.metered(meter.clone()))
}

async fn tc(
    kernel: &mut Kernel,
    counters: Arc<Counters>,
    next: Arc<dyn Datapath>,
    ports: &TcPorts,
    limits: Limits,
    meter: &Meter,
) -> Result<Arc<Tc>, ChooseError> {
    let flows = flows(kernel, ports)?;
    let shortcuts = Arc::new(Shortcuts::new(ports.shortcuts.clone()));
    attach(kernel.hooks(ports.attach), Arc::clone(&shortcuts)).await?;
    let open = ports.open;
    let ports = Arc::new(Ports::new(ports.range.clone(), &ports.sources));
    let tc = Tc::new(flows, ports, limits, shortcuts, next, meter.clone());
    if open == Open::Packets
        && let Err(error) = tc.prepare_opening(kernel.taking()?)
    {
        warn!(%error, "every connection is opened with sockets (grant CAP_NET_RAW)");
    }
    tokio::spawn(Arc::clone(&tc).dispatch());
    let looked_at = Arc::clone(&tc);
    tokio::spawn(make_up_for_lost(
        Counter::TcEventLost,
        counters,
        move || looked_at.look_at_all(),
    ));
    Ok(tc)
}

/// The maps of the `tc` datapath, once the ports are known to be ours.
fn flows(kernel: &mut Kernel, ports: &TcPorts) -> Result<Arc<Flows>, ChooseError> {
    reserve::check(&ports.range, ports.reserve)?;
    for source in &ports.sources {
        check_source(*source)?;
    }
    Ok(kernel.load_tc(ports.range.clone())?)
}

/// Whether endpoints can be connected to from this address.
pub fn check_source(source: IpAddr) -> Result<(), ChooseError> {
    let is_broadcast = matches!(source, IpAddr::V4(source) if source.is_broadcast());
    if source.is_unspecified() || source.is_loopback() || source.is_multicast() || is_broadcast {
        return Err(ChooseError::NoSource(source));
    }
    // A port of the kernel's choice, given back at once.
    let bound = UdpSocket::bind((source, 0));
    bound
        .map(drop)
        .map_err(|error| ChooseError::Source(source, error))
}

/// Attaches `snir_tc` to every interface, and to those that come.
async fn attach(hooks: Hooks, shortcuts: Arc<Shortcuts>) -> Result<(), ChooseError> {
    let (listed, list) = oneshot::channel();
    let following = tokio::spawn(interfaces::follow(hooks, shortcuts, |count| {
        // Nobody waits for it only if the start has been given up.
        let _ = listed.send(count);
    }));
    match list.await {
        Ok(0) => Err(ChooseError::NoInterface),
        Ok(_) => Ok(()),
        // Dropped: the task has ended, and says why.
        Err(_) => match following.await {
            Ok(Err(error)) => Err(ChooseError::Interfaces(error)),
            _ => Err(ChooseError::NoInterface),
        },
    }
}

/// A ring of events has room for thousands; should it overflow all the same, everything is looked
/// at.
async fn make_up_for_lost(counter: Counter, counters: Arc<Counters>, look: impl Fn()) {
    let mut ticks = interval(LOST_EVENTS_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = 0;
    loop {
        ticks.tick().await;
        let lost = counters.read(counter);
        if lost != seen {
            seen = lost;
            look();
        }
    }
}

const LOST_EVENTS_TICK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn without_kernel(why: &str) -> Chosen {
        Chosen {
            datapath: Arc::new(Userspace::new(Meter::new(1))),
            kernel: None,
            tc: None,
            sockmap: None,
            counters: None,
            fill: Fill::default(),
            declined: Some(why.to_owned()),
        }
    }

    #[test]
    fn self_tests_tell_what_failed_and_what_was_not_tried() {
        let chosen = without_kernel("missing CAP_BPF");
        let [tc, sockmap, userspace] = chosen.self_tests(Choice::Auto);
        assert_eq!(tc, (Kind::Tc, SelfTest::Fails("missing CAP_BPF".into())));
        assert!(matches!(sockmap, (Kind::Sockmap, SelfTest::NotTried(_))));
        assert_eq!(userspace, (Kind::Userspace, SelfTest::Works));

        let chosen = without_kernel("--datapath userspace");
        let [tc, sockmap, _] = chosen.self_tests(Choice::Userspace);
        assert!(matches!(tc.1, SelfTest::NotTried(_)), "{tc:?}");
        assert!(matches!(sockmap.1, SelfTest::NotTried(_)), "{sockmap:?}");
    }
}
