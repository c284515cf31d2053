//! What single connections go through, told live to whoever follows them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use tokio::sync::broadcast::{self, Receiver, Sender, error::RecvError};
use tokio::sync::watch;

use super::connection::Connection;

/// Tells steps of connections to followers. Without any, a step costs one load.
pub struct Trace {
    followers: AtomicUsize,
    steps: Sender<Step>,
    /// Becomes true when nobody is told any more.
    over: watch::Sender<bool>,
}

/// Something that a connection went through.
#[derive(Clone, Debug)]
pub struct Step {
    /// When.
    pub at: SystemTime,
    /// The connection's number.
    pub id: u64,
    /// Its client.
    pub client: SocketAddr,
    /// The server name, once it is known.
    pub host: Option<sni_router_core::name::Host>,
    /// How far it has come: `accepted`, `hello`, `routed`, `connected`, `carried`, `declined`, `closed`.
    pub phase: &'static str,
    /// What there is to say of it.
    pub detail: String,
}

impl Trace {
    /// A connection has come so far; `detail` is only asked for if somebody follows.
    pub(super) fn step(
        &self,
        connection: &Connection,
        phase: &'static str,
        detail: impl FnOnce() -> String,
    ) {
        if self.followers.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Fails where the last follower has just gone.
        let _ = self.steps.send(Step {
            at: SystemTime::now(),
            id: connection.id,
            client: connection.client(),
            host: connection.host.get().cloned(),
            phase,
            detail: detail(),
        });
    }
}

impl Trace {
    /// Sends all followers away: another router has the connections that come.
    pub fn end(&self) {
        self.over.send_replace(true);
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            followers: AtomicUsize::new(0),
            steps: broadcast::channel(QUEUED).0,
            over: watch::Sender::new(false),
        }
    }
}

/// Somebody who follows connections.
pub struct Follower {
    steps: Receiver<Step>,
    over: watch::Receiver<bool>,
    trace: Arc<Trace>,
}

impl Follower {
    /// Of all that happens from now on; `None` where there are enough others.
    pub fn of(trace: Arc<Trace>) -> Option<Self> {
        let others = trace.followers.fetch_add(1, Ordering::Relaxed);
        let (steps, over) = (trace.steps.subscribe(), trace.over.subscribe());
        let follower = Self { steps, over, trace };
        // If it is one too many, its drop takes it off again.
        (others < MOST_FOLLOWERS).then_some(follower)
    }

    /// The next step; `Err` has how many were lost, since this one was too slow. `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Step, u64>> {
        let step = tokio::select! {
            biased;
            step = self.steps.recv() => step,
            // Or the sender is gone, which is the end as well.
            _ = self.over.wait_for(|over| *over) => return None,
        };
        match step {
            Ok(step) => Some(Ok(step)),
            Err(RecvError::Lagged(lost)) => Some(Err(lost)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.trace.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Each of them costs every connection a little.
const MOST_FOLLOWERS: usize = 16;

/// Steps that wait for a slow follower.
const QUEUED: usize = 8192;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::census::Census;
    use super::*;

    #[tokio::test]
    async fn steps_are_told_to_who_follows_and_not_even_made_for_nobody() {
        let trace = Arc::new(Trace::default());
        let client = "192.0.2.1:5".parse().unwrap();
        let connection = Census::new(None, None).enter(client, client, None, Duration::ZERO);
        trace.step(&connection, "accepted", || unreachable!("nobody follows"));
        let mut follower = Follower::of(Arc::clone(&trace)).unwrap();
        trace.step(&connection, "hello", || "size 5".into());
        let step = follower.next().await.unwrap().unwrap();
        assert_eq!((step.phase, step.detail.as_str()), ("hello", "size 5"));
        for _ in 0..QUEUED + 9 {
            trace.step(&connection, "hello", String::new);
        }
        assert!(follower.next().await.unwrap().is_err());
        drop(follower);
        trace.step(&connection, "closed", || unreachable!("nobody follows"));
    }

    #[tokio::test]
    async fn followers_are_few_and_are_sent_away_at_the_end() {
        let trace = Arc::new(Trace::default());
        let follow = || Follower::of(Arc::clone(&trace));
        let mut followers: Vec<_> = (0..MOST_FOLLOWERS).map_while(|_| follow()).collect();
        assert_eq!(followers.len(), MOST_FOLLOWERS);
        assert!(follow().is_none());
        followers.pop();
        let mut last = follow().unwrap();
        assert!(follow().is_none());
        trace.end();
        assert!(last.next().await.is_none());
    }
}
