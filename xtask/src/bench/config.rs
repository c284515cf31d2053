//! What every system is told: which host goes to which endpoint.
//!
//! Each `write_…` can be called again while the system runs; every call makes the configuration
//! differ from the one before, and puts each file in place as a whole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::place::ENDPOINTS;
use crate::command::workspace;
use crate::lab::VIP;

/// What a configuration is made of.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The names that clients use; those with an odd index go to the second endpoint.
    pub hosts: &'a [String],
    /// One more, for the first endpoint; changes with every change of the configuration.
    pub extra: &'a str,
}

impl Site<'_> {
    /// Every host with its endpoint's index.
    fn hosts(self) -> impl Iterator<Item = (String, usize)> {
        let hosts = self.hosts.iter().cloned();
        let hosts = hosts.enumerate().map(|(n, host)| (host, n % 2));
        hosts.chain([(self.extra.to_owned(), 0)])
    }

    /// A line a host.
    fn lines(self, line: impl Fn(&str, usize) -> String) -> String {
        let lines: Vec<_> = self.hosts().map(|(host, at)| line(&host, at)).collect();
        lines.join("\n") + "\n"
    }
}

/// The configuration of HAProxy; its path.
pub fn write_haproxy(
    dir: &Path,
    site: Site<'_>,
    splice: bool,
    connections: u64,
) -> Result<PathBuf> {
    let backends = ["even", "odd"];
    let map = dir.join("hosts.map");
    put(
        &map,
        &site.lines(|host, at| format!("{host} {}", backends[at])),
    )?;
    let words = [
        ("DIR", dir.display().to_string()),
        ("HOSTS", map.display().to_string()),
        ("CONNECTIONS", connections.to_string()),
        ("EVEN", ENDPOINTS[0].to_owned()),
        ("ODD", ENDPOINTS[1].to_owned()),
        ("SPLICE", if splice { SPLICE } else { "" }.to_owned()),
    ];
    fill("haproxy.cfg", dir, &words)
}

/// The configuration of nginx; its path.
pub fn write_nginx(dir: &Path, site: Site<'_>, modules: &Path, open_files: u64) -> Result<PathBuf> {
    let map = dir.join("hosts.map");
    put(
        &map,
        &site.lines(|host, at| format!("{host} {};", ENDPOINTS[at])),
    )?;
    let words = [
        ("DIR", dir.display().to_string()),
        ("HOSTS", map.display().to_string()),
        ("MODULES", modules.display().to_string()),
        ("OPEN_FILES", open_files.to_string()),
    ];
    fill("nginx.conf", dir, &words)
}

/// The configuration of sniproxy; its path.
pub fn write_sniproxy(dir: &Path, site: Site<'_>) -> Result<PathBuf> {
    let line = |host: &str, at| format!("    ^{}$ {}", host.replace('.', "\\."), ENDPOINTS[at]);
    let words = [
        ("DIR", dir.display().to_string()),
        ("HOSTS", site.lines(line).trim_end().to_owned()),
    ];
    fill("sniproxy.conf", dir, &words)
}

/// The configuration of Envoy; its path.
pub fn write_envoy(dir: &Path, site: Site<'_>) -> Result<PathBuf> {
    let hosts_of = |wanted: usize| {
        let hosts = site.hosts().filter(|(_, at)| *at == wanted);
        let hosts: Vec<_> = hosts.map(|(host, _)| format!("{host:?}")).collect();
        hosts.join(", ")
    };
    let words = [("EVEN_HOSTS", hosts_of(0)), ("ODD_HOSTS", hosts_of(1))];
    fill("envoy-listener.yaml", dir, &words)?;
    let [even, odd] = ENDPOINTS.map(|at| at.split_once(':').unwrap_or((at, "")));
    let words = [
        ("DIR", dir.display().to_string()),
        ("EVEN_IP", even.0.to_owned()),
        ("ODD_IP", odd.0.to_owned()),
        ("PORT", even.1.to_owned()),
    ];
    fill("envoy.yaml", dir, &words)
}

