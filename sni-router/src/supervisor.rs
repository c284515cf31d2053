//! What the supervisor is told, where `$NOTIFY_SOCKET` says that there is one (sd_notify(3)).

use std::future::pending;
use std::time::Duration;

use sd_notify::NotifyState;
use sni_router_core::problem::Severity;
use sni_router_core::table::RouteTable;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::control::Applied;

/// Whoever has started this process, and waits for it.
pub struct Supervisor {
    phase: Phase,
    /// Ends when what it has asked for has been read again.
    reload: Option<oneshot::Receiver<()>>,
    watchdog: Option<Watchdog>,
    has_failed: bool,
}

/// What it believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    Reloading,
}

impl Supervisor {
    /// Knows nothing of us yet.
    pub fn new() -> Self {
        Self {
            phase: Phase::Starting,
            reload: None,
            watchdog: sd_notify::watchdog_enabled()
                .filter(|limit| !limit.is_zero())
                .map(Watchdog::new),
            has_failed: false,
        }
    }

    /// A snapshot has been applied, or refused by the host. With the first that is served, the start is
    /// over; with the one that was read because it asked for it, the reload.
    pub fn applied(&mut self, applied: &Applied, table: &RouteTable) {
        let status = status(applied, table);
        let is_done = match self.phase {
            Phase::Starting => applied.is_served,
            Phase::Serving => false,
            Phase::Reloading => self.reload.is_none(),
        };
        if is_done {
            self.phase = Phase::Serving;
            self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        } else {
            self.tell(&[NotifyState::Status(&status)]);
        }
    }

    /// It has asked for a reload; `read` ends when everything has been read again.
    pub fn reloading(&mut self, read: oneshot::Receiver<()>) {
        if self.phase == Phase::Starting {
            return;
        }
        // Says which of two reloads that overlap is answered: systemd.service(5), Type=notify-reload.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => warn!(%error, "no clock"),
        }
        self.phase = Phase::Reloading;
        self.reload = Some(read);
    }

    /// What was read again says nothing new.
    pub fn unchanged(&mut self) {
        self.phase = Phase::Serving;
        self.tell(&[NotifyState::Ready]);
    }

    /// Another router takes over.
    pub fn followed(&mut self) {
        self.tell(&[NotifyState::Status("another router takes over")]);
    }

    /// No connection is accepted any more; the running ones may take so long.
    pub fn stopping(&mut self, connections: usize, at_most: Duration) {
        let status = format!("draining (connections {connections})");
        let extend = format!("EXTEND_TIMEOUT_USEC={}", at_most.as_micros());
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::Custom(&extend),
            NotifyState::Status(&status),
        ]);
    }

    /// Says that this process lives, as often as that is wanted. Returns when what a reload asked for has
    /// been read.
    ///
    /// Loses nothing when it is dropped and called again.
    pub async fn attend(&mut self) {
        loop {
            tokio::select! {
                () = finished(&mut self.reload) => {
                    self.reload = None;
                    return;
                }
                () = due(&mut self.watchdog) => self.tell(&[NotifyState::Watchdog]),
            }
        }
    }

    fn tell(&mut self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states)
            && !self.has_failed
        {
            self.has_failed = true;
            warn!(%error, "the supervisor cannot be told");
        }
    }
}

/// For `systemctl status`.
fn status(applied: &Applied, table: &RouteTable) -> String {
    if !applied.is_served {
        return "the kernel refused the new listeners; the old ones stay".to_owned();
    }
    let routes: usize = table.listeners().map(|it| it.routes().count()).sum();
    let errors = applied.build.count(Severity::Error);
    let warnings = applied.build.count(Severity::Warning);
    format!(
        "serving (generation {}, listeners {}, routes {routes}, errors {errors}, warnings {warnings})",
        table.generation(),
        table.listeners().len(),
    )
}

/// Never without a reload.
async fn finished(reload: &mut Option<oneshot::Receiver<()>>) {
    match reload {
        // Ended without a word, it is over as well.
        Some(read) => drop(read.await),
        None => pending().await,
    }
}

/// Never without a watchdog.
async fn due(watchdog: &mut Option<Watchdog>) {
    match watchdog {
        Some(watchdog) => watchdog.due().await,
        None => pending().await,
    }
}

/// Wants to hear that the process lives.
struct Watchdog {
    period: Duration,
    next: Instant,
}

impl Watchdog {
    /// One that ends us when it has not heard of us for so long.
    fn new(limit: Duration) -> Self {
        Self {
            period: limit / 3,
            next: Instant::now(),
        }
    }

    /// Returns when it is time to say so. Timers are the control thread's, and who waits is the thread
    /// that applies snapshots: both live.
    async fn due(&mut self) {
        sleep_until(self.next).await;
        self.next = Instant::now() + self.period;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use tokio::runtime::Builder;
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn watchdog_hears_nothing_while_the_control_thread_hangs() {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_time().build().unwrap();
        let (hang, goes_on) = mpsc::channel::<()>();
        let (began, has_begun) = mpsc::channel();
        runtime.spawn(async move {
            began.send(()).unwrap();
            // Ends with the sender.
            let _ = goes_on.recv();
        });
        has_begun.recv().unwrap();
        let hangs = Duration::from_millis(200);
        let since = Instant::now();
        let release = thread::spawn(move || {
            thread::sleep(hangs);
            drop(hang);
        });
        runtime.block_on(async {
            let mut watchdog = Watchdog::new(Duration::from_millis(30));
            // What is overdue needs no timer.
            watchdog.due().await;
            watchdog.due().await;
        });
        assert!(since.elapsed() >= hangs, "heard while it hung");
        release.join().unwrap();
    }

    #[tokio::test]
    async fn attend_returns_when_the_reload_was_read_or_given_up() {
        let mut supervisor = Supervisor {
            phase: Phase::Reloading,
            reload: None,
            watchdog: None,
            has_failed: false,
        };
        for is_answered in [true, false] {
            let (done, read) = oneshot::channel();
            supervisor.reload = Some(read);
            let early = timeout(Duration::from_millis(10), supervisor.attend()).await;
            assert!(early.is_err());
            if is_answered {
                done.send(()).unwrap();
            } else {
                drop(done);
            }
            supervisor.attend().await;
            assert!(supervisor.reload.is_none());
        }
    }
}
