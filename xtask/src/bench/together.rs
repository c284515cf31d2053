//! All long streams together: single rows differ by a tenth from round to round, and say little of small differences.

use std::fmt;

use serde_json::{Value, json};

use super::load::{Load, Work};
use super::rows::{OURS, Row, Rows};

/// How a system compares with others, over all loads of long streams and all rounds.
pub struct Together {
    /// The system.
    pub system: String,
    vs_direct: Option<Ratio>,
    vs_forward: Option<Ratio>,
    /// To the best one under each load; only of ours.
    vs_best_peer: Option<Ratio>,
    /// What is more than direct, by what is more with the best one under each load; only of ours.
    added_vs_best_peer: Option<f64>,
}

/// Of what two systems took in the same round under the same load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The geometric mean.
    mean: f64,
    /// Its standard error.
    error: f64,
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ± {:.2}", self.mean, self.error)
    }
}

impl Ratio {
    /// `None` where there are not several.
    fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        let logs: Vec<_> = pairs.iter().map(|(a, b)| (a / b).ln()).collect();
        let count = logs.len() as f64;
        if logs.len() < 2 {
            return None;
        }
        let mean = logs.iter().sum::<f64>() / count;
        let squares = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>();
        let error = (squares / (count - 1.0) / count).sqrt();
        Some(Self {
            mean: mean.exp(),
            error: mean.exp() * error,
        })
    }

    fn json(self) -> Value {
        json!({ "mean": self.mean, "error": self.error })
    }
}

impl Together {
    /// Of every system, where there are several loads of long streams.
    pub fn of(rows: &Rows) -> Vec<Self> {
        let loads: Vec<_> = rows.loads().into_iter().filter(is_of_them).collect();
        let Some(first) = loads.first().filter(|_| loads.len() > 1) else {
            return Vec::new();
        };
        let systems = rows.of(first).map(|row| row.system.key());
        systems
            .map(|system| Self::of_system(rows, &loads, system))
            .collect()
    }

    fn of_system(rows: &Rows, loads: &[Load], system: String) -> Self {
        let of = |key: &str| {
            let rows = loads.iter().map(|load| row(rows, load, key));
            rows.collect::<Vec<_>>()
        };
        let ours = of(&system);
        let is_ours = system.starts_with(OURS);
        let best = loads.iter().filter(|_| is_ours);
        let best: Vec<_> = best.map(|load| rows.best_peer(load)).collect();
        let pairs = ours.iter().zip(&best);
        let added = pairs.filter_map(|(ours, theirs)| {
            let (ours, theirs) = (rows.added((*ours)?), rows.added((*theirs)?));
            Some((*ours.get(CPU)?, *theirs.get(CPU)?))
        });
        let sums = added.reduce(|sum, more| (sum.0 + more.0, sum.1 + more.1));
        Self {
            vs_direct: compare(&ours, &of("direct/kernel")),
            vs_forward: compare(&ours, &of("forward/kernel")),
            vs_best_peer: compare(&ours, &best),
            added_vs_best_peer: sums
                .filter(|(_, theirs)| *theirs > 0.0)
                .map(|(ours, theirs)| ours / theirs),
            system,
        }
    }

    /// For the table, in the order of [`HEADS`].
    pub fn cells(&self) -> [String; 5] {
        let cell = |ratio: Option<Ratio>| ratio.map_or(NONE.to_owned(), |it| it.to_string());
        [
            self.system.clone(),
            cell(self.vs_direct),
            cell(self.vs_forward),
            cell(self.vs_best_peer),
            self.added_vs_best_peer
                .map_or(NONE.to_owned(), |it| format!("{it:.2}")),
        ]
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "system": self.system,
            "vs_direct": self.vs_direct.map(Ratio::json),
            "vs_forward": self.vs_forward.map(Ratio::json),
            "vs_best_peer": self.vs_best_peer.map(Ratio::json),
            "added_vs_best_peer": self.added_vs_best_peer,
        })
    }
}

fn row<'r>(rows: &'r Rows, load: &Load, key: &str) -> Option<&'r Row> {
    rows.of(load)
        .find(|row| row.system.key() == key && row.is_valid())
}

/// Of rows under the same load.
fn compare(ours: &[Option<&Row>], others: &[Option<&Row>]) -> Option<Ratio> {
    let pairs = ours.iter().zip(others).filter_map(|(ours, other)| {
        let (ours, other) = ((*ours)?.values(CPU), (*other)?.values(CPU));
        // Else they are not of the same rounds.
        let are_paired = ours.len() == other.len();
        are_paired.then(|| ours.iter().copied().zip(other.iter().copied()))
    });
    Ratio::of(&pairs.flatten().collect::<Vec<_>>())
}

/// What the cells are.
pub const HEADS: [&str; 5] = [
    "system",
    "÷ direct",
    "÷ forward",
    "÷ best other router",
    "more than direct ÷ that of the best other",
];

/// Under the congestion control of all others.
fn is_of_them(load: &Load) -> bool {
    matches!(load.work, Work::Down | Work::Up) && load.congestion.is_none()
}

const CPU: &str = "cpu_s_per_gb";
const NONE: &str = "–";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::system::System;

    #[test]
    fn ratios_are_of_the_same_round_and_load() {
        let mut rows = Rows::default();
        let names = ["down-4", "up-4"].map(str::to_owned);
        let loads = Load::select(&names, false).unwrap();
        // The machine is slower in every second round, and under the second load.
        for (load, slower) in loads.iter().zip([1.0, 3.0]) {
            for (system, path, cpu) in [
                ("direct", "kernel", 0.2),
                ("forward", "kernel", 0.25),
                (OURS, "tc", 0.3),
                ("envoy", "copy", 0.6),
                ("nginx", "copy", 0.9),
            ] {
                for round in [1.0, 2.0, 1.0, 2.0] {
                    let cpu = BTreeMap::from([(CPU.to_owned(), cpu * slower * round)]);
                    rows.add(&System::imagined(system, path), load, &cpu);
                }
            }
        }
        let all = Together::of(&rows);
        let cells: Vec<_> = all.iter().map(Together::cells).collect();
        assert_eq!(
            cells[2],
            [
                "sni-router/tc",
                "1.50 ± 0.00",
                "1.20 ± 0.00",
                "0.50 ± 0.00",
                "0.25"
            ]
        );
        assert_eq!(
            cells[3],
            ["envoy/copy", "3.00 ± 0.00", "2.40 ± 0.00", "–", "–"]
        );
        let json = all[2].json();
        assert!((json["vs_forward"]["mean"].as_f64().unwrap() - 1.2).abs() < 1e-9);
        let load = loads[0];
        rows.spoil(&System::imagined(OURS, "tc"), &load, "x".to_owned());
        let without = Together::of(&rows)[2].cells();
        assert_eq!(without[1], "1.50 ± 0.00");
    }

    #[test]
    fn error_is_that_of_the_mean() {
        let pairs = [(1.0, 2.0), (2.0, 1.0)];
        let ratio = Ratio::of(&pairs).unwrap();
        assert!((ratio.mean - 1.0).abs() < 1e-9);
        assert!((ratio.error - 2_f64.ln()).abs() < 1e-9);
        assert_eq!(Ratio::of(&pairs[..1]), None);
    }

    #[test]
    fn one_load_alone_is_its_own_table() {
        assert!(Together::of(&crate::bench::rows::tests::some()).is_empty());
    }
}
