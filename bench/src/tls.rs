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

#[cfg(test)]
mod tests {
    use rustls::{CipherSuite, HandshakeKind, NamedGroup, ProtocolVersion};
    use sni_router_tests::netns::{Scratch, unique_name};

    use super::*;

    #[test]
    fn every_connection_is_a_whole_handshake_of_the_same_kind() {
        let scratch = Scratch::create(&unique_name());
        write_certificate(scratch.path()).unwrap();
        let client = Client::new(scratch.path()).unwrap();
        let server = Server::new(scratch.path()).unwrap();
        // The second one could resume.
        for _ in 0..2 {
            let mut near = client.connection(order::host(7)).unwrap();
            let mut far = server.connection().unwrap();
            while near.is_handshaking() || far.is_handshaking() || far.wants_write() {
                pass(&mut near, &mut far);
                pass(&mut far, &mut near);
            }
            for end in [&near, &far] {
                assert_eq!(end.handshake_kind(), Some(HandshakeKind::Full));
                assert_eq!(end.protocol_version(), Some(ProtocolVersion::TLSv1_3));
                let suite = end.negotiated_cipher_suite().map(|suite| suite.suite());
                assert_eq!(suite, Some(CipherSuite::TLS13_AES_256_GCM_SHA384));
                let group = end.negotiated_key_exchange_group();
                assert_eq!(group.map(|group| group.name()), Some(NamedGroup::X25519));
            }
            let Connection::Server(far) = far else {
                panic!("the endpoint is a server");
            };
            assert_eq!(far.server_name(), Some(&*order::host(7)));
        }
    }

    fn pass(from: &mut Connection, to: &mut Connection) {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut left = &bytes[..];
        while !left.is_empty() {
            to.read_tls(&mut left).unwrap();
            to.process_new_packets().unwrap();
        }
    }
}
