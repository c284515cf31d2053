//! The signals a daemon gets.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;

/// See the module.
pub struct Signals {
    /// SIGHUP.
    pub reload: Signal,
    /// SIGUSR2: another process takes over.
    pub hand_over: Signal,
    /// SIGTERM.
    pub terminate: Signal,
    /// SIGINT.
    pub interrupt: Signal,
}

impl Signals {
    /// From now on, they are waited for.
    pub fn new() -> Result<Self> {
        Ok(Self {
            reload: on(SignalKind::hangup())?,
            hand_over: on(SignalKind::user_defined2())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }
}

/// Calls `reopen` on every SIGUSR1, as who rotates logs sends it, as long as the process lives. From
/// now on that signal is not deadly, whether or not there is anything to reopen.
pub fn on_rotation(reopen: impl Fn() + Clone + Send + 'static) -> Result<()> {
    let mut rotated = on(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        while rotated.recv().await.is_some() {
            // A file system may hang. A panic is a bug that has been logged by then.
            let _ = spawn_blocking(reopen.clone()).await;
        }
    });
    Ok(())
}

fn on(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("cannot receive signals")
}

/// Waits for one of the two.
pub async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
