//! A client whose credentials come from a plugin, and are renewed before they run out.
//!
//! One task of the cluster runs the plugin; no request does. What it gave last is used while it is good;
//! after that a request fails at once, with the plugin's own reason, so that the cluster is stale and
//! says why. The task goes on trying.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, StatusCode};
use k8s_openapi::jiff::Timestamp;
use kube::client::Body;
use kube::{Client, Config};
use thiserror::Error;
use tokio::sync::watch as channel;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::{ServiceExt as _, service_fn};
use tracing::{info, warn};

use super::connect::{ConnectError, build};
use super::plugin::{Credentials, Plugin, PluginError};
use super::watch::words;

/// Keeps a cluster's credentials good.
pub struct Renewal {
    plugin: Plugin,
    config: Config,
    known: channel::Sender<Known>,
}

/// What the plugin has come to.
#[derive(Default)]
struct Known {
    held: Option<Held>,
    /// Why it gave nothing the last time.
    failure: Option<Arc<str>>,
}

/// A client with credentials.
struct Held {
    client: Client,
    until: Option<Timestamp>,
    /// Which of all that there were.
    number: u64,
    /// Whether the API server does not know them, or they have run out before their renewal, as when the
    /// clock is set.
    is_refused: bool,
}

impl Renewal {
    /// A client that has no credentials before [`Self::run`] has got some.
    pub fn of(config: Config, plugin: Plugin) -> (Client, Self) {
        let known = channel::Sender::new(Known::default());
        let namespace = config.default_namespace.clone();
        let seen = known.clone();
        let service = service_fn(move |request| send(seen.clone(), request));
        let client = Client::new(service.map_err(tower::BoxError::from), namespace);
        let renewal = Self {
            plugin,
            config,
            known,
        };
        (client, renewal)
    }

    /// Renews for ever.
    pub async fn run(self, cluster: Arc<str>) {
        let mut pause = FIRST_PAUSE;
        for number in 0_u64.. {
            let began = Instant::now();
            match self.attempt(number).await {
                Ok(held) => {
                    pause = FIRST_PAUSE;
                    let due = held.until.map_or(Duration::MAX, due_in);
                    let had = self.known.send_replace(Known {
                        held: Some(held),
                        failure: None,
                    });
                    if had.failure.is_some() {
                        info!(
                            cluster = &*cluster,
                            "the credential plugin gives credentials again"
                        );
                    }
                    let mut known = self.known.subscribe();
                    let is_refused =
                        |known: &Known| known.held.as_ref().is_some_and(|it| it.is_refused);
                    let _ = timeout(due, known.wait_for(is_refused)).await;
                    sleep_until(began + LEAST).await;
                }
                Err(error) => {
                    let why: Arc<str> = words(&error).into();
                    let is_news = self.known.borrow().failure.as_ref() != Some(&why);
                    if is_news {
                        let why = &*why;
                        warn!(cluster = &*cluster, why, "no new credentials");
                    }
                    self.known.send_modify(|known| known.failure = Some(why));
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn attempt(&self, number: u64) -> Result<Held, RenewalError> {
        let credentials = self.plugin.run().await?;
        let until = credentials.until;
        if is_over(until) {
            return Err(RenewalError::Old);
        }
        Ok(Held {
            client: self.client(credentials).await?,
            until,
            number,
            is_refused: false,
        })
    }

    async fn client(&self, credentials: Credentials) -> Result<Client, RenewalError> {
        let mut config = self.config.clone();
        credentials.put_into(&mut config.auth_info);
        // It may read the system's certificates.
        let client = spawn_blocking(move || build(config)).await;
        Ok(client.map_err(|_| ConnectError::Panicked)??)
    }
}

/// Sends a request with the credentials that are good now.
async fn send(
    known: channel::Sender<Known>,
    request: Request<Body>,
) -> Result<axum::http::Response<Body>, kube::Error> {
    let (client, number) = usable(&known).await?;
    let response = client.send(request).await?;
    if response.status() == StatusCode::UNAUTHORIZED {
        refuse(&known, |held| held.number == number);
    }
    Ok(response)
}

/// The client to be used now; waits for the plugin only while it may still succeed.
async fn usable(known: &channel::Sender<Known>) -> Result<(Client, u64), kube::Error> {
    refuse(known, |held| is_over(held.until));
    let mut seen = known.subscribe();
    let is_decided = |known: &Known| known.usable().is_some() || known.failure.is_some();
    let decided = seen.wait_for(is_decided).await;
    let decided = decided.map_err(|_| kube::Error::Service(RenewalError::Over.into()))?;
    match (decided.usable(), &decided.failure) {
        (Some(held), _) => Ok((held.client.clone(), held.number)),
        (None, failure) => {
            let why = failure.as_deref().unwrap_or_default();
            Err(kube::Error::Service(why.into()))
        }
    }
}

/// Has credentials renewed that are no good.
fn refuse(known: &channel::Sender<Known>, are_meant: impl Fn(&Held) -> bool) {
    known.send_if_modified(|known| match &mut known.held {
        Some(held) if !held.is_refused && are_meant(held) => {
            held.is_refused = true;
            true
        }
        _ => false,
    });
}

impl Known {
    fn usable(&self) -> Option<&Held> {
        let held = self.held.as_ref();
        held.filter(|held| !held.is_refused && !is_over(held.until))
    }
}

fn is_over(until: Option<Timestamp>) -> bool {
    until.is_some_and(|until| until <= Timestamp::now())
}

/// When to renew what is good until then: a while before, but not at once.
fn due_in(until: Timestamp) -> Duration {
    let left = Timestamp::now().duration_until(until).unsigned_abs();
    left - (left / 2).min(AHEAD)
}

/// Why there is no client.
#[derive(Debug, Error)]
enum RenewalError {
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error("the credential plugin gives credentials that have run out already")]
    Old,
    #[error("what the credential plugin gives cannot be used: {}", words(.0))]
    Unusable(#[from] ConnectError),
    #[error("the cluster is no longer watched")]
    Over,
}

/// Credentials are renewed so long before they run out. Enough for two attempts.
const AHEAD: Duration = Duration::from_secs(60);

/// Attempts are at least so far apart, however short-lived or refused what they gave is.
const LEAST: Duration = Duration::from_secs(10);

const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
