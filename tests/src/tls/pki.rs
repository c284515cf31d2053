//! Certificates: one authority a process, a certificate a server, one for clients.

use std::sync::{Arc, LazyLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The key, PKCS#8 PEM.
    pub key_pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    /// The chain and the key as rustls takes them.
    pub(super) fn rustls(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.key.clone());
        (vec![self.certificate.clone()], key.into())
    }
}

/// The authority that every client and server of the lab trusts, PEM.
pub fn authority_pem() -> String {
    AUTHORITY.pem()
}

/// The authority as rustls takes it.
pub(super) fn roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(AUTHORITY.der().clone()).expect("a root");
    Arc::new(roots)
}

/// A certificate for a server with these names (wildcards included).
pub fn server(names: &[&str]) -> Identity {
    let mut params = params(names[0], names);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    signed(params)
}

/// A certificate for a client.
pub fn client(name: &str) -> Identity {
    let mut params = params(name, &[]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    signed(params)
}

/// The certificate bound to the Listener: for every host of the lab, signed by itself.
pub fn front() -> &'static Identity {
    static FRONT: LazyLock<Identity> = LazyLock::new(|| {
        let names = ["example.com", "*.example.com", "*.wild.example.com"];
        let key = KeyPair::generate().expect("a key");
        let certificate = params("front", &names).self_signed(&key);
        identity(certificate.expect("a certificate"), &key)
    });
    &FRONT
}

static AUTHORITY: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(|| {
    let mut params = params("sni-router lab", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("an authority")
});

fn params(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("valid names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

fn signed(params: CertificateParams) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &AUTHORITY).expect("a certificate");
    identity(certificate, &key)
}

fn identity(certificate: rcgen::Certificate, key: &KeyPair) -> Identity {
    Identity {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        certificate: certificate.der().clone(),
        key: key.serialize_der(),
    }
}
