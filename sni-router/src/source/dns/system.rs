//! The system's way to resolve: `/etc/hosts`, then the servers of `/etc/resolv.conf`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::proto::rr::Name;
use sni_router_core::name::Host;

use super::{Answer, Resolve};

/// Resolves like other programs of this machine do, but never with the search list: an
/// external name is absolute.
#[derive(Default)]
pub struct SystemResolver {
    /// With the time it was made.
    current: Mutex<Option<(Instant, TokioResolver)>>,
}

impl SystemResolver {
    /// The configuration is read again now and then: a lease may have brought other servers,
    /// and people edit `/etc/hosts`.
    fn resolver(&self) -> Result<TokioResolver, String> {
        let mut current = self
            .current
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((made, resolver)) = &*current
            && made.elapsed() < KEEP
        {
            return Ok(resolver.clone());
        }
        let resolver = open().map_err(|error| format!("/etc/resolv.conf: {error}"))?;
        *current = Some((Instant::now(), resolver.clone()));
        Ok(resolver)
    }
}

impl Resolve for SystemResolver {
    async fn resolve(&self, host: &Host) -> Result<Answer, String> {
        let resolver = self.resolver()?;
        let mut name = Name::from_ascii(host.as_str()).map_err(|error| error.to_string())?;
        name.set_fqdn(true);
        let found = resolver
            .lookup_ip(name)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Answer {
            addrs: found.iter().collect(),
            ttl: found
                .valid_until()
                .saturating_duration_since(Instant::now()),
        })
    }
}

fn open() -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    // A backend wants every address, not the first family that answers.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Names are asked for when their time is over; a second cache could only be wrong.
    options.cache_size = 0;
    builder.build()
}

const KEEP: Duration = Duration::from_secs(60);
