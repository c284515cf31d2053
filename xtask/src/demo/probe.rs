//! What is asked, and what must be answered.

use anyhow::Result;
use serde_json::Value;

use super::client::{self, Answer};
use super::router::Router;
use super::server::{SITES, Server};
use super::table::Row;
use crate::lab::Lab;

/// All of them, in the order of the table.
pub fn probes() -> Vec<Probe> {
    let hosts = SITES.map(|site| (Some(site.host), Expected::Server(site.host)));
    let refused = [
        (
            Some("unknown-netscaler.com"),
            Expected::Refused("unknown_host"),
        ),
        (None, Expected::Refused("no_sni")),
    ];
    let cases = hosts.into_iter().chain(refused);
    cases
        .flat_map(|(host, expected)| {
            [Client::Curl, Client::Openssl].map(|client| Probe {
                client,
                host,
                expected,
            })
        })
        .collect()
}

/// One request.
pub struct Probe {
    client: Client,
    host: Option<&'static str>,
    expected: Expected,
}

#[derive(Clone, Copy)]
enum Client {
    Curl,
    Openssl,
}

#[derive(Clone, Copy)]
enum Expected {
    /// The server of this host answers, with its own certificate.
    Server(&'static str),
    /// The router refuses, for this reason.
    Refused(&'static str),
}

impl Probe {
    /// Asks, waits for the router's access record, and compares both with what must be.
    pub fn run(&self, lab: &mut Lab, router: &Router, servers: &[Server]) -> Result<Row> {
        lab.check_stop()?;
        let before = router.access().len();
        let answer = match self.client {
            Client::Curl => client::curl(lab, self.host)?,
            Client::Openssl => client::openssl(lab, self.host)?,
        };
        // Requests come one after another, so the next record is this one's.
        let mut record = Value::Null;
        lab.wait_until("the access log has the connection", || {
            record = router.access().get(before).cloned().unwrap_or_default();
            !record.is_null()
        })?;
        Ok(self.judge(&answer, &record, servers))
    }

    fn judge(&self, answer: &Answer, record: &Value, servers: &[Server]) -> Row {
        let field = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        let mut row = Row {
            client: match self.client {
                Client::Curl => "curl",
                Client::Openssl => "openssl s_client",
            },
            host: self.host.unwrap_or("(no SNI)"),
            answer: String::new(),
            datapath: field("datapath"),
            first_byte: None,
            wrong: Vec::new(),
        };
        let reason = field("reason");
        let mut demand = |is_so: bool, what: String| {
            if !is_so {
                row.wrong.push(what);
            }
        };
        demand(
            field("sni") == self.host.unwrap_or_default(),
            format!("logged SNI {:?}", field("sni")),
        );
        match (self.expected, answer) {
            (
                Expected::Server(host),
                Answer::Served {
                    fingerprint,
                    first_byte,
                },
            ) => {
                let owner = servers
                    .iter()
                    .find(|server| server.fingerprint == *fingerprint);
                let owner = owner.map_or("nobody here", |server| server.site.host);
                let endpoint = servers.iter().find(|server| server.site.host == host);
                let endpoint = endpoint.map_or("", |server| server.site.endpoint);
                demand(owner == host, format!("the certificate is that of {owner}"));
                demand(
                    field("endpoint") == endpoint,
                    format!("logged endpoint {:?}", field("endpoint")),
                );
                demand(reason == "done", format!("logged reason {reason:?}"));
                demand(
                    !field("datapath").is_empty(),
                    "no datapath is logged".to_owned(),
                );
                row.answer = format!(
                    "{}… of {owner}",
                    fingerprint.get(..16).unwrap_or(fingerprint)
                );
                row.first_byte = Some(*first_byte);
            }
            (Expected::Refused(expected), Answer::Refused(said)) => {
                demand(
                    reason == expected,
                    format!("logged reason {reason:?}, not {expected:?}"),
                );
                demand(
                    said.contains("alert") || said.contains("tlsv1"),
                    "no TLS alert".to_owned(),
                );
                row.answer = format!("refused: {said}");
            }
            (Expected::Server(_), Answer::Refused(said)) => {
                demand(false, format!("refused, reason {reason:?}"));
                row.answer = format!("refused: {said}");
            }
            (Expected::Refused(_), Answer::Served { fingerprint, .. }) => {
                demand(false, "served, though no route takes it".to_owned());
                row.answer = fingerprint.clone();
            }
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn row_is_right_when_the_servers_own_certificate_answered() {
        let row = served("aa", &record(SITES[0].host, SITES[0].endpoint));
        assert!(row.is_right(), "{:?}", row.wrong);
        assert_eq!(row.datapath, "sockmap");
    }

    #[test]
    fn row_is_wrong_when_another_certificate_answered() {
        let right = record(SITES[0].host, SITES[0].endpoint);
        assert!(!served("bb", &right).is_right(), "the other server's");
        assert!(!served("cc", &right).is_right(), "nobody's");
    }

    #[test]
    fn row_is_wrong_when_the_log_tells_another_story() {
        let right = record(SITES[0].host, SITES[0].endpoint);
        for (field, value) in [
            ("sni", "other.test"),
            ("endpoint", SITES[1].endpoint),
            ("reason", "endpoint_reset"),
            ("datapath", ""),
        ] {
            let mut record = right.clone();
            record[field] = json!(value);
            assert!(!served("aa", &record).is_right(), "{field}");
        }
    }

    #[test]
    fn refusal_is_right_only_when_expected_for_that_reason_and_with_an_alert() {
        let is_right = |host, said: &str, reason| {
            let mut record = record(host, "");
            record["reason"] = json!(reason);
            probe(host)
                .judge(&Answer::Refused(said.to_owned()), &record, &servers())
                .is_right()
        };
        let unknown = "unknown-netscaler.com";
        assert!(is_right(unknown, "tlsv1 unrecognized name", "unknown_host"));
        assert!(!is_right(unknown, "tlsv1 unrecognized name", "no_sni"));
        assert!(!is_right(unknown, "(7) Failed to connect", "unknown_host"));
        assert!(!is_right(
            SITES[0].host,
            "tlsv1 unrecognized name",
            "unknown_host"
        ));
    }

    fn served(fingerprint: &str, record: &Value) -> Row {
        let answer = Answer::Served {
            fingerprint: fingerprint.to_owned(),
            first_byte: Duration::from_millis(1),
        };
        probe(SITES[0].host).judge(&answer, record, &servers())
    }

    fn probe(host: &str) -> Probe {
        let found = probes().into_iter().find(|probe| probe.host == Some(host));
        found.expect("a probe of this host")
    }

    fn record(host: &str, endpoint: &str) -> Value {
        json!({ "sni": host, "endpoint": endpoint, "reason": "done", "datapath": "sockmap" })
    }

    fn servers() -> [Server; 2] {
        [
            Server::imagined(SITES[0], "aa"),
            Server::imagined(SITES[1], "bb"),
        ]
    }
}
