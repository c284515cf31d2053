//! The steering rules in the kernel.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aya::maps::{HashMap, MapData};
use sni_router_common::rule::{Rule, RuleKey};

use super::{Flows, io_error};

/// What `snir_lookup` looks at, and what we know to be in it.
pub struct Rules {
    map: HashMap<MapData, RuleKey, Rule>,
    applied: BTreeMap<RuleKey, Rule>,
    /// Where `snir_tc` is, which has to see the handshakes of connections that a rule takes.
    flows: Option<Arc<Flows>>,
    /// How many there are.
    count: Arc<AtomicUsize>,
}

impl Rules {
    pub(super) fn new(
        map: HashMap<MapData, RuleKey, Rule>,
        flows: Option<Arc<Flows>>,
        count: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            map,
            applied: BTreeMap::new(),
            flows,
            count,
        }
    }

    /// Adds and changes what `desired` has; nothing is removed. On an error some rules may have
    /// been added; none of the old ones is lost.
    pub fn add(&mut self, desired: &BTreeMap<RuleKey, Rule>) -> io::Result<()> {
        for (key, rule) in desired {
            if self.applied.get(key) != Some(rule) {
                if let Some(flows) = &self.flows {
                    flows.watch(key.port());
                }
                self.map.insert(key, rule, 0).map_err(io_error)?;
                self.applied.insert(*key, *rule);
                self.count.store(self.applied.len(), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Removes what `desired` does not have.
    pub fn remove_others(&mut self, desired: &BTreeMap<RuleKey, Rule>) -> io::Result<()> {
        let stale: Vec<_> = self
            .applied
            .keys()
            .filter(|key| !desired.contains_key(key))
            .copied()
            .collect();
        for key in stale {
            self.map.remove(&key).map_err(io_error)?;
            self.applied.remove(&key);
            self.count.store(self.applied.len(), Ordering::Relaxed);
        }
        Ok(())
    }
}
