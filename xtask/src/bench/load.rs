//! The loads: what the generator is asked to do, and what is made of its answer.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::scraped::SCRAPED_SHARE;

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What it is called.
    pub name: &'static str,
    /// What is done.
    pub work: Work,
    /// Connections at any time; at most, where there is a rate.
    pub streams: u64,
    /// New connections a second; without one, as many as can be made.
    pub rate: Option<u64>,
    /// Bytes of an answer.
    pub size: u64,
    /// How many hosts the system knows, and clients name.
    pub hosts: u64,
    /// How the system under load is treated.
    pub setting: Setting,
    /// Another congestion control than that of the other loads.
    pub congestion: Option<&'static str>,
    /// Whether those who receive long streams look at samples of them only.
    pub is_sampled: bool,
    /// Whether client and endpoint speak TLS.
    pub is_tls: bool,
    /// Whether it belongs to `--quick`.
    pub is_quick: bool,
}

/// What is done in a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Long streams to the client.
    Down,
    /// Long streams to the endpoint.
    Up,
    /// New connections that clients end with FIN.
    Connect,
    /// New connections that clients end with RST.
    Reset,
    /// Requests and responses.
    Exchange,
    /// Connections that do nothing.
    Idle,
    /// A start on a Kubernetes API with an Ingress for each host, and changes there.
    Cluster,
}

/// How the system under load is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// It has carried other loads before.
    Used,
    /// It has just been started, so that its memory holds nothing of other loads.
    Fresh,
    /// Its configuration changes every second.
    Reloaded,
    /// Every other time, its metrics and its connections are asked for every second.
    Scraped,
}

impl Load {
    /// All that these names select, or all there are; with `quick` those that matter most.
    ///
    /// # Errors
    ///
    /// A name selects none.
    pub fn select(names: &[String], quick: bool) -> Result<Vec<Self>> {
        let all = all();
        if let Some(name) = names
            .iter()
            .find(|name| all.iter().all(|load| load.name != **name))
        {
            let names: Vec<_> = all.iter().map(|load| load.name).collect();
            bail!("there is no load {name}: choose from {}", names.join(", "));
        }
        let is_wanted = |load: &Self| match names.is_empty() {
            true => load.is_quick || !quick,
            false => names.iter().any(|name| name == load.name),
        };
        Ok(all.into_iter().filter(is_wanted).collect())
    }

    /// What identifies it in the results.
    pub fn params(&self) -> Value {
        let mut params = json!({
            "streams": self.streams, "bytes": self.size, "hosts": self.hosts,
        });
        // Only where they are not as usual: rows of earlier results have none of them.
        if let Some(name) = self.congestion {
            params["congestion"] = json!(name);
        }
        if let Some(rate) = self.rate {
            params["rate"] = json!(rate);
        }
        if self.is_sampled {
            params["sampled"] = json!(true);
        }
        if self.is_tls {
            params["tls"] = json!(true);
        }
        params
    }

    /// The generator's arguments.
    pub fn arguments(&self) -> Vec<String> {
        let (kind, close) = match self.work {
            Work::Down => ("down", "fin"),
            Work::Up => ("up", "fin"),
            Work::Connect => ("connect", "fin"),
            Work::Reset => ("connect", "rst"),
            Work::Exchange => ("exchange", "fin"),
            Work::Idle => ("idle", "fin"),
            Work::Cluster => {
                let ingresses = self.hosts.to_string();
                return vec!["--ingresses".to_owned(), ingresses];
            }
        };
        let words = [kind, "--close", close].map(str::to_owned);
        let numbers = [
            ("--streams", Some(self.streams)),
            ("--rate", self.rate),
            ("--size", Some(self.size)),
            ("--hosts", Some(self.hosts)),
        ];
        let given = numbers
            .into_iter()
            .filter_map(|(flag, number)| Some([flag.to_owned(), number?.to_string()]));
        let sampled = self.is_sampled.then(|| "--sampled".to_owned());
        let words = words.into_iter().chain(given.flatten());
        words.chain(sampled).collect()
    }

