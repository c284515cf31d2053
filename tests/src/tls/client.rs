//! The clients people have, asking a [`server`](super::server) for its [`Answer`].

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::pki::{self, Identity};
use super::{Answer, Version, provider};
use crate::netns::Namespace;

/// The name a server is checked against when none is sent.
pub const UNNAMED: &str = "example.com";

/// How long one request may take, in seconds.
const LIMIT: u64 = 20;

/// A TLS implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// rustls with AWS-LC.
    Rustls,
    /// `openssl s_client`.
    OpenSsl,
    /// curl, built with OpenSSL.
    Curl,
}

/// One request over a connection of its own.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Where the client runs.
    pub from: &'a Namespace,
    /// A directory for the files a command-line client needs.
    pub scratch: &'a Path,
    /// The VIP and port.
    pub to: SocketAddr,
    /// The server name to send and to check; `None` sends none and checks [`UNNAMED`] (curl checks
    /// the address).
    pub host: Option<&'a str>,
    /// The only version to offer.
    pub version: Version,
    /// The only application protocol to offer.
    pub alpn: Option<&'a str>,
    /// The certificate to show.
    pub identity: Option<&'a Identity>,
    /// Offer X25519MLKEM768 only; rustls alone can.
    pub post_quantum: bool,
}

impl Client {
    /// Asks and checks the server's certificate. An error is the client's own text.
    pub fn request(self, request: &Request<'_>) -> Result<Answer, String> {
        let response = match self {
            Self::Rustls => rustls(request).map_err(|e| e.to_string()),
            Self::OpenSsl => openssl(request),
            Self::Curl => curl(request),
        }?;
        let body = response
            .split_once("\r\n\r\n")
            .map_or(response.as_str(), |(_, body)| body);
        serde_json::from_str(body).map_err(|e| format!("{e} in the response {response:?}"))
    }
}

/// A rustls configuration that offers what the request says.
pub fn config(
    version: Version,
    alpn: Option<&str>,
    identity: Option<&Identity>,
    post_quantum: bool,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider(post_quantum))
        .with_protocol_versions(&[version.rustls()])
        .expect("the provider does both versions")
        .with_root_certificates(pki::roots());
    let mut config = match identity {
        Some(identity) => {
            let (chain, key) = identity.rustls();
            builder
                .with_client_auth_cert(chain, key)
                .expect("a certificate")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    config
}

fn rustls(request: &Request<'_>) -> io::Result<String> {
    let mut config = config(
        request.version,
        request.alpn,
        request.identity,
        request.post_quantum,
    );
    config.enable_sni = request.host.is_some();
    let name = request.host.unwrap_or(UNNAMED).to_owned();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;

    let limit = Duration::from_secs(LIMIT);
    let stream = request.from.connect(request.to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let mut tls = StreamOwned::new(connection, stream);
    tls.write_all(http(request).as_bytes())?;
    let mut response = String::new();
    tls.read_to_string(&mut response)?;
    Ok(response)
}

fn openssl(request: &Request<'_>) -> Result<String, String> {
    let mut command = Command::new("timeout");
    command
        .arg(LIMIT.to_string())
        .args(["openssl", "s_client", "-quiet", "-verify_return_error"])
        .arg("-connect")
        .arg(request.to.to_string())
        .arg("-CAfile")
        .arg(authority_file(request))
        .args(["-verify_hostname", request.host.unwrap_or(UNNAMED)])
        .arg(match request.version {
            Version::Tls12 => "-tls1_2",
            Version::Tls13 => "-tls1_3",
        });
    match request.host {
        Some(host) => command.args(["-servername", host]),
        None => command.arg("-noservername"),
    };
    if let Some(alpn) = request.alpn {
        command.args(["-alpn", alpn]);
    }
    if let Some(file) = identity_file(request) {
        command.arg("-cert").arg(&file).arg("-key").arg(&file);
    }
    text(run(request, &mut command, &http(request)))
}

fn curl(request: &Request<'_>) -> Result<String, String> {
    assert!(
        request.alpn.is_none_or(|alpn| alpn == "http/1.1"),
        "the lab's servers do not speak HTTP/2, which curl would"
    );
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--http1.1"])
        .args(["--max-time", &LIMIT.to_string()])
        .arg("--cacert")
        .arg(authority_file(request))
        .args(match request.version {
            Version::Tls12 => ["--tlsv1.2", "--tls-max", "1.2"],
            Version::Tls13 => ["--tlsv1.3", "--tls-max", "1.3"],
        });
    if request.alpn.is_none() {
        command.arg("--no-alpn");
    }
    if let Some(file) = identity_file(request) {
        command.arg("--cert").arg(file);
    }
    match request.host {
        Some(host) => {
            let (ip, port) = (bracketed(request.to.ip()), request.to.port());
            command
                .args(["--resolve", &format!("{host}:{port}:{ip}")])
                .arg(format!("https://{host}:{port}/"));
        }
        // curl sends no server name when the URL holds an address.
        None => {
            command.arg(format!("https://{}/", request.to));
        }
    }
    text(run(request, &mut command, ""))
}

/// An address as curl's `--resolve` takes it.
fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn http(request: &Request<'_>) -> String {
    let host = request.host.unwrap_or(UNNAMED);
    format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
}

fn authority_file(request: &Request<'_>) -> PathBuf {
    let path = request.scratch.join("authority.pem");
    fs::write(&path, pki::authority_pem()).expect("write the authority");
    path
}

fn identity_file(request: &Request<'_>) -> Option<PathBuf> {
    let identity = request.identity?;
    let path = request.scratch.join("client.pem");
    let pem = format!("{}{}", identity.certificate_pem, identity.key_pem);
    fs::write(&path, pem).expect("write the client's certificate");
    Some(path)
}

fn run(request: &Request<'_>, command: &mut Command, input: &str) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = request
        .from
        .spawn(command)
        .expect("the tests need openssl and curl (apt-get install openssl curl)");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A client that was refused at once has closed its input.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the client ends")
}

fn text(output: Output) -> Result<String, String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(stdout)
    } else {
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: {stdout}{stderr}", output.status))
    }
}
