//! Who writes: one router of a cluster, the holder of a Lease.
//!
//! As client-go elects (tools/leaderelection): the holder renews; another one takes the Lease when it
//! has not seen it change for as long as it is good. Time is measured by each router's own clock from
//! when it saw the change, so that clocks need not agree.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as Record, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

/// A Lease that this router holds, or would like to.
pub struct Lease {
    api: Api<Record>,
    name: String,
    identity: String,
    /// What was seen last, and when it was first seen so.
    seen: Option<(LeaseSpec, Instant)>,
    /// When it was renewed last, if it is ours.
    renewed: Option<Instant>,
}

impl Lease {
    /// Held by nobody yet, as far as we know.
    pub fn new(client: Client, namespace: &str, name: String, identity: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name,
            identity,
            seen: None,
            renewed: None,
        }
    }

    /// Whether it is ours now. It is lost before another router may take it.
    pub fn is_held(&self) -> bool {
        self.renewed
            .is_some_and(|renewed| renewed.elapsed() < RENEW_WITHIN)
    }

    /// Takes it or renews it, where that is our right. To be called every [`PERIOD`].
    ///
    /// # Errors
    ///
    /// If the API server does not do it; a held Lease is ours a little longer.
    pub async fn attempt(&mut self) -> Result<(), kube::Error> {
        // Before the request: what the others measure begins after this.
        let now = Instant::now();
        let Some(mut record) = self.api.get_opt(&self.name).await? else {
            let mut record = Record::default();
            record.metadata.name = Some(self.name.clone());
            record.spec = Some(self.claim(None));
            return self.wrote(now, self.api.create(&PostParams::default(), &record).await);
        };
        let spec = record.spec.take().unwrap_or_default();
        if !self.may_take(&spec, now) {
            self.renewed = None;
            return Ok(());
        }
        record.spec = Some(self.claim(Some(&spec)));
        // With the version that was read: one of two that try at once is refused.
        self.wrote(
            now,
            self.api
                .replace(&self.name, &PostParams::default(), &record)
                .await,
        )
    }

    /// Gives it back, so that nobody waits for it to expire.
    pub async fn release(&mut self) -> Result<(), kube::Error> {
        if self.renewed.take().is_none() {
            return Ok(());
        }
        let Some(mut record) = self.api.get_opt(&self.name).await? else {
            return Ok(());
        };
        match &mut record.spec {
            Some(spec) if spec.holder_identity.as_ref() == Some(&self.identity) => {
                spec.holder_identity = Some(String::new());
            }
            _ => return Ok(()),
        }
        self.api
            .replace(&self.name, &PostParams::default(), &record)
            .await
            .map(drop)
    }

    fn may_take(&mut self, spec: &LeaseSpec, now: Instant) -> bool {
        if self.seen.as_ref().is_none_or(|(seen, _)| seen != spec) {
            self.seen = Some((spec.clone(), now));
        }
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let good_for = spec.lease_duration_seconds.map_or(GOOD_FOR, |seconds| {
            Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        });
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        now.duration_since(since) > good_for
    }

    fn claim(&self, last: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let is_ours =
            last.is_some_and(|last| last.holder_identity.as_ref() == Some(&self.identity));
        let transitions = last.and_then(|last| last.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(GOOD_FOR.as_secs()).ok(),
            acquire_time: match is_ours {
                true => last.and_then(|last| last.acquire_time.clone()),
                false => Some(now.clone()),
            },
            renew_time: Some(now),
            lease_transitions: match last {
                Some(_) if !is_ours => Some(transitions.saturating_add(1)),
                _ => Some(transitions),
            },
            ..LeaseSpec::default()
        }
    }

    fn wrote(&mut self, when: Instant, result: kube::Result<Record>) -> Result<(), kube::Error> {
        match result {
            Ok(record) => {
                self.seen = record.spec.map(|spec| (spec, when));
                self.renewed = Some(when);
                Ok(())
            }
            // Another one was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.renewed = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// client-go's times.
const GOOD_FOR: Duration = Duration::from_secs(15);
const RENEW_WITHIN: Duration = Duration::from_secs(10);

/// How often to try.
pub const PERIOD: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(identity: &str) -> Lease {
        let service = tower::service_fn(|_: axum::http::Request<kube::client::Body>| async {
            Err::<axum::http::Response<kube::client::Body>, _>("no API server in this test")
        });
        let client = Client::new(service, "default");
        Lease::new(client, "default", "a".into(), identity.into())
    }

    #[tokio::test(start_paused = true)]
    async fn lease_is_taken_when_it_has_not_changed_for_as_long_as_it_is_good() {
        let (mut ours, theirs) = (lease("a"), lease("b"));
        let mut spec = theirs.claim(None);
        assert!(!ours.may_take(&spec, Instant::now()));
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(!ours.may_take(&spec, Instant::now()));
        spec = theirs.claim(Some(&spec));
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(!ours.may_take(&spec, Instant::now()), "was renewed");
        tokio::time::advance(Duration::from_secs(16)).await;
        assert!(ours.may_take(&spec, Instant::now()));
        let taken = ours.claim(Some(&spec));
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(taken.holder_identity.as_deref(), Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn lease_that_was_given_back_is_taken_at_once() {
        let mut ours = lease("a");
        let mut spec = lease("b").claim(None);
        spec.holder_identity = Some(String::new());
        assert!(ours.may_take(&spec, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn lease_is_lost_before_another_may_take_it() {
        let mut ours = lease("a");
        assert!(ours.attempt().await.is_err());
        assert!(!ours.is_held());
        let record = Record::default();
        ours.wrote(Instant::now(), Ok(record)).unwrap();
        assert!(ours.is_held());
        tokio::time::advance(RENEW_WITHIN).await;
        assert!(!ours.is_held());
        assert!(RENEW_WITHIN + PERIOD < GOOD_FOR);
    }
}
