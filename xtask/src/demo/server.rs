//! The TLS servers behind the router: `openssl s_server`, each with a key and certificate that
//! were made a moment ago and that nobody else has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::client::fingerprint;
use crate::command::output;
use crate::lab::{BACKENDS, Lab};

/// A host and the address of its server, as in `examples/passthrough`.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// The host.
    pub host: &'static str,
    /// The endpoint.
    pub endpoint: &'static str,
}

/// The sites of `examples/passthrough`.
pub const SITES: [Site; 2] = [
    Site {
        host: "httpsapp-netscaler.com",
        endpoint: "198.51.100.11:8443",
    },
    Site {
        host: "shop-netscaler.com",
        endpoint: "198.51.100.12:8443",
    },
];

/// A running TLS server.
pub struct Server {
    /// What it serves, and where.
    pub site: Site,
    /// SHA-256 of its certificate, in hex.
    pub fingerprint: String,
    certificate: PathBuf,
}

impl Server {
    /// Makes a key and a certificate, starts the server and waits until it listens.
    pub fn start(lab: &mut Lab, site: Site) -> Result<Self> {
        let certificate = lab.dir().join(format!("{}.pem", site.host));
        let key = lab.dir().join(format!("{}.key", site.host));
        issue(site.host, &certificate, &key)?;
        let mut command = lab.command(BACKENDS, "openssl");
        command.args(["s_server", "-accept", site.endpoint, "-www", "-quiet"]);
        command.arg("-cert").arg(&certificate).arg("-key").arg(&key);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let pid = lab.spawn(&mut command)?;
        let what = format!("the server of {} listens", site.host);
        lab.wait_until(&what, || listens(pid, site.endpoint))?;
        Ok(Self {
            site,
            fingerprint: fingerprint(&fs::read_to_string(&certificate)?)?,
            certificate,
        })
    }
}

/// Writes the servers' certificates into one file, for clients to trust.
pub fn write_bundle(lab: &Lab, servers: &[Server]) -> Result<()> {
    let mut bundle = String::new();
    for server in servers {
        bundle += &fs::read_to_string(&server.certificate)?;
    }
    Ok(fs::write(lab.dir().join("bundle.pem"), bundle)?)
}

fn issue(host: &str, certificate: &Path, key: &Path) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-noenc", "-days", "2", "-newkey", "ec"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.arg("-subj").arg(format!("/CN={host}"));
    command
        .arg("-addext")
        .arg(format!("subjectAltName=DNS:{host}"));
    command.arg("-out").arg(certificate).arg("-keyout").arg(key);
    output(&mut command).context("make a certificate").map(drop)
}

/// Whether a socket in the namespace of this process listens on the port of `endpoint`.
fn listens(pid: u32, endpoint: &str) -> bool {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    // Linux prints the address as a number of this machine's byte order, the state 0A is LISTEN
    // (include/net/tcp_states.h).
    let Ok(std::net::SocketAddr::V4(endpoint)) = endpoint.parse() else {
        return false;
    };
    let address = u32::from_ne_bytes(endpoint.ip().octets());
    let local = format!("{address:08X}:{:04X}", endpoint.port());
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(local.as_str()) && fields.nth(1) == Some("0A")
    })
}

#[cfg(test)]
impl Server {
    /// One that does not run.
    pub fn imagined(site: Site, fingerprint: &str) -> Self {
        Self {
            site,
            fingerprint: fingerprint.to_owned(),
            certificate: PathBuf::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::workspace;

    #[test]
    fn sites_are_those_of_the_example() {
        let mut text = String::new();
        for entry in fs::read_dir(workspace().join("examples/passthrough")).unwrap() {
            text += &fs::read_to_string(entry.unwrap().path()).unwrap();
        }
        for site in SITES {
            let (address, port) = site.endpoint.split_once(':').unwrap();
            for needle in [site.host, address, port, crate::lab::VIP] {
                assert!(text.contains(needle), "{needle}");
            }
        }
    }
}