    /// The result that matters most, and whether less of it is better.
    pub fn headline(&self) -> (&'static str, bool) {
        if self.setting == Setting::Scraped {
            return (SCRAPED_SHARE, false);
        }
        match self.work {
            Work::Down | Work::Up => ("cpu_s_per_gb", true),
            Work::Connect | Work::Reset => ("conns_per_s", false),
            Work::Exchange => ("ops_per_s", false),
            Work::Idle => ("bytes_per_conn", true),
            Work::Cluster => ("effect_ms", true),
        }
    }

    /// The results for a report of the generator; those of [`Work::Idle`] are measured outside.
    pub fn results(&self, report: &Value) -> Result<BTreeMap<String, f64>> {
        let number = |key: &str| {
            let value = report[key].as_f64();
            value.with_context(|| format!("the generator tells no {key}: {report}"))
        };
        let mut results = BTreeMap::new();
        if self.work == Work::Idle {
            return Ok(results);
        }
        if self.work == Work::Cluster {
            for key in ["start_ms", "effect_ms", "effect_most_ms", "resident_bytes"] {
                results.insert(key.to_owned(), number(key)?);
            }
            return Ok(results);
        }
        let (elapsed, cpu) = (number("elapsed_s")?, number("machine_cpu_s")?);
        let mut set = |key: &str, value: f64| {
            results.insert(key.to_owned(), value);
        };
        match self.work {
            Work::Idle | Work::Cluster => {}
            Work::Down | Work::Up => {
                let bytes = number("bytes")?;
                set("gbps", bytes * 8.0 / 1e9 / elapsed);
                set("cpu_s_per_gb", cpu / (bytes / 1e9));
            }
            Work::Connect | Work::Reset => {
                let count = number("count")?;
                set("conns_per_s", count / elapsed);
                set("cpu_us_per_conn", cpu * 1e6 / count);
            }
            Work::Exchange => {
                let count = number("count")?;
                set("ops_per_s", count / elapsed);
                set("cpu_us_per_op", cpu * 1e6 / count);
            }
        }
        for key in ["p50_us", "p99_us", "p999_us"] {
            if let Some(value) = report[key].as_f64() {
                set(key, value);
            }
        }
        set("client_cpu_share", number("client_cpu_s")? / cpu);
        set("endpoint_cpu_share", number("endpoint_cpu_s")? / cpu);
        set(
            "stolen_cpu_share",
            number("stolen_cpu_s")? / (cpu + number("stolen_cpu_s")?),
        );
        Ok(results)
    }
}