/// The manifests of sni-router; their directory.
pub fn write_manifests(dir: &Path, site: Site<'_>) -> Result<PathBuf> {
    let dir = dir.join("manifests");
    fs::create_dir_all(&dir)?;
    let services = ["even", "odd"];
    let write = |name: &str, object: Value| put(&dir.join(name), &object.to_string());
    write("listener.json", listener())?;
    for (service, endpoint) in services.iter().zip(ENDPOINTS) {
        write(&format!("{service}.json"), service_at(service, endpoint)?)?;
    }
    let hosts: Vec<_> = site.hosts().collect();
    for (number, hosts) in hosts.chunks(HOSTS_OF_INGRESS).enumerate() {
        let rules = hosts.iter().map(|(host, at)| rule(host, services[*at]));
        let rules: Vec<_> = rules.collect();
        write(&format!("ingress-{number}.json"), ingress(number, &rules))?;
    }
    Ok(dir)
}

fn listener() -> Value {
    json!({
        "apiVersion": "citrix.com/v1",
        "kind": "Listener",
        "metadata": { "name": "bench", "namespace": "default" },
        "spec": { "vip": VIP, "port": 443, "protocol": "https", "passthrough": true },
    })
}

fn service_at(name: &str, endpoint: &str) -> Result<Value> {
    let (address, port) = endpoint.split_once(':').context("no port")?;
    let port: u16 = port.parse()?;
    let metadata = json!({ "name": name, "namespace": "default" });
    let slice_metadata = json!({
        "name": name, "namespace": "default",
        "labels": { "kubernetes.io/service-name": name },
    });
    Ok(json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "ports": [{ "name": "tls", "port": 443, "targetPort": port }] },
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": slice_metadata, "addressType": "IPv4",
            "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
            "ports": [{ "name": "tls", "port": port, "protocol": "TCP" }],
        },
    ]}))
}

fn ingress(number: usize, rules: &[Value]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": format!("bench-{number}"), "namespace": "default",
            "annotations": { "ingress.citrix.com/listener": "bench" },
        },
        "spec": { "rules": rules },
    })
}

fn rule(host: &str, service: &str) -> Value {
    let backend = json!({ "service": { "name": service, "port": { "name": "tls" } } });
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
    json!({ "host": host, "http": { "paths": [path] } })
}

/// Writes a file of `xtask/bench` into a directory, its words filled in; where it is.
fn fill(name: &str, dir: &Path, words: &[(&str, String)]) -> Result<PathBuf> {
    let template = workspace().join("xtask/bench").join(name);
    let mut text = fs::read_to_string(&template).with_context(|| template.display().to_string())?;
    for (word, value) in words {
        text = text.replace(&format!("@{word}@"), value);
    }
    let path = dir.join(name);
    put(&path, &text.replace("@VIP@", VIP))?;
    Ok(path)
}

/// Nobody ever sees half a file.
fn put(path: &Path, text: &str) -> Result<()> {
    let half = path.with_extension("half");
    fs::write(&half, text).with_context(|| half.display().to_string())?;
    Ok(fs::rename(&half, path)?)
}

/// `splice-auto` hardly ever splices on this topology.
const SPLICE: &str = "option splice-request\n    option splice-response";

/// Objects of a cluster have 1.5 MiB at most.
const HOSTS_OF_INGRESS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration of each kind in a directory of its own: their texts, by file.
    fn written(name: &str, write: impl Fn(&Path, Site<'_>) -> Result<PathBuf>) -> Vec<String> {
        let dir = crate::command::target_dir()
            .join("tmp")
            .join(format!("bench-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let hosts = ["a.test".to_owned(), "b.test".to_owned()];
        let site = Site {
            hosts: &hosts,
            extra: "c.test",
        };
        write(&dir, site).unwrap();
        let mut texts = Vec::new();
        let mut dirs = vec![dir.clone()];
        while let Some(next) = dirs.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => dirs.push(path),
                    false => texts.push(fs::read_to_string(path).unwrap()),
                }
            }
        }
        fs::remove_dir_all(dir).unwrap();
        texts
    }

    #[test]
    fn no_word_is_left_and_every_host_is_named_when_a_configuration_is_written() {
        let all = [
            written("haproxy", |dir, site| write_haproxy(dir, site, true, 100)),
            written("nginx", |dir, site| write_nginx(dir, site, dir, 100)),
            written("sniproxy", write_sniproxy),
            written("envoy", write_envoy),
            written("manifests", write_manifests),
        ];
        for texts in all {
            let text = texts.concat().replace('\\', "").replace("@type", "");
            for host in ["a.test", "b.test", "c.test"] {
                assert!(text.contains(host), "{host} in {text}");
            }
            assert!(!text.contains('@'), "{text}");
            assert!(text.contains(VIP), "{text}");
        }
    }
}
