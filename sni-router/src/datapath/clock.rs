//! Watching the limits of a carried connection.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::carry::{End, Limits, Traffic};

/// Answers when a limit has been reached, or somebody wants an end. `progress` returns a number that grows with every byte.
///
/// It looks at the number four times per idle timeout, so a byte costs nothing here, and an idle
/// connection is ended after one to one and a quarter idle timeouts.
pub async fn limits_reached(
    limits: &Limits,
    traffic: &Traffic,
    mut progress: impl FnMut() -> u64,
) -> End {
    let mut shutdown = limits.shutdown.clone();
    tokio::select! {
        end = timed_out(limits, &mut progress) => end,
        end = traffic.hear() => end,
        closed = shutdown.wait_for(|now| *now) => {
            // The sender lives as long as the process; if it is gone, so are we.
            drop(closed);
            End::Shutdown
        }
    }
}

async fn timed_out(limits: &Limits, progress: &mut impl FnMut() -> u64) -> End {
    let start = Instant::now();
    let mut last = progress();
    let mut quiet_since = start;
    loop {
        let quiet = quiet_since.elapsed();
        let mut wait = limits.idle.saturating_sub(quiet);
        if wait.is_zero() {
            return End::Idle;
        }
        if let Some(max) = limits.max_duration {
            let left = max.saturating_sub(start.elapsed());
            if left.is_zero() {
                return End::MaxDuration;
            }
            wait = wait.min(left);
        }
        sleep(wait.min((limits.idle / 4).max(SHORTEST))).await;
        let now = progress();
        if now != last {
            last = now;
            quiet_since = Instant::now();
        }
    }
}

const SHORTEST: Duration = Duration::from_millis(10);
