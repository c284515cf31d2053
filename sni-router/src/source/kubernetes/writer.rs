//! Writes status and events into one cluster, while this router holds its Lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use sni_router_core::model::Cluster;
use sni_router_core::status::Desired;
use tokio::sync::watch as channel;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::attempts::Attempts;
use super::contact::Contact;
use super::definition::{Kept, Problems};
use super::events::Events;
use super::inputs::Known;
use super::lease::{Lease, PERIOD};
use super::mirror::Mirror;
use super::object::FIELD_MANAGER;
use super::status::{changes, is_refusal};
use super::watch::words;

/// What is written, and in whose name.
#[derive(Clone, Debug)]
pub struct Writing {
    /// Where the Lease is; the client's own namespace if absent.
    pub lease_namespace: Option<String>,
    /// Its name. With the namespace it is what tells installations of the router apart.
    pub lease_name: String,
    /// Who this router is among those that want the Lease.
    pub identity: String,
    /// Whether addresses are written to Ingresses.
    pub with_ingresses: bool,
}

/// What has come of the writing.
#[derive(Debug, Default)]
pub struct Written {
    pub is_leader: AtomicBool,
    pub statuses: AtomicU64,
    pub events: AtomicU64,
    pub failures: AtomicU64,
}

/// What shall be written, as of the last build; `None` before the first.
pub type Wanted = channel::Receiver<Option<Arc<Desired>>>;

/// What a writer needs.
pub struct Writer {
    pub label: Arc<str>,
    pub cluster: Cluster,
    pub client: Client,
    pub mirror: Arc<Mirror>,
    pub contact: Arc<Contact>,
    pub definition: Problems,
    pub writing: Writing,
    pub written: Arc<Written>,
    pub wanted: Wanted,
    /// Turns true when the process ends.
    pub ending: channel::Receiver<bool>,
    /// What was logged last.
    pub told: Option<String>,
}

impl Writing {
    fn lease_namespace<'a>(&'a self, client: &'a Client) -> &'a str {
        let own = self.lease_namespace.as_deref();
        own.unwrap_or_else(|| client.default_namespace())
    }

    /// The field manager of this installation.
    fn manager(&self, client: &Client) -> String {
        let namespace = self.lease_namespace(client);
        format!("{FIELD_MANAGER}/{namespace}/{}", self.lease_name)
    }
}

impl Writer {
    /// Keeps the Lease if it can, and writes while it does, until the process ends.
    pub async fn run(mut self) {
        let namespace = self.writing.lease_namespace(&self.client).to_owned();
        let (name, identity) = (
            self.writing.lease_name.clone(),
            self.writing.identity.clone(),
        );
        let mut lease = Lease::new(self.client.clone(), &namespace, name, identity);
        let (tell_leader, mut is_leader) = channel::channel(false);
        let (written, label) = (Arc::clone(&self.written), Arc::clone(&self.label));
        let mut ending = self.ending.clone();
        let elect = async {
            let mut told = None;
            let mut tick = interval(PERIOD);
            // An attempt that took long is not made up for by a burst.
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !*ending.borrow_and_update() {
                let attempt = timeout(ATTEMPT, lease.attempt()).await;
                let why = match attempt {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(words(&error)),
                    Err(_) => Some("the API server does not answer".to_owned()),
                };
                if why.is_some() && why != told {
                    let why = why.as_deref();
                    warn!(
                        cluster = &*label,
                        namespace, why, "no Lease, so status is not written"
                    );
                }
                told = why;
                set_leader(&tell_leader, &written, &label, lease.is_held());
                tokio::select! {
                    _ = tick.tick() => {}
                    _ = ending.changed() => {}
                }
            }
            set_leader(&tell_leader, &written, &label, false);
            let _ = timeout(ATTEMPT, lease.release()).await;
        };
        tokio::select! {
            () = elect => {}
            () = self.write(&mut is_leader) => {}
        }
    }

