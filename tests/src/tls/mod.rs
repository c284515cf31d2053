//! Real TLS: certificates, servers that say who answered, and the clients people have.

pub mod client;
pub mod pki;
pub mod server;

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use serde::{Deserialize, Serialize};

/// A TLS version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    #[default]
    Tls13,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];

    /// As rustls prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1_2",
            Self::Tls13 => "TLSv1_3",
        }
    }

    fn rustls(self) -> &'static SupportedProtocolVersion {
        match self {
            Self::Tls12 => &rustls::version::TLS12,
            Self::Tls13 => &rustls::version::TLS13,
        }
    }
}

/// What a [`server`] says about the connection a request came over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The name of the server.
    pub server: String,
    /// The server name the server saw in the hello; empty for none.
    pub sni: String,
    /// The version agreed on.
    pub version: String,
    /// The key exchange agreed on.
    pub group: String,
    /// The application protocol agreed on; empty for none.
    pub alpn: String,
    /// Whether the client showed a certificate that the lab's authority signed.
    pub client_certificate: bool,
}

/// The post-quantum key exchange of today's browsers; its share makes a hello of about 1.4 kB.
pub const POST_QUANTUM: &str = "X25519MLKEM768";

/// The AWS-LC provider with every group, or with a single one.
fn provider(post_quantum: bool) -> Arc<CryptoProvider> {
    let groups: Vec<&dyn SupportedKxGroup> = if post_quantum {
        vec![aws_lc_rs::kx_group::X25519MLKEM768]
    } else {
        vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1]
    };
    Arc::new(CryptoProvider {
        kx_groups: groups,
        ..aws_lc_rs::default_provider()
    })
}
