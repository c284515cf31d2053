//! What every Listener and Ingress said when it last was right.
//!
//! An object that cannot be decoded keeps its last version in [`super::store`] already; here are
//! those that can be decoded and still are wrong. Refusing a VIP or a host to an object because an
//! older one has it does not make the object wrong.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::Ingress;

use super::class::Classes;
use super::compile::reference;
use super::crd;
use super::ingress::{self, Reading};
use super::listener::{Judge, Settings, Verdict};
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

impl LastGood {
    /// Reads every Listener object; one that is wrong counts as what it said last.
    pub(super) fn listeners(
        &mut self,
        objects: &ById<crd::Listener>,
        judge: &Judge<'_>,
        problems: &mut Vec<Problem>,
    ) -> ById<Settings> {
        let mut right = BTreeMap::new();
        for (key, listener) in objects {
            let mut report = Report::new(reference(Kind::Listener, key));
            let settings = match judge.read(key, listener, &mut report) {
                Verdict::Serve(settings) => Some(Arc::from(settings)),
                Verdict::Bad => self
                    .listeners
                    .get(key)
                    .cloned()
                    .inspect(|_| report.mark_kept()),
                Verdict::Leave => None,
            };
            problems.extend(report.into_problems());
            right.extend(settings.map(|settings| (key.clone(), settings)));
        }
        self.listeners = right
            .iter()
            .map(|(key, good)| (key.clone(), Arc::clone(good)))
            .collect();
        right
    }

    /// Reads every Ingress object; one that is wrong counts as what it said last.
    pub(super) fn ingresses(
        &mut self,
        objects: &ById<Ingress>,
        classes: &Classes<'_>,
        problems: &mut Vec<Problem>,
    ) -> Vec<(Arc<ObjectKey>, Arc<Reading>)> {
        let mut good = HashMap::new();
        let mut readings = Vec::new();
        for (key, ingress) in objects {
            let mut report = Report::new(reference(Kind::Ingress, key));
            let reading = ingress::read(key, ingress, classes, &mut report).map(Arc::new);
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
            readings.extend(reading.map(|reading| (key.clone(), reading)));
        }
        self.ingresses = good;
        readings
    }
}
