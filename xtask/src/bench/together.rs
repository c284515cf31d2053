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
    added_vs_best_peer: Option<Ratio>,
}

/// Of what two systems took, each round being one sample: what disturbs the machine disturbs all loads of a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The mean.
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
    /// `None` where there are not several samples.
    fn of(samples: &[f64]) -> Option<Self> {
        let count = samples.len() as f64;
        if samples.len() < 2 {
            return None;
        }
        let mean = samples.iter().sum::<f64>() / count;
        let squares = samples.iter().map(|one| (one - mean).powi(2)).sum::<f64>();
        let error = (squares / (count - 1.0) / count).sqrt();
        Some(Self { mean, error })
    }

    fn json(self) -> Value {
        json!({ "mean": self.mean, "error": self.error })
    }
}

impl Together {
    /// Of every system, where there are several loads of long streams, of which all is read or samples.
    pub fn of(rows: &Rows, is_sampled: bool) -> Vec<Self> {
        let loads = rows.loads().into_iter();
        let loads = loads.filter(|load| is_bulk(load) && load.is_sampled == is_sampled);
        let loads: Vec<_> = loads.collect();
        let Some(first) = loads.first().filter(|_| loads.len() > 1) else {
            return Vec::new();
        };
        let systems = rows.of(first).map(|row| row.system.key());
        systems
            .map(|system| Self::of_system(rows, &loads, system))
            .collect()
    }

    fn of_system(rows: &Rows, loads: &[Load], system: String) -> Self {
        let of = |key: &str| Measured::of(loads, |load| row(rows, load, key));
        let (ours, direct) = (of(&system), of("direct/kernel"));
        let best = match system.starts_with(OURS) {
            true => Measured::of(loads, |load| rows.best_peer(load)),
            false => None,
        };
        let versus = |other: &Option<Measured<'_>>| ours.as_ref()?.by(other.as_ref()?);
        let added = || {
            let direct = direct.as_ref()?;
            ours.as_ref()?.above(direct, best.as_ref()?)
        };
        Self {
            vs_direct: versus(&direct),
            vs_forward: versus(&of("forward/kernel")),
            vs_best_peer: versus(&best),
            added_vs_best_peer: added(),
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
            cell(self.added_vs_best_peer),
        ]
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "system": self.system,
            "vs_direct": self.vs_direct.map(Ratio::json),
            "vs_forward": self.vs_forward.map(Ratio::json),
            "vs_best_peer": self.vs_best_peer.map(Ratio::json),
            "added_vs_best_peer": self.added_vs_best_peer.map(Ratio::json),
        })
    }
}

fn row<'r>(rows: &'r Rows, load: &Load, key: &str) -> Option<&'r Row> {
    rows.of(load)
        .find(|row| row.system.key() == key && row.is_valid())
}

/// What was measured of a system: by load, and then by round.
struct Measured<'r>(Vec<&'r [f64]>);

impl<'r> Measured<'r> {
    /// `None` where it is not the same rounds of all loads.
    fn of(loads: &[Load], row: impl Fn(&Load) -> Option<&'r Row>) -> Option<Self> {
        let values = loads.iter().map(|load| Some(row(load)?.values(CPU)));
        let values: Vec<_> = values.collect::<Option<_>>()?;
        let rounds = values.first()?.len();
        let is_whole = values.iter().all(|of_load| of_load.len() == rounds);
        is_whole.then_some(Self(values))
    }

    /// Geometric means over the loads of each round, and the mean of those.
    fn by(&self, other: &Self) -> Option<Ratio> {
        let samples = self.rounds(other)?.map(|round| {
            let logs = self.0.iter().zip(&other.0);
            let logs = logs.map(|(ours, theirs)| (ours[round] / theirs[round]).ln());
            (logs.sum::<f64>() / self.0.len() as f64).exp()
        });
        Ratio::of(&samples.collect::<Vec<_>>())
    }

    /// What is above a floor, of all loads of a round together, by what another has above it.
    fn above(&self, floor: &Self, other: &Self) -> Option<Ratio> {
        self.rounds(floor)?;
        let sum = |of: &Self, round: usize| of.0.iter().map(|load| load[round]).sum::<f64>();
        let samples = self.rounds(other)?.map(|round| {
            let floor = sum(floor, round);
            (sum(self, round) - floor) / (sum(other, round) - floor)
        });
        Ratio::of(&samples.collect::<Vec<_>>())
    }

    /// Their numbers, where the other one has the same.
    fn rounds(&self, other: &Self) -> Option<std::ops::Range<usize>> {
        let rounds = self.0.first()?.len();
        (other.0.first()?.len() == rounds).then_some(0..rounds)
    }
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
fn is_bulk(load: &Load) -> bool {
    matches!(load.work, Work::Down | Work::Up) && load.congestion.is_none()
}

const CPU: &str = "cpu_s_per_gb";
const NONE: &str = "–";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::system::System;

    /// Four rounds of two loads. The machine is slower in every second round, and under the second load.
    fn some() -> (Rows, Vec<Load>) {
        let mut rows = Rows::default();
        let names = ["down-4", "up-4"].map(str::to_owned);
        let loads = Load::select(&names, false).unwrap();
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
        (rows, loads)
    }

    #[test]
    fn ratios_are_of_the_same_round_and_load() {
        let (mut rows, loads) = some();
        let all = Together::of(&rows, false);
        let cells: Vec<_> = all.iter().map(Together::cells).collect();
        let ours = ["1.50 ± 0.00", "1.20 ± 0.00", "0.50 ± 0.00", "0.25 ± 0.00"];
        assert_eq!(cells[2][1..], ours);
        assert_eq!(cells[3][1..], ["3.00 ± 0.00", "2.40 ± 0.00", NONE, NONE]);
        let mean = all[2].json()["vs_forward"]["mean"].as_f64().unwrap();
        assert!((mean - 1.2).abs() < 1e-9);
        assert!(Together::of(&rows, true).is_empty(), "all was read");
        // What is not of all loads, is of others than the rest.
        let envoy = System::imagined("envoy", "copy");
        rows.spoil(&envoy, &loads[0], "x".to_owned());
        let cells: Vec<_> = Together::of(&rows, false)
            .iter()
            .map(Together::cells)
            .collect();
        assert_eq!(cells[3][1..], [NONE; 4]);
        // Under one load the best is another one now.
        assert_eq!(cells[2][3], "0.41 ± 0.00");
    }

    #[test]
    fn rounds_are_the_samples_of_the_error() {
        let (mut rows, loads) = some();
        for load in &loads {
            let cpu = |cpu| BTreeMap::from([(CPU.to_owned(), cpu)]);
            for (system, path, taken) in [
                ("direct", "kernel", 1.0),
                ("forward", "kernel", 1.0),
                (OURS, "tc", 2.2),
                ("envoy", "copy", 3.0),
            ] {
                rows.add(&System::imagined(system, path), load, &cpu(taken));
            }
        }
        // Four times 1.2 and once 2.2, however many loads there are.
        assert_eq!(Together::of(&rows, false)[2].cells()[2], "1.40 ± 0.20");
        assert_eq!(Together::of(&rows, false)[4].cells()[1..], [NONE; 4]);
    }

    #[test]
    fn error_is_that_of_the_mean() {
        let ratio = Ratio::of(&[1.0, 3.0]).unwrap();
        assert_eq!((ratio.mean, ratio.error), (2.0, 1.0));
        assert_eq!(Ratio::of(&[1.0]), None);
    }

    #[test]
    fn one_load_alone_is_its_own_table() {
        assert!(Together::of(&crate::bench::rows::tests::some(), false).is_empty());
    }
}