    async fn write(&mut self, is_leader: &mut channel::Receiver<bool>) {
        let (mut attempts, mut events) = (Attempts::default(), Events::default());
        let mut pause = FIRST_PAUSE;
        loop {
            if is_leader.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            match self.pass(is_leader, &mut attempts, &mut events).await {
                Ok(()) => {
                    if std::mem::replace(&mut pause, FIRST_PAUSE) != FIRST_PAUSE {
                        self.told = None;
                    }
                    let (mirror, wanted) = (Arc::clone(&self.mirror), &mut self.wanted);
                    tokio::select! {
                        () = mirror.seen_changed() => {}
                        Ok(()) = wanted.changed() => {}
                        () = sleep(LOOK_AGAIN) => {}
                    }
                    // What was just written comes back by the watches.
                    sleep(SETTLE).await;
                }
                Err(error) => {
                    self.failed(&error);
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Says so once for every reason.
    fn failed(&mut self, error: &kube::Error) {
        self.written.failures.fetch_add(1, Ordering::Relaxed);
        let why = words(error);
        if self.told.as_ref() != Some(&why) {
            warn!(cluster = &*self.label, why, "cannot write status or events");
            self.told = Some(why);
        }
    }

    /// Writes what differs now, slowly enough not to be a burden.
    ///
    /// # Errors
    ///
    /// If the API server takes nothing. What it refuses keeps nothing else from being written.
    async fn pass(
        &mut self,
        is_leader: &channel::Receiver<bool>,
        attempts: &mut Attempts,
        events: &mut Events,
    ) -> Result<(), kube::Error> {
        let wanted = self.wanted.borrow_and_update().clone();
        let Some(wanted) = wanted else {
            return Ok(());
        };
        // While lists are awaited, nobody knows what there is.
        if !self.mirror.is_complete() {
            return Ok(());
        }
        // Nor what should be, while what is wanted comes from a build without them.
        if !wanted.current.contains(&self.cluster) {
            return Ok(());
        }
        let now = Time(Timestamp::now());
        let with_ingresses = self.writing.with_ingresses;
        let kept = Kept::with(&self.definition);
        let manager = self.writing.manager(&self.client);
        let mirror = Arc::clone(&self.mirror);
        let known = Known::new(&mirror, self.contact.unsure());
        let mut changes = changes(
            &wanted,
            &self.cluster,
            &known,
            kept,
            with_ingresses,
            &manager,
            &now,
        );
        attempts.expire(Instant::now());
        changes.retain(|change| attempts.is_due(change, Instant::now()));
        for (nth, change) in changes.iter().enumerate() {
            // What is wanted by now may be something else.
            let is_outdated = nth >= AT_LEAST && self.wanted.has_changed().unwrap_or(false);
            if !*is_leader.borrow() || is_outdated {
                return Ok(());
            }
            match change.write(&self.client, &manager).await {
                Ok(()) => {
                    self.written.statuses.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if is_refusal(&error) => self.failed(&error),
                Err(error) => return Err(error),
            }
            if attempts.made(change, Instant::now()) == TELL_AT {
                let (kind, id) = (change.kind.as_str(), &change.id);
                warn!(
                    cluster = &*self.label,
                    kind,
                    namespace = id.namespace,
                    name = id.name,
                    "its status is refused or does not stay (somebody else writes it, or its \
                     definition drops it), and is now written ever more rarely"
                );
            }
            sleep(WRITE_PAUSE).await;
        }
        let ours = |event: &&_| is_in(event, &self.cluster);
        let ours = known.told(wanted.events.iter().filter(ours));
        let due = events.due(ours.into_iter(), Instant::now());
        for event in due {
            if !*is_leader.borrow() {
                return Ok(());
            }
            match events.write(&self.client, &event).await {
                Ok(()) => {
                    self.written.events.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if is_refusal(&error) => self.failed(&error),
                Err(error) => return Err(error),
            }
            sleep(WRITE_PAUSE).await;
        }
        Ok(())
    }
}

fn is_in(event: &sni_router_core::status::Event, cluster: &Cluster) -> bool {
    event.object.cluster == *cluster
}

fn set_leader(tell: &channel::Sender<bool>, written: &Written, label: &Arc<str>, leads: bool) {
    written.is_leader.store(leads, Ordering::Relaxed);
    let changed = tell.send_if_modified(|last| std::mem::replace(last, leads) != leads);
    match (changed, leads) {
        (true, true) => info!(cluster = &**label, "this router writes status and events"),
        (true, false) => info!(
            cluster = &**label,
            "this router no longer writes status and events"
        ),
        _ => {}
    }
}

/// Fifty writes a second at most.
const WRITE_PAUSE: Duration = Duration::from_millis(20);

/// How much is written before newer wishes are looked at.
const AT_LEAST: usize = 50;

/// A status that has been written so often in half a minute is worth a line.
const TELL_AT: u32 = 6;

/// How often to look without a reason: for events that had to wait.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

const SETTLE: Duration = Duration::from_millis(200);

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An attempt that takes longer has failed.
const ATTEMPT: Duration = Duration::from_secs(5);
