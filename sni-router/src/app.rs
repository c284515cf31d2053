//! The composition root: the one file that knows every module and puts them together.

mod follow;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use sni_router_core::manifest::Compiler;
use sni_router_core::model::Model;
use sni_router_core::table::RouteTable;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use self::follow::{Observers, Why, follow};
use crate::answers::{Facts, Inside, Outcome};
use crate::carry::{Adopt, Aside, Live};
use crate::claim::Claims;
use crate::control::{Control, VipsOfFlows};
use crate::counted::{self, Counted, labels};
use crate::datapath::bpf::{Kernel, forward_logs};
use crate::datapath::choose::choose;
use crate::datapath::tc::pinned_vips;
use crate::denied::Denied;
use crate::ending::{Ending, leave};
use crate::limits;
use crate::listen::{Bound, Groups, Steering, Unbound};
use crate::measured::{Bytes, Measured};
use crate::meter::Meter;
use crate::observe::admin::{Admin, AdminAddr, Answers};
use crate::observe::metrics::Metrics;
use crate::observe::readiness::Readiness;
use crate::presence::Presence;
use crate::privileges::{Duties, Privileges};
use crate::proxy::Proxy;
use crate::proxy::census::Census;
use crate::proxy::doorman::Doors;
use crate::proxy::gate::Gate;
use crate::proxy::worker::Worker;
use crate::settings::{Manifests, Settings};
use crate::signals::{Signals, on_rotation};
use crate::source::Source;
use crate::source::directory::Directory;
use crate::source::dns::{Dns, SystemResolver};
use crate::source::kubernetes::Kubernetes;
use crate::source::read::read_dir;
use crate::supervisor::Supervisor;
use crate::sys::allocator;
use crate::takeover::{self, Inheritance, Predecessor};

