//! Connects to its first argument and offers the name in its second, with ECH GREASE where the
//! third says `ech-grease`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::{EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err("usage: rustls_client ADDRESS NAME [ech-grease]".into());
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = match arguments.next().as_deref() {
        Some("ech-grease") => {
            let suite = DH_KEM_X25519_HKDF_SHA256_AES_128;
            let (placeholder, _) = rustls::crypto::hpke::Hpke::generate_key_pair(suite)?;
            builder.with_ech(EchMode::Grease(EchGreaseConfig::new(suite, placeholder)))?
        }
        _ => builder.with_safe_default_protocol_versions()?,
    };
    let mut config = builder
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(name)?)?;
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello)?;
    }
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(&hello)?;
    // Whoever listens hangs up when it has enough.
    let _ = stream.read(&mut [0])?;
    Ok(())
}
