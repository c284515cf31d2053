//! The signals a daemon gets.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

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
        let on = |kind| signal(kind).context("cannot receive signals");
        Ok(Self {
            reload: on(SignalKind::hangup())?,
            hand_over: on(SignalKind::user_defined2())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    /// SIGTERM or SIGINT.
    pub async fn stop(&mut self) {
        stop(&mut self.terminate, &mut self.interrupt).await;
    }
}

/// Waits for one of the two.
pub async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
