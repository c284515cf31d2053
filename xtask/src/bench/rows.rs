//! Results: one row a system and load, medians over the rounds, and ratios between rows.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::load::Load;
use super::system::System;

/// All results of a run.
#[derive(Default)]
pub struct Rows(Vec<Row>);

/// What was measured of one system under one load.
pub struct Row {
    /// The system.
    pub system: System,
    /// The load.
    pub load: Load,
    /// The results of all rounds.
    results: BTreeMap<String, Vec<f64>>,
    rounds: u32,
    errors: u64,
    /// What went wrong, if it did.
    wrong: Vec<String>,
}

impl Row {
    /// The median of a result.
    pub fn median(&self, key: &str) -> Option<f64> {
        median(self.results.get(key)?)
    }

    /// A result of all rounds, in their order.
    pub fn values(&self, key: &str) -> &[f64] {
        self.results.get(key).map_or(&[], Vec::as_slice)
    }

    /// The least and the most of a result.
    pub fn spread(&self, key: &str) -> Option<(f64, f64)> {
        let values = self.results.get(key)?;
        let least = values.iter().copied().reduce(f64::min)?;
        Some((least, values.iter().copied().reduce(f64::max)?))
    }

    /// Whether it means what it says.
    pub fn is_valid(&self) -> bool {
        self.wrong.is_empty() && !self.results.is_empty()
    }

    /// Failed connections.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    fn add(&mut self, results: &BTreeMap<String, f64>) {
        for (key, value) in results {
            self.results.entry(key.clone()).or_default().push(*value);
        }
    }

    fn json(&self) -> Value {
        let mut row = Map::new();
        let mut set = |key: &str, value: Value| drop(row.insert(key.to_owned(), value));
        set("system", json!(self.system.name));
        set("version", json!(self.system.version));
        set("datapath", json!(self.system.datapath));
        set("load", json!(self.load.name));
        set("params", self.load.params());
        let mut spread = Map::new();
        for key in self.results.keys() {
            set(key, json!(self.median(key)));
            spread.insert(key.clone(), json!(self.spread(key)));
        }
        set("errors", json!(self.errors));
        set("rounds", json!(self.rounds));
        set("spread", Value::Object(spread));
        set("valid", json!(self.is_valid()));
        if !self.wrong.is_empty() {
            set("wrong", json!(self.wrong));
        }
        Value::Object(row)
    }
}

impl Rows {
    /// Adds the results of a round.
    pub fn add(&mut self, system: &System, load: &Load, results: &BTreeMap<String, f64>) {
        let row = self.row(system, load);
        row.rounds += 1;
        row.add(results);
    }

    /// Adds what was counted besides in a round.
    pub fn add_extra(&mut self, system: &System, load: &Load, results: &BTreeMap<String, f64>) {
        self.row(system, load).add(results);
    }

    /// Counts failed connections.
    pub fn add_errors(&mut self, system: &System, load: &Load, errors: u64) {
        self.row(system, load).errors += errors;
    }

    /// Makes a row invalid.
    pub fn spoil(&mut self, system: &System, load: &Load, why: String) {
        self.row(system, load).wrong.push(why);
    }

    /// Whether all rows are valid, and there are some.
    pub fn are_valid(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(Row::is_valid)
    }

    /// What makes rows invalid, a line each: the loads, the system and the reason.
    pub fn wrongs(&self) -> Vec<String> {
        let mut loads: BTreeMap<(String, &str), Vec<&str>> = BTreeMap::new();
        for row in &self.0 {
            for wrong in &row.wrong {
                let key = (row.system.key(), wrong.as_str());
                loads.entry(key).or_default().push(row.load.name);
            }
        }
        let lines = loads.into_iter();
        let lines = lines
            .map(|((system, wrong), loads)| format!("{system}, {}: {wrong}", loads.join(", ")));
        lines.collect()
    }

    /// The loads that were measured, in order.
    pub fn loads(&self) -> Vec<Load> {
        let mut loads: Vec<Load> = Vec::new();
        for row in &self.0 {
            if loads.iter().all(|load| load.name != row.load.name) {
                loads.push(row.load);
            }
        }
        loads
    }

