//! The keys of one control plane: its authority, the server, the administrator, and what signs the
//! tokens of service accounts.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

/// What the API server is started with, as files, and the administrator's certificate.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    /// The authority that signs the server's certificate and those of its clients, PEM.
    pub authority_pem: String,
    /// The administrator's certificate, PEM.
    pub admin_pem: String,
    /// The administrator's key, PKCS#8 PEM.
    pub admin_key_pem: String,
}

impl Pki {
    /// Makes all keys, in files below `dir`.
    pub fn create(dir: &Path) -> Self {
        let authority = authority();
        let server = key();
        let mut params = params("kube-apiserver", None, &SERVER_NAMES);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&server, &authority);
        let certificate = certificate.expect("a certificate");

        let admin = key();
        // The group that RBAC never refuses.
        let mut params = self::params("admin", Some("system:masters"), &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let admin_certificate = params.signed_by(&admin, &authority);

        let tokens = key();
        let dir = dir.join("pki");
        fs::create_dir_all(&dir).expect("a directory for keys");
        for (name, text) in [
            (AUTHORITY, authority.pem()),
            (SERVER, certificate.pem()),
            (SERVER_KEY, server.serialize_pem()),
            (TOKENS, tokens.public_key_pem()),
            (TOKENS_KEY, tokens.serialize_pem()),
        ] {
            fs::write(dir.join(name), text).expect("write a key");
        }
        Self {
            dir,
            authority_pem: authority.pem(),
            admin_pem: admin_certificate.expect("a certificate").pem(),
            admin_key_pem: admin.serialize_pem(),
        }
    }

    /// The flags of kube-apiserver that name the files.
    pub fn flags(&self) -> Vec<String> {
        let flag = |(flag, name)| format!("--{flag}={}", self.dir.join::<&str>(name).display());
        [
            ("client-ca-file", AUTHORITY),
            ("tls-cert-file", SERVER),
            ("tls-private-key-file", SERVER_KEY),
            ("service-account-key-file", TOKENS),
            ("service-account-signing-key-file", TOKENS_KEY),
        ]
        .map(flag)
        .to_vec()
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params("kubernetes", None, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, key()).expect("an authority")
}

fn params(name: &str, organization: Option<&str>, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("valid names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(organization) = organization {
        let name = &mut params.distinguished_name;
        name.push(DnType::OrganizationName, organization);
    }
    params
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

/// What clients call the server.
const SERVER_NAMES: [&str; 3] = ["127.0.0.1", "localhost", "kubernetes.default.svc"];

const AUTHORITY: &str = "authority.pem";
const SERVER: &str = "server.pem";
const SERVER_KEY: &str = "server.key";
const TOKENS: &str = "tokens.pub";
const TOKENS_KEY: &str = "tokens.key";
