//! Warning events, one for every problem: it is told when it comes, counted when it comes again,
//! and told again before the API server forgets it. Where there are more than may be written, each
//! is told once before any is told again.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as ApiEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use sni_router_core::status::Event;
use tokio::time::Instant;

use super::kind::Kind;
use super::status::is_refusal;

/// The events of one cluster.
#[derive(Default)]
pub struct Events {
    told: HashMap<Event, Told>,
    budget: Budget,
}

#[derive(Default)]
struct Told {
    /// How often it has come.
    count: i32,
    is_there: bool,
    /// Whether it has come, and was not written since.
    is_news: bool,
    /// When it was written last; never yet if absent.
    written: Option<Instant>,
}

impl Told {
    /// It is there now. One that comes and goes is counted, and told now and then.
    fn comes(&mut self, now: Instant) {
        if self.is_there {
            return;
        }
        self.count = self.count.saturating_add(1);
        self.is_there = true;
        self.is_news |= !self.is_younger(QUIET, now);
    }

    fn is_due(&self, now: Instant) -> bool {
        self.is_news || !self.is_younger(AGAIN_AFTER, now)
    }

    fn mark_written(&mut self, now: Instant) {
        self.is_news = false;
        self.written = Some(now);
    }

    /// Whether it was written less than `age` ago.
    fn is_younger(&self, age: Duration, now: Instant) -> bool {
        let written = self.written;
        written.is_some_and(|at| now.duration_since(at) < age)
    }
}

impl Events {
    /// Takes the problems there are now, and gives those to be written, as many as may be: what
    /// was never written, errors before warnings, and what was written longest ago.
    pub fn due<'a>(&mut self, events: impl Iterator<Item = &'a Event>, now: Instant) -> Vec<Event> {
        let mut before = std::mem::take(&mut self.told);
        let mut due = Vec::new();
        for event in events {
            let mut told = before.remove(event).unwrap_or_default();
            told.comes(now);
            if told.is_due(now) {
                due.push((told.written, Reverse(event.severity), event));
            }
            self.told.insert(event.clone(), told);
        }
        for (event, mut told) in before {
            told.is_there = false;
            if told.is_younger(AGAIN_AFTER, now) {
                self.told.insert(event, told);
            }
        }
        // Of equals, the order of the build.
        due.sort_by_key(|(written, severity, _)| (written.is_some(), *severity, *written));
        due.truncate(self.budget.left(now) as usize);
        due.into_iter().map(|(_, _, event)| event.clone()).collect()
    }

    /// Writes one that is due. One that is refused comes again as late as one that was written: it
    /// may never be taken, as in a namespace that is being deleted.
    pub async fn write(&mut self, client: &Client, event: &Event) -> Result<(), kube::Error> {
        let Some(told) = self.told.get_mut(event) else {
            return Ok(());
        };
        self.budget.take();
        let outcome = send(client, event, told.count).await;
        if outcome.is_ok() || outcome.as_ref().is_err_and(is_refusal) {
            told.mark_written(Instant::now());
        }
        outcome
    }
}

async fn send(client: &Client, event: &Event, count: i32) -> Result<(), kube::Error> {
    let Some(object) = to_api(event) else {
        return Ok(());
    };
    let namespace = event.object.namespace.as_deref().unwrap_or("default");
    let api: Api<ApiEvent> = Api::namespaced(client.clone(), namespace);
    match api.create(&PostParams::default(), &object).await {
        // By us, or by the router that wrote before.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let series = json!({"series": {
                "count": count.max(2),
                "lastObservedTime": MicroTime(Timestamp::now()),
            }});
            let name = object.metadata.name.unwrap_or_default();
            let params = PatchParams::default();
            api.patch(&name, &params, &Patch::Merge(series)).await?;
        }
        other => drop(other?),
    }
    Ok(())
}

fn to_api(event: &Event) -> Option<ApiEvent> {
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == event.object.kind)?;
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let hash = hasher.hash_one((&event.uid, event.reason, &event.message));
    let mut object = ApiEvent {
        action: Some("Route".into()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(event.message.clone()),
        reason: Some(event.reason.into()),
        regarding: Some(ObjectReference {
            api_version: Some(kind.resource().api_version),
            kind: Some(event.object.kind.clone()),
            name: Some(event.object.name.clone()),
            namespace: event.object.namespace.clone(),
            uid: event.uid.clone(),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.into()),
        reporting_instance: Some("sni-router".into()),
        type_: Some("Warning".into()),
        ..ApiEvent::default()
    };
    // The same problem has the same name, whoever tells it. Names end at 253 bytes.
    let object_name: String = event.object.name.chars().take(200).collect();
    object.metadata.name = Some(format!(
        "{}.{hash:016x}",
        object_name.trim_end_matches(['.', '-'])
    ));
    object
        .metadata
        .namespace
        .clone_from(&event.object.namespace);
    Some(object)
}

/// How many may be written: a few at once, then one a second.
struct Budget {
    left: f64,
    at: Option<Instant>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            left: BURST,
            at: None,
        }
    }
}

impl Budget {
    /// What may be written now.
    fn left(&mut self, now: Instant) -> f64 {
        let since = self.at.map_or(Duration::ZERO, |at| now.duration_since(at));
        self.left = (self.left + since.as_secs_f64()).min(BURST);
        self.at = Some(now);
        self.left
    }

    fn take(&mut self) {
        self.left -= 1.0;
    }
}