    /// The rows of a load.
    pub fn of(&self, load: &Load) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(|row| row.load.name == load.name)
    }

    /// All rows, and for each load and datapath of ours one that compares it with the others.
    pub fn json(&self) -> Value {
        let mut rows: Vec<_> = self.0.iter().map(Row::json).collect();
        for load in self.loads() {
            let ours = self.of(&load).filter(|row| row.system.name == OURS);
            rows.extend(ours.map(|row| self.ratios(row)));
        }
        Value::Array(rows)
    }

    /// The best peer's row by the result that matters most under this load.
    pub fn best_peer(&self, load: &Load) -> Option<&Row> {
        let (key, is_less_better) = load.headline();
        let peers = self
            .of(load)
            .filter(|row| row.system.is_peer() && row.is_valid());
        let with = peers.filter_map(|row| Some((row.median(key)?, row)));
        let better = |a: &(f64, &Row), b: &(f64, &Row)| match is_less_better {
            true => b.0.total_cmp(&a.0),
            false => a.0.total_cmp(&b.0),
        };
        with.max_by(better).map(|(_, row)| row)
    }

    /// The row of a system that there is one of.
    fn of_system(&self, name: &str, load: &Load) -> Option<&Row> {
        self.of(load)
            .find(|row| row.system.name == name && row.is_valid())
    }

    /// How much more CPU than without any router a row's system takes, per unit of work: what it costs by itself,
    /// clients and endpoints left out. By the name of the result.
    pub fn added(&self, row: &Row) -> BTreeMap<String, f64> {
        let Some(direct) = self.of_system("direct", &row.load) else {
            return BTreeMap::new();
        };
        let keys = row.results.keys().filter(|key| key.starts_with("cpu_"));
        let added =
            keys.filter_map(|key| Some((key.clone(), row.median(key)? - direct.median(key)?)));
        added.collect()
    }

    fn ratios(&self, row: &Row) -> Value {
        let peer = self.best_peer(&row.load);
        let by = |name| {
            self.of_system(name, &row.load)
                .map(|other| divide(row, other))
        };
        json!({
            "system": "ratios",
            "datapath": row.system.datapath,
            "load": row.load.name,
            "params": row.load.params(),
            "vs_direct": by("direct"),
            "vs_forward": by("forward"),
            "best_peer": peer.map(|other| other.system.key()),
            "vs_best_peer": peer.map(|other| divide(row, other)),
            "added_vs_best_peer": peer.map(|other| self.divide_added(row, other)),
        })
    }

    fn divide_added(&self, row: &Row, other: &Row) -> Value {
        let (ours, theirs) = (self.added(row), self.added(other));
        let ratios = ours.into_iter().filter_map(|(key, added)| {
            let ratio = added / theirs.get(&key).filter(|value| **value > 0.0)?;
            Some((key, json!(ratio)))
        });
        Value::Object(ratios.collect())
    }

    fn row(&mut self, system: &System, load: &Load) -> &mut Row {
        let found = self
            .0
            .iter()
            .position(|row| row.system.key() == system.key() && row.load.name == load.name);
        let at = found.unwrap_or_else(|| {
            self.0.push(Row {
                system: system.clone(),
                load: *load,
                results: BTreeMap::new(),
                rounds: 0,
                errors: 0,
                wrong: Vec::new(),
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

/// Every result of one row by that of another.
fn divide(row: &Row, other: &Row) -> Value {
    let keys = row
        .results
        .keys()
        .filter(|key| RATIOS.contains(&key.as_str()));
    let ratios = keys.filter_map(|key| {
        let ratio = row.median(key)? / other.median(key).filter(|value| *value > 0.0)?;
        Some((key.clone(), json!(ratio)))
    });
    Value::Object(ratios.collect())
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(match sorted.len() % 2 {
        0 => (sorted[middle - 1] + upper) / 2.0,
        _ => upper,
    })
}

/// The name of our rows.
pub const OURS: &str = "sni-router";

/// Results of which a ratio says something.
const RATIOS: [&str; 11] = [
    "gbps",
    "cpu_s_per_gb",
    "conns_per_s",
    "cpu_us_per_conn",
    "ops_per_s",
    "cpu_us_per_op",
    "p50_us",
    "p99_us",
    "p999_us",
    "bytes_per_conn",
    "syscalls_per_conn",
];

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Rows of forwarding, ours and two peers under one load.
    pub fn some() -> Rows {
        let mut rows = Rows::default();
        let load = Load::select(&["down-4".to_owned()], false).unwrap()[0];
        for (name, datapath, values) in [
            ("forward", "kernel", vec![0.25]),
            ("sni-router", "sockmap", vec![0.4, 0.5, 0.6]),
            ("envoy", "copy", vec![0.8, 1.2]),
            ("nginx", "copy", vec![2.0]),
        ] {
            let system = System::imagined(name, datapath);
            for value in values {
                let results = BTreeMap::from([("cpu_s_per_gb".to_owned(), value)]);
                rows.add(&system, &load, &results);
            }
        }
        rows
    }

    #[test]
    fn ratios_are_of_medians_and_to_the_best_peer() {
        let json = some().json();
        let ratios = &json[4];
        assert_eq!(ratios["system"], "ratios");
        assert_eq!(ratios["vs_forward"]["cpu_s_per_gb"], 2.0);
        assert_eq!(ratios["best_peer"], "envoy/copy");
        assert_eq!(ratios["vs_best_peer"]["cpu_s_per_gb"], 0.5);
        assert_eq!(json[1]["spread"]["cpu_s_per_gb"], json!([0.4, 0.6]));
        assert_eq!(json[1]["rounds"], 3);
    }

    #[test]
    fn what_is_added_is_the_rest_above_no_router_at_all() {
        let mut rows = some();
        let load = rows.loads()[0];
        assert!(
            rows.json()[4]["added_vs_best_peer"]
                .as_object()
                .unwrap()
                .is_empty()
        );
        let results = BTreeMap::from([("cpu_s_per_gb".to_owned(), 0.2)]);
        rows.add(&System::imagined("direct", "kernel"), &load, &results);
        let ours = rows.of_system(OURS, &load).unwrap();
        assert!((rows.added(ours)["cpu_s_per_gb"] - 0.3).abs() < 1e-9);
        let ratio = &rows.json()[5]["added_vs_best_peer"]["cpu_s_per_gb"];
        assert!(
            (ratio.as_f64().unwrap() - 0.3 / 0.8).abs() < 1e-9,
            "{ratio}"
        );
    }

    #[test]
    fn invalid_rows_are_no_peers_and_make_all_invalid() {
        let mut rows = some();
        let load = rows.loads()[0];
        assert!(rows.are_valid());
        rows.spoil(
            &System::imagined("envoy", "copy"),
            &load,
            "bytes".to_owned(),
        );
        assert!(!rows.are_valid());
        assert_eq!(rows.best_peer(&load).unwrap().system.name, "nginx");
        assert_eq!(rows.wrongs(), ["envoy/copy, down-4: bytes"]);
        assert!(!Rows::default().are_valid());
    }
}