fn all() -> Vec<Load> {
    let mut loads = Vec::new();
    for (name, work, streams) in [
        ("down-1", Work::Down, 1),
        ("down-4", Work::Down, 4),
        ("down-64", Work::Down, 64),
        ("up-1", Work::Up, 1),
        ("up-4", Work::Up, 4),
        ("up-64", Work::Up, 64),
        ("connect-32", Work::Connect, 32),
        ("connect-256", Work::Connect, 256),
        ("reset-32", Work::Reset, 32),
        ("reset-256", Work::Reset, 256),
    ] {
        loads.push(Load {
            name,
            work,
            streams,
            rate: None,
            size: 2048,
            hosts: 10,
            setting: Setting::Used,
            congestion: None,
            is_sampled: false,
            is_tls: false,
            is_quick: matches!(name, "down-4" | "up-4" | "connect-32" | "reset-32"),
        });
    }
    let usual = loads[0];
    for (name, work, streams) in [
        ("down-1-sampled", Work::Down, 1),
        ("down-4-sampled", Work::Down, 4),
        ("down-64-sampled", Work::Down, 64),
        ("up-1-sampled", Work::Up, 1),
        ("up-4-sampled", Work::Up, 4),
        ("up-64-sampled", Work::Up, 64),
    ] {
        loads.push(Load {
            name,
            work,
            streams,
            is_sampled: true,
            ..usual
        });
    }
    for (name, size) in [
        ("exchange-64", 64),
        ("exchange-1k", 1024),
        ("exchange-64k", 65_536),
    ] {
        loads.push(Load {
            name,
            work: Work::Exchange,
            streams: 16,
            size,
            is_quick: size == 1024,
            ..usual
        });
    }
    for (name, hosts, setting) in [
        ("connect-32-reload", 10, Setting::Reloaded),
        ("connect-32-10k-hosts", 10_000, Setting::Used),
        ("connect-32-10k-hosts-reload", 10_000, Setting::Reloaded),
    ] {
        loads.push(Load {
            name,
            work: Work::Connect,
            streams: 32,
            hosts,
            setting,
            is_quick: false,
            ..usual
        });
    }
    for (name, streams, rate) in [
        ("connect-32-scraped", 32, None),
        ("rate-1000-scraped", 256, Some(1000)),
    ] {
        loads.push(Load {
            name,
            work: Work::Connect,
            streams,
            rate,
            setting: Setting::Scraped,
            is_quick: false,
            ..usual
        });
    }
    for (name, streams) in [("idle-1000", 1000), ("idle-9000", 9000)] {
        loads.push(Load {
            name,
            work: Work::Idle,
            streams,
            size: 64,
            setting: Setting::Fresh,
            is_quick: streams == 1000,
            ..usual
        });
    }
    for (name, hosts) in [
        ("cluster-10", 10),
        ("cluster-1000", 1000),
        ("cluster-5000", 5000),
    ] {
        loads.push(Load {
            name,
            work: Work::Cluster,
            streams: 0,
            size: 0,
            hosts,
            setting: Setting::Fresh,
            is_quick: false,
            ..usual
        });
    }
    loads.push(Load {
        name: "down-4-bbr",
        streams: 4,
        congestion: Some("bbr"),
        is_quick: false,
        ..usual
    });
    loads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str) -> Load {
        Load::select(&[name.to_owned()], false).unwrap()[0]
    }

    #[test]
    fn results_are_per_unit_of_work() {
        let report = json!({
            "elapsed_s": 2.0, "machine_cpu_s": 4.0, "client_cpu_s": 1.0, "endpoint_cpu_s": 2.0,
            "stolen_cpu_s": 0.0, "bytes": 1e9, "count": 1000, "p50_us": 5.0,
        });
        let results = load("down-4").results(&report).unwrap();
        assert_eq!((results["gbps"], results["cpu_s_per_gb"]), (4.0, 4.0));
        assert_eq!(results["endpoint_cpu_share"], 0.5);
        let results = load("reset-32").results(&report).unwrap();
        assert_eq!(results["conns_per_s"], 500.0);
        assert_eq!(
            (results["cpu_us_per_conn"], results["p50_us"]),
            (4000.0, 5.0)
        );
        assert!(
            load("exchange-1k")
                .results(&json!({ "error": "x" }))
                .is_err()
        );
    }

    #[test]
    fn params_say_what_is_unusual_and_nothing_else() {
        let usual = load("down-4");
        assert_eq!(
            usual.params(),
            json!({ "streams": 4, "bytes": 2048, "hosts": 10 })
        );
        let bbr = load("down-4-bbr");
        assert_eq!(bbr.params()["congestion"], "bbr");
        assert_eq!((bbr.work, bbr.streams), (usual.work, usual.streams));
        assert_eq!(load("up-4-sampled").params()["sampled"], true);
        assert_eq!(load("rate-1000-scraped").params()["rate"], 1000);
        let tls = Load {
            is_tls: true,
            ..usual
        };
        assert_eq!(tls.params()["tls"], true);
    }

    #[test]
    fn loads_are_selected_by_name_or_by_weight() {
        assert_eq!(Load::select(&[], false).unwrap().len(), 30);
        assert_eq!(Load::select(&[], true).unwrap().len(), 6);
        assert!(Load::select(&["down-5".to_owned()], false).is_err());
        let names: std::collections::BTreeSet<_> = all().iter().map(|load| load.name).collect();
        assert_eq!(names.len(), 30);
    }
}