/// Runs until it is told to stop, and then until connections have finished or their time is over.
pub async fn run(settings: Settings, privileges: Privileges) -> Result<()> {
    allocator::use_small_pages();
    limits::raise_descriptors();
    let mut supervisor = Supervisor::new();
    // Before anything slow, so that a signal during the start is not lost, nor deadly.
    let mut signals = Signals::new()?;
    let access_file = settings.access_file;
    on_rotation(move || access_file.iter().for_each(|file| file.reopen()))?;
    let started = Instant::now().into_std();
    let source_name = settings.manifests.to_string();
    let source = open(settings.manifests).await?;
    let gate = Arc::new(Gate::default());
    let denied = match settings.deny_file {
        Some(path) => Some(Denied::open(path, Arc::clone(&gate)).await?),
        None => None,
    };
    let dns = Dns::start(SystemResolver::default());
    let clusters: Arc<Facts> = match &source {
        Source::Kubernetes(kubernetes) => Arc::new(kubernetes.facts()),
        Source::Directory(_) => Arc::new(Vec::new),
    };
    let metrics = Metrics::new(labels()).with_clusters(counted::clusters(Arc::clone(&clusters)));
    let metrics = Arc::new(metrics);
    let readiness = Arc::new(Readiness::default());

    let (close_all, closing) = watch::channel(false);
    let limits = settings.proxy.limits(&closing);
    let presence = Arc::new(Presence::default());
    let (pins, mut predecessor) =
        takeover::pins(&settings.pins, settings.datapath, &presence).await?;
    if settings.spare_predecessor {
        predecessor = predecessor.map(Predecessor::spared);
    }
    let pins = pins.map(Arc::new);
    let wanted = settings.datapath;
    // For workers, and for those who open connections, of which there are no more.
    let meter = Meter::new(settings.workers * 2);
    let mut chosen = choose(wanted, &settings.tc_ports, pins.clone(), limits, &meter).await?;
    if chosen.tc.is_none() {
        presence.carry_nothing();
    }
    if let Some(kernel) = &chosen.kernel {
        forward_logs(kernel);
    }
    // Reading the kernel's types took 200 MB.
    allocator::give_back();
    let table = Arc::new(ArcSwap::from_pointee(RouteTable::compile(
        &Model::default(),
        0,
        None,
    )));
    let aside = chosen.tc.clone().map(|tc| tc as Arc<dyn Aside>);
    let live = chosen.sockmap.clone().map(|it| it as Arc<dyn Live>);
    let census = Arc::new(Census::new(aside, live));
    let proxy = Arc::new(Proxy::new(
        settings.proxy,
        Arc::clone(&table),
        Arc::clone(&chosen.datapath),
        Arc::new(Counted(Arc::clone(&metrics))),
        Arc::clone(&census),
        Arc::clone(&gate),
        closing,
    ));
    if let Some(tc) = &chosen.tc {
        tc.kept_by(Arc::new(Arc::clone(&proxy)));
    }
    // A thread per CPU stays on it: what it shares with the kernel's work for its connections stays
    // in that CPU's caches. Any other number is left to the scheduler.
    let mut cpus = limits::allowed_cpus();
    if cpus.len() != settings.workers {
        cpus.clear();
    }
    let workers = (0..settings.workers)
        .map(|index| Worker::start(index, cpus.get(index).copied(), Arc::clone(&proxy)))
        .collect::<Result<Vec<_>, _>>()
        .context("cannot start the worker threads")?;
    let unbound = Arc::new(Unbound::default());
    let steering = steer(chosen.kernel.as_mut(), &workers, Arc::clone(&unbound))?;
    privileges.limit(Duties {
        carries_flows: chosen.tc.is_some(),
        claims_vips: settings.claim_vips,
        binds_ports: chosen.kernel.is_none()
            || chosen.tc.is_some()
            || settings.admin.iter().any(AdminAddr::is_privileged),
        uses_maps: chosen.kernel.is_some()
            || pins.as_ref().is_some_and(|pins| !pins.tables().is_empty()),
    });
    let mut control = Control {
        compiler: Compiler::new(settings.options),
        table: Arc::clone(&table),
        steering,
        claims: Claims::new(settings.claim_vips, Arc::clone(&presence))
            .inspect_err(|error| warn!(%error, "no netlink: VIPs are neither claimed nor checked"))
            .ok(),
        workers,
        problems: Vec::new(),
        retired: Vec::new(),
        vips_of_flows: pins
            .clone()
            .map(|pins| Arc::new(move || pinned_vips(&pins)) as VipsOfFlows),
        next_look: started,
        is_followed: false,
        kept: BTreeSet::new(),
        vips_settled: true,
    };
    let tc = chosen.tc.clone();
    if let Some(tc) = &tc {
        if let Some(pins) = &pins {
            tc.tolerate(Arc::clone(pins));
        }
        takeover::adopt(tc, &proxy, predecessor.is_none());
        let doors = control.workers.iter().map(Worker::door).collect();
        let doors = Doors::new(Arc::clone(&proxy), doors);
        tc.open(Arc::new(doors), settings.workers)
            .context("cannot start the threads that open connections")?;
    }
    let bytes = Bytes {
        meter,
        counters: chosen.counters.clone(),
    };
    let measured = Measured {
        table: Arc::clone(&table),
        bytes: bytes.clone(),
        counters: chosen.counters.clone(),
        fill: chosen.fill.clone(),
        proxy: Arc::downgrade(&proxy),
        lookups: dns.lookups(),
        unread: source.unread(),
        unbound: Arc::clone(&unbound),
    };
    metrics.measure(measured.sampler());
    if let Some(denied) = denied {
        tokio::spawn(denied.follow(Arc::clone(&census)));
    }
    let outcome = Arc::new(Outcome::default());
    let facts = chosen.kernel.as_ref().map(Kernel::facts);
    let inside: Arc<dyn Answers> = Arc::new(Inside {
        started,
        source: source_name,
        unread: source.unread(),
        table,
        census,
        trace: proxy.trace(),
        gate,
        unbound,
        metrics: Arc::clone(&metrics),
        bytes,
        clusters,
        datapath: chosen.datapath.kind().as_str(),
        declined: chosen.declined.clone(),
        self_tests: chosen.self_tests(wanted),
        fill: chosen.fill.clone(),
        kernel: facts.zip(chosen.counters.clone()),
        reload: source.reload(),
        log: settings.log,
        outcome: Arc::clone(&outcome),
    });
    let mut admin = Vec::new();
    for addr in &settings.admin {
        let (readiness, metrics) = (Arc::clone(&readiness), Arc::clone(&metrics));
        let token = settings.admin_token.as_ref();
        match Admin::serve(addr, token, readiness, metrics, Arc::clone(&inside)).await {
            Ok(served) => admin.push(served),
            Err(error) if settings.is_admin_default => warn!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }

    let inheritance = predecessor.map(|predecessor| Inheritance {
        predecessor,
        pins: pins.clone(),
        heir: tc.clone().map(|tc| {
            let adopter: Arc<dyn Adopt> = Arc::new(Arc::clone(&proxy));
            (tc, adopter)
        }),
    });
    let has_let_go = predecessor.is_some_and(|predecessor| !predecessor.is_noted);
    if let (Some(tc), Some(pins), false) = (&tc, &pins, has_let_go) {
        tc.outlast(pins).await;
    }
    let adopter = Arc::clone(&proxy);
    let mut served = Some(move || {
        // There may be a million.
        spawn_blocking(move || adopter.name_adopted());
        if let Some(inheritance) = inheritance {
            tokio::spawn(inheritance.take());
        }
    });
    loop {
        let why = follow(
            &mut control,
            &source,
            &dns,
            &mut signals,
            &mut supervisor,
            &Observers {
                metrics: &metrics,
                readiness: &readiness,
                outcome: &outcome,
            },
            &mut served,
        )
        .await;
        match (why, &pins) {
            (Why::Stopped, _) => break,
            (Why::TakenOver, None) => warn!("no pins to hand over"),
            (Why::TakenOver, Some(pins)) => {
                admin.clear();
                proxy.trace().end();
                if let Some(tc) = &tc {
                    tc.retire();
                }
                // First, as who owns the pins expects nobody.
                presence.carry_nothing();
                pins.release();
                // Until the other one serves, this one goes on, and follows its manifests.
                info!("another router takes over");
                supervisor.followed();
                control.is_followed = true;
            }
        }
    }
    drop(admin);
    if control.is_followed {
        // The other one serves, and claims what it needs. It would else leave what it does not need to this one.
        presence.claim_nothing();
    }
    source.close().await;

    // Before it is told: who hears it may count on it that what comes now keeps its sockets.
    if let Some(tc) = &tc {
        match pins {
            Some(_) => tc.retire(),
            // Flows end with this process.
            None => tc.close(),
        }
    }
    info!(connections = proxy.active(), "draining");
    readiness.set_draining();
    // More than it takes: who waits does no harm, and who is impatient ends it in the middle.
    let at_most = settings.drain_timeout.saturating_mul(2);
    supervisor.stopping(proxy.active(), at_most.saturating_add(LAST_WORDS * 5));
    control.stop_steering();
    sleep(HANDSHAKES).await;
    control.stop_listening();
    let deadline = Instant::now() + settings.drain_timeout;
    let mut ending = Ending::new(
        &mut signals,
        pins.as_deref(),
        &presence,
        control.is_followed,
    );
    ending.drain(&proxy, deadline).await;
    close_all.send_replace(true);
    ending.drain(&proxy, Instant::now() + LAST_WORDS).await;
    proxy.sum_up();
    if ending.is_followed {
        if let (Some(_), Some(predecessor)) = (served, predecessor) {
            // This one has never served, and so has not told it.
            predecessor.tell();
        }
        control.abandon();
        info!("stopped; another router goes on");
        return Ok(());
    }
    if let Some(pins) = &pins {
        control.kept = leave(tc.as_deref(), pins);
    }
    let at_least = Instant::now() + DELIVERY;
    ending.deliver(&mut control, deadline.max(at_least)).await;
    if ending.is_followed {
        control.abandon();
    } else {
        control.finish().await;
    }
    info!("stopped");
    Ok(())
}

async fn open(manifests: Manifests) -> Result<Source> {
    Ok(match manifests {
        Manifests::Directory(path) => {
            let directory = Directory::open(path, read_dir).await;
            Source::Directory(directory.context("--manifests")?)
        }
        Manifests::Kubernetes(clusters) => Source::Kubernetes(Kubernetes::start(*clusters).await?),
    })
}

/// Attaches `snir_lookup` in front of the workers' sockets, or has every address bound.
fn steer(
    kernel: Option<&mut Kernel>,
    workers: &[Worker],
    unbound: Arc<Unbound>,
) -> Result<Steering> {
    let Some(kernel) = kernel else {
        return Ok(Steering::Bind(Bound::new(unbound)));
    };
    let groups = Groups::open(workers.len()).context("cannot open the listening sockets")?;
    let (v4, v6) = groups.representatives();
    kernel
        .attach_lookup(v4, v6)
        .context("cannot steer connections")?;
    groups.serve(workers);
    Ok(Steering::Lookup(kernel.rules()?))
}

/// What a client whose SYN was already answered gets to complete its handshake: a listening socket
/// that closes resets it.
const HANDSHAKES: Duration = Duration::from_millis(200);

/// What the kernel gets at least to deliver what is left in send queues.
const DELIVERY: Duration = Duration::from_secs(5);

/// How long connections that are told to end may take to write their records.
const LAST_WORDS: Duration = Duration::from_secs(1);
