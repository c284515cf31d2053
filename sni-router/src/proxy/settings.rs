//! What an operator can set about connections.

use std::time::Duration;

use clap::ValueEnum;
use tokio::sync::watch;

use super::quota;
use crate::carry::Limits;

/// Settings of the connection path.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From accept to the last byte of the hello.
    pub hello_timeout: Duration,
    /// Largest hello, in bytes of stream, record headers included.
    pub hello_max_size: usize,
    /// Connections that may be without a complete hello at one time.
    pub max_pending_hellos: usize,
    /// From choosing the first endpoint to having one connected, all retries together.
    pub connect_timeout: Duration,
    /// Longest time without a byte in either direction.
    pub idle_timeout: Duration,
    /// Longest time from hand-over to the end.
    pub max_duration: Option<Duration>,
    /// How each kind of rejection is answered.
    pub answers: Answers,
    /// How many records are written.
    pub records: quota::Limits,
}

impl Settings {
    /// What a carried connection must not exceed.
    pub fn limits(&self, shutdown: &watch::Receiver<bool>) -> Limits {
        Limits {
            idle: self.idle_timeout,
            max_duration: self.max_duration,
            shutdown: shutdown.clone(),
        }
    }
}

/// How each kind of rejected hello is answered.
#[derive(Clone, Debug)]
pub struct Answers {
    /// The name is of no route.
    pub unknown_host: Answer,
    /// There is no name.
    pub no_sni: Answer,
    /// It is not TLS.
    pub not_tls: Answer,
    /// It is TLS, but cannot be read.
    pub malformed: Answer,
    /// It is too large.
    pub too_large: Answer,
    /// It did not come in time.
    pub timeout: Answer,
}

/// What a rejected client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Answer {
    /// A fatal TLS alert that names the cause, then FIN.
    Alert,
    /// FIN.
    Close,
    /// RST.
    Reset,
}
