//! Real TLS at both ends: version 1.3, one certificate for all hosts, which clients verify.
//!
//! Nothing is resumed, so that every connection costs the whole handshake.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use sni_router_tests::tls::pki;

use crate::order;

/// Makes a certificate for all hosts, and puts what both ends need into a directory.
pub fn write_certificate(dir: &Path) -> Result<()> {
    let identity = pki::server(&[order::HOSTS]);
    for (name, text) in [
        (AUTHORITY, pki::authority_pem()),
        (CERTIFICATE, identity.certificate_pem),
        (KEY, identity.key_pem),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// How clients speak.
#[derive(Clone)]
pub struct Client(Arc<ClientConfig>);

impl Client {
    /// With what [`write_certificate`] has put into this directory.
    pub fn new(dir: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let path = dir.join(AUTHORITY);
        let authority = CertificateDer::from_pem_file(&path);
        roots.add(authority.with_context(|| path.display().to_string())?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// A new connection to a host.
    pub fn connection(&self, host: String) -> Result<Connection> {
        let name = ServerName::try_from(host)?;
        Ok(ClientConnection::new(self.0.clone(), name)?.into())
    }
}

/// How the endpoint speaks.
pub struct Server(Arc<ServerConfig>);

impl Server {
    /// As [`Client::new`].
    pub fn new(dir: &Path) -> Result<Self> {
        let path = dir.join(CERTIFICATE);
        let certificate = CertificateDer::from_pem_file(&path);
        let certificate = certificate.with_context(|| path.display().to_string())?;
        let path = dir.join(KEY);
        let key = PrivateKeyDer::from_pem_file(&path);
        let key = key.with_context(|| path.display().to_string())?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A ticket that a client has not read turns its FIN into a RST.
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(config)))
    }

    /// A new connection.
    pub fn connection(&self) -> Result<Connection> {
        Ok(ServerConnection::new(self.0.clone())?.into())
    }
}

const AUTHORITY: &str = "authority.pem";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
