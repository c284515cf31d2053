//! `--certificates`, which several subcommands take.

use clap::ValueEnum;
use sni_router_core::manifest::CertificateCheck;

/// [`CertificateCheck`] for the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Certificates {
    Verify,
    Declared,
    Ignore,
}

impl From<Certificates> for CertificateCheck {
    fn from(value: Certificates) -> Self {
        match value {
            Certificates::Verify => Self::Verify,
            Certificates::Declared => Self::Declared,
            Certificates::Ignore => Self::Ignore,
        }
    }
}
