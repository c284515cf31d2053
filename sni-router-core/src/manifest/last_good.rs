//! What every Listener and Ingress said when it last was right.
//!
//! An object that cannot be decoded keeps its last version in [`super::store`] already; here are
//! those that can be decoded and still are wrong. Refusing a VIP or a host to an object because an
//! older one has it does not make the object wrong.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::Ingress;

use super::class::Classes;
use super::compile::reference;
use super::crd;
use super::facts::Subject;
use super::ingress::{self, Reading};
use super::listener::{Judge, Off, Settings, Verdict};
use super::names::ListenerName;
use super::object::Kind;
use super::report::Report;
use super::sorted::ById;
use crate::model::ObjectKey;
use crate::problem::Problem;

/// The last good version of every object that is there.
#[derive(Debug, Default)]
pub(super) struct LastGood {
    listeners: HashMap<Arc<ObjectKey>, Arc<Settings>>,
    ingresses: HashMap<Arc<ObjectKey>, Arc<Reading>>,
}

/// A Listener, and what became of it.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) subject: Subject,
    pub(super) fate: Fate,
}

/// What became of a Listener that is nobody else's.
#[derive(Debug)]
pub(super) enum Fate {
    Right(Arc<Settings>),
    /// It is wrong, and this is what it said when it was right.
    Kept(Arc<Settings>),
    /// It is wrong and never was right.
    Bad,
    Off(Off),
}

/// An Ingress that names a Listener, and what it asks for.
#[derive(Debug)]
pub(super) struct Attaching {
    pub(super) subject: Subject,
    pub(super) reading: Arc<Reading>,
}

impl Judged {
    /// What is in force of it.
    pub(super) fn settings(&self) -> Option<&Arc<Settings>> {
        match &self.fate {
            Fate::Right(settings) | Fate::Kept(settings) => Some(settings),
            Fate::Bad | Fate::Off(_) => None,
        }
    }
}

impl LastGood {
    /// Reads every Listener object but those of other controllers; one that is wrong counts as
    /// what it said last. In the order of their keys.
    pub(super) fn listeners(
        &mut self,
        objects: &ById<crd::Listener>,
        judge: &Judge<'_>,
        problems: &mut Vec<Problem>,
    ) -> Vec<Judged> {
        let mut all = Vec::new();
        for (key, listener) in objects {
            let mut report = Report::new(reference(Kind::Listener, key));
            let fate = match judge.read(key, listener, &mut report) {
                Verdict::Serve(settings) => Some(Fate::Right(Arc::from(settings))),
                Verdict::Bad => Some(match self.listeners.get(key) {
                    Some(last) => {
                        report.mark_kept();
                        Fate::Kept(Arc::clone(last))
                    }
                    None => Fate::Bad,
                }),
                Verdict::Off(off) => Some(Fate::Off(off)),
                Verdict::Foreign => None,
            };
            problems.extend(report.into_problems());
            all.extend(fate.map(|fate| Judged {
                subject: Subject::new(key, &listener.metadata),
                fate,
            }));
        }
        self.listeners = all
            .iter()
            .filter_map(|judged| Some((judged.subject.key.clone(), judged.settings()?.clone())))
            .collect();
        all
    }

    /// Reads every Ingress object; one that is wrong counts as what it said last.
    pub(super) fn ingresses(
        &mut self,
        objects: &ById<Ingress>,
        classes: &Classes<'_>,
        default_listener: Option<&ListenerName>,
        problems: &mut Vec<Problem>,
    ) -> Vec<Attaching> {
        let mut good = HashMap::new();
        let mut readings = Vec::new();
        for (key, ingress) in objects {
            let mut report = Report::new(reference(Kind::Ingress, key));
            let reading = ingress::read(key, ingress, classes, default_listener, &mut report);
            let reading = reading.map(Arc::new);
            let reading = match (report.has_errors(), self.ingresses.get(key)) {
                (true, Some(last)) => {
                    report.mark_kept();
                    good.insert(key.clone(), Arc::clone(last));
                    Some(Arc::clone(last))
                }
                // It never was right: the rules that are right are served.
                (true, None) => reading,
                (false, _) => {
                    good.extend(reading.clone().map(|reading| (key.clone(), reading)));
                    reading
                }
            };
            problems.extend(report.into_problems());
            readings.extend(reading.map(|reading| Attaching {
                subject: Subject::new(key, &ingress.metadata),
                reading,
            }));
        }
        self.ingresses = good;
        readings
    }
}
