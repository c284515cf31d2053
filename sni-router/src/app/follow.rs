//! The control loop: from each snapshot to what is served, until the process ends or is followed.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use sni_router_core::problem::Severity;
use tokio::time::{sleep, timeout};

use crate::answers::Outcome;
use crate::control::{Applied, Control};
use crate::observe::metrics::{Metrics, Problems};
use crate::observe::readiness::Readiness;
use crate::signals::{Signals, stop};
use crate::source::Source;
use crate::source::dns::Dns;
use crate::supervisor::Supervisor;

/// Who is told what was applied.
pub(super) struct Observers<'o> {
    pub(super) metrics: &'o Metrics,
    pub(super) readiness: &'o Readiness,
    pub(super) outcome: &'o Outcome,
}

/// Why [`follow`] has ended.
pub(super) enum Why {
    /// The process was told to stop.
    Stopped,
    /// Another one takes over.
    TakenOver,
}

/// Applies every snapshot until the process is told to stop, or to hand over. `served` is called once something is served.
pub(super) async fn follow(
    control: &mut Control,
    source: &Source,
    dns: &Dns,
    signals: &mut Signals,
    supervisor: &mut Supervisor,
    observers: &Observers<'_>,
    served: &mut Option<impl FnOnce()>,
) -> Why {
    let mut snapshots = source.snapshots();
    let mut resolved = dns.resolved();
    let mut names = BTreeSet::new();
    loop {
        // Before there is a snapshot, there is nothing to serve.
        if let Some(snapshot) = snapshots.latest() {
            let begun = std::time::Instant::now();
            let addresses = Arc::clone(&resolved.borrow_and_update());
            let mut build = control.build(&snapshot, &addresses);
            let before = mem::replace(&mut names, build.model.external_names.clone());
            dns.want(&names);
            if !names.is_subset(&before) {
                // What was served before goes on until DNS has answered, by whatever router.
                let _ = timeout(FIRST_ANSWER, dns.asked_once(&names)).await;
                let addresses = Arc::clone(&resolved.borrow_and_update());
                build = control.build(&snapshot, &addresses);
            }
            let applied = control.apply(build, begun).await;
            count(
                observers.metrics,
                &applied,
                control.table.load().generation(),
            );
            observers.outcome.note(&applied);
            if applied.is_served {
                source.write(&applied.build);
                observers.readiness.set_ready();
                if let Some(served) = served.take() {
                    served();
                }
            }
            supervisor.applied(&applied, &control.table.load());
        }
        let mut is_settled = false;
        loop {
            tokio::select! {
                Ok(()) = snapshots.changed() => break,
                Ok(()) = resolved.changed() => break,
                _ = signals.reload.recv() => supervisor.reloading(source.reload().ask()),
                () = supervisor.attend() => match snapshots.are_new() {
                    true => break,
                    false => supervisor.unchanged(),
                },
                () = sleep(SETTLE_TICK), if !is_settled => is_settled = control.settle().await,
                _ = signals.hand_over.recv() => return Why::TakenOver,
                () = stop(&mut signals.terminate, &mut signals.interrupt) => return Why::Stopped,
            }
        }
    }
}

fn count(metrics: &Metrics, applied: &Applied, generation: u64) {
    if !applied.is_served {
        return metrics.apply_failed();
    }
    let problems = Problems {
        notes: applied.build.count(Severity::Note),
        warnings: applied.build.count(Severity::Warning),
        errors: applied.build.count(Severity::Error),
    };
    metrics.applied(generation, problems);
}

/// How long a configuration with new names waits for DNS: a host without endpoints is worse than an old one.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// How often it is tried to bind what could not be bound, and to give up VIPs of listeners that are gone.
const SETTLE_TICK: Duration = Duration::from_secs(5);