/// As in `reportingController`.
const CONTROLLER: &str = "sni-router.io/ingress-controller";

const BURST: f64 = 50.0;

/// API servers keep events for an hour by default.
const AGAIN_AFTER: Duration = Duration::from_secs(30 * 60);

/// One that comes back sooner is only counted.
const QUIET: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use kube::client::Body;
    use sni_router_core::problem::{ObjectRef, Severity};

    use super::*;

    fn event(name: &str) -> Event {
        Event {
            object: ObjectRef {
                kind: "Ingress".into(),
                namespace: Some("shop".into()),
                name: name.into(),
                ..ObjectRef::file("")
            },
            uid: Some("7".into()),
            severity: Severity::Warning,
            reason: "BackendNotFound",
            message: "there is no Service".into(),
        }
    }

    fn written(events: &mut Events, event: &Event, now: Instant) {
        events.budget.take();
        events.told.get_mut(event).unwrap().mark_written(now);
    }

    #[tokio::test]
    async fn event_that_is_refused_is_not_due_again_and_one_that_was_lost_is() {
        let client = |code: u16| {
            let service = tower::service_fn(move |_: axum::http::Request<Body>| async move {
                let status = json!({"kind": "Status", "message": "no", "code": code});
                let body = Body::from(status.to_string().into_bytes());
                axum::http::Response::builder().status(code).body(body)
            });
            Client::new(service, "default")
        };
        let (mut events, one, now) = (Events::default(), event("a"), Instant::now());
        for code in [503, 429, 403] {
            assert_eq!(events.due([&one].into_iter(), now).len(), 1, "{code}");
            assert!(events.write(&client(code), &one).await.is_err());
        }
        assert!(events.due([&one].into_iter(), now).is_empty());
    }

    #[test]
    fn problem_is_told_once_while_it_lasts_and_again_before_it_is_forgotten() {
        let (mut events, one, start) = (Events::default(), event("a"), Instant::now());
        assert_eq!(events.due([&one].into_iter(), start).len(), 1);
        assert_eq!(
            events.due([&one].into_iter(), start).len(),
            1,
            "was not written"
        );
        written(&mut events, &one, start);
        assert!(events.due([&one].into_iter(), start).is_empty());
        let later = start + AGAIN_AFTER;
        assert_eq!(events.due([&one].into_iter(), later).len(), 1);
    }

    #[test]
    fn problem_that_comes_and_goes_is_counted() {
        let (mut events, one, mut now) = (Events::default(), event("a"), Instant::now());
        let mut told = 0;
        for _ in 0..100 {
            for due in events.due([&one].into_iter(), now) {
                written(&mut events, &due, now);
                told += 1;
            }
            events.due([].into_iter(), now);
            now += Duration::from_secs(1);
        }
        assert_eq!(events.told[&one].count, 100);
        assert_eq!(told, 2, "once a minute");
    }

    #[test]
    fn flood_of_problems_is_told_little_by_little() {
        let mut events = Events::default();
        let all: Vec<_> = (0..5000).map(|n| event(&format!("a{n}"))).collect();
        let mut now = Instant::now();
        let mut told = 0;
        for _ in 0..100 {
            for due in events.due(all.iter(), now) {
                written(&mut events, &due, now);
                told += 1;
            }
            now += Duration::from_secs(1);
        }
        assert!((100..=150).contains(&told), "{told}");
    }

    #[test]
    fn every_problem_of_a_flood_is_told_before_any_is_told_again_and_errors_first() {
        let mut events = Events::default();
        let mut all: Vec<_> = (0..3000).map(|n| event(&format!("a{n}"))).collect();
        let error = all.last_mut().unwrap();
        error.severity = Severity::Error;
        let error = error.clone();
        let start = Instant::now();
        let step = Duration::from_secs(50);
        let mut counts = HashMap::<_, u32>::new();
        for turn in 0..90 * 60 / 50 {
            let now = start + step * turn;
            for due in events.due(all.iter(), now) {
                let is_first = !counts.contains_key(&due);
                assert!(is_first || counts.len() == all.len(), "told again");
                assert!(turn > 0 || !counts.is_empty() || due == error);
                written(&mut events, &due, now);
                *counts.entry(due).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), all.len());
        assert!(counts[&error] >= 2, "{}", counts[&error]);
        let total: u32 = counts.values().sum();
        assert!((5_300..=5_450).contains(&total), "{total}");
    }

    #[test]
    fn problem_that_was_never_told_comes_before_those_that_come_and_go() {
        let mut events = Events::default();
        let old: Vec<_> = (0..50).map(|n| event(&format!("old{n}"))).collect();
        let start = Instant::now();
        for due in events.due(old.iter(), start) {
            written(&mut events, &due, start);
        }
        events.due([].into_iter(), start);
        let (new, later) = (event("new"), start + QUIET);
        let due = events.due(old.iter().chain([&new]), later);
        assert_eq!((due.len(), &due[0]), (50, &new));
    }

    #[test]
    fn name_is_the_same_for_the_same_problem_only() {
        let name = |event: &Event| to_api(event).unwrap().metadata.name.unwrap();
        let one = event("a");
        let mut other = event("a");
        other.message = "something else".into();
        assert_eq!(name(&one), name(&event("a")));
        assert_ne!(name(&one), name(&other));
        assert!(name(&event(&"x".repeat(253))).len() <= 253);
    }
}
