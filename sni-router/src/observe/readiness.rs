//! Whether new connections should be sent here.

use std::sync::atomic::{AtomicU8, Ordering};

/// What `/readyz` answers. Begins as starting.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

impl Readiness {
    /// A configuration is in force and connections are accepted. Has no effect once draining.
    pub fn set_ready(&self) {
        let _ = self
            .0
            .compare_exchange(STARTING, READY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// No connection is accepted any more.
    pub fn set_draining(&self) {
        self.0.store(DRAINING, Ordering::Relaxed);
    }

    /// `Err` says why not.
    pub fn check(&self) -> Result<(), &'static str> {
        match self.0.load(Ordering::Relaxed) {
            STARTING => Err("starting: no configuration is in force yet"),
            READY => Ok(()),
            _ => Err("draining: no new connections are accepted"),
        }
    }
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;
