//! What is to be written to the objects of a cluster: status and events, as a function of a
//! [`Build`].
//!
//! Nothing here depends on time or on a node, so every router of a cluster comes to the same
//! answer and it does not matter which of them writes it. What one node has of its own (kernel,
//! endpoints that refuse) is in metrics.

mod condition;

use std::collections::{BTreeSet, HashMap};

pub use self::condition::{Condition, ConditionType};
use crate::manifest::{Build, IngressFacts, ListenerFacts, Subject};
use crate::model::{Cluster, Vip};
use crate::problem::{ObjectRef, Problem, Reason, Severity};

/// What is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Of every Listener that is this router's to judge, in the order of their keys.
    pub listeners: Vec<ListenerStatus>,
    /// Of every Ingress that is this router's and names a Listener, in the order of their keys.
    pub ingresses: Vec<IngressStatus>,
    /// Every problem but notes, each once.
    pub events: Vec<Event>,
    /// Clusters of which everything was looked at. An object of one of these that is not here has no
    /// status of ours: one that was written is to be cleared. Nothing is known of others.
    pub current: BTreeSet<Cluster>,
}

/// The status of a Listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Which object, and which generation of it this is about.
    pub subject: Subject,
    /// NetScaler's `state`.
    pub state: State,
    /// NetScaler's `status_message`: one sentence, or every error.
    pub status_message: String,
    /// One of each type, in their order.
    pub conditions: [Condition; 4],
    /// The VIPs it is served on; none where that is every local address.
    pub addresses: Vec<String>,
    /// How many routes are attached, those of other clusters not counted.
    pub attached_routes: usize,
}

/// A Listener's state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is served as it says.
    Served,
    /// It is wrong, and its last good version is served.
    Degraded,
    /// It is not served.
    Refused,
}

impl State {
    /// As in `status.state`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Served => "Served",
            Self::Degraded => "Degraded",
            Self::Refused => "Refused",
        }
    }
}

/// The status of an Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressStatus {
    /// Which object.
    pub subject: Subject,
    /// For `status.loadBalancer.ingress[].ip`: the VIPs of its Listener; none where it has no
    /// route there.
    pub addresses: Vec<String>,
}

/// An event of type Warning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// The object it is about; never a file.
    pub object: ObjectRef,
    /// The object's uid, where known.
    pub uid: Option<String>,
    /// The problem's; what is written is a Warning in any case.
    pub severity: Severity,
    /// CamelCase.
    pub reason: &'static str,
    /// The field, what is wrong and what to do, at most [`MAX_MESSAGE`] bytes.
    pub message: String,
}

/// What is to be written for a build.
pub fn desired(build: &Build) -> Desired {
    let mut problems: HashMap<&ObjectRef, Vec<&Problem>> = HashMap::new();
    for problem in &build.problems {
        problems.entry(&problem.object).or_default().push(problem);
    }
    let of = |kind: &str, subject: &Subject| {
        let object = subject.reference(kind);
        problems.get(&object).map_or(&[][..], Vec::as_slice)
    };
    Desired {
        listeners: build
            .listeners
            .iter()
            .map(|facts| listener(facts, of(LISTENER, &facts.subject)))
            .collect(),
        ingresses: build.ingresses.iter().map(ingress).collect(),
        events: events(build),
        current: build.current.clone(),
    }
}

fn listener(facts: &ListenerFacts, problems: &[&Problem]) -> ListenerStatus {
    let errors: Vec<_> = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .collect();
    let state = match &facts.served {
        Some(served) if !served.is_kept => State::Served,
        Some(_) => State::Degraded,
        None => State::Refused,
    };
    let status_message = match (&facts.served, errors.is_empty()) {
        (_, false) => joined(errors.iter().map(|problem| message(problem))),
        (Some(served), true) => match served.routes {
            1 => "served with 1 route".to_owned(),
            routes => format!("served with {routes} routes"),
        },
        (None, true) => "is not served".to_owned(),
    };
    let vips = facts.served.iter().flat_map(|served| &served.vips);
    ListenerStatus {
        subject: facts.subject.clone(),
        state,
        status_message,
        conditions: condition::all(facts, problems),
        addresses: addresses(vips),
        attached_routes: facts.served.as_ref().map_or(0, |served| served.routes),
    }
}

fn ingress(facts: &IngressFacts) -> IngressStatus {
    IngressStatus {
        subject: facts.subject.clone(),
        addresses: addresses(&facts.vips),
    }
}

/// "Every local address" is none that could be written.
fn addresses<'a>(vips: impl IntoIterator<Item = &'a Vip>) -> Vec<String> {
    let written = vips.into_iter().filter_map(|vip| match vip {
        Vip::Addr(addr) => Some(addr.to_string()),
        Vip::Any => None,
    });
    written.collect()
}

/// Every problem with an object that has one, but for notes. That another controller's Listener
/// wants what this router does not do is no problem of its own.
fn events(build: &Build) -> Vec<Event> {
    let subjects = build
        .listeners
        .iter()
        .map(|facts| (LISTENER, &facts.subject))
        .chain(
            build
                .ingresses
                .iter()
                .map(|facts| (INGRESS, &facts.subject)),
        );
    let subjects: HashMap<_, _> = subjects
        .map(|(kind, subject)| (subject.reference(kind), subject))
        .collect();
    let mut told = BTreeSet::new();
    let mut events = Vec::new();
    for problem in &build.problems {
        let message = message(problem);
        let subject = subjects.get(&problem.object);
        if problem.severity == Severity::Note
            || problem.object.kind == FILE
            || (problem.reason == Reason::PassthroughOff && subject.is_none())
            || !told.insert((&problem.object, problem.reason, message.clone()))
        {
            continue;
        }
        events.push(Event {
            object: problem.object.clone(),
            uid: subject.and_then(|subject| subject.uid.clone()),
            severity: problem.severity,
            reason: problem.reason.as_str(),
            message,
        });
    }
    events
}

/// `spec.vip: "x" is not an IP address (write an IPv4 or IPv6 address)`
fn message(problem: &Problem) -> String {
    let mut text = String::new();
    if !problem.path.is_empty() {
        text += &format!("{}: ", problem.path);
    }
    text += &problem.what;
    if !problem.hint.is_empty() {
        text += &format!(" ({})", problem.hint);
    }
    shortened(text)
}

fn joined(messages: impl Iterator<Item = String>) -> String {
    shortened(messages.collect::<Vec<_>>().join("; "))
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_MESSAGE {
        let end = text.floor_char_boundary(MAX_MESSAGE - '…'.len_utf8());
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What an API server takes as the note of an event (events.k8s.io/v1, `note`).
pub const MAX_MESSAGE: usize = 1024;

const LISTENER: &str = "Listener";
const INGRESS: &str = "Ingress";
const FILE: &str = "File";
