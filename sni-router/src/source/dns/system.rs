//! The system's way to resolve: `/etc/hosts`, then the servers of `/etc/resolv.conf`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use sni_router_core::name::Host;

use super::{Answer, Resolve};

/// Resolves like other programs of this machine do, but never with the search list: an
/// external name is absolute.
#[derive(Default)]
pub struct SystemResolver {
    /// With the time it was made.
    current: Mutex<Option<(Instant, System)>>,
}

impl SystemResolver {
    /// The configuration is read again now and then: a lease may have brought other servers,
    /// and people edit `/etc/hosts`.
    fn system(&self) -> Result<System, String> {
        let mut current = self
            .current
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((made, system)) = &*current
            && made.elapsed() < KEEP
        {
            return Ok(system.clone());
        }
        let system = System::open().map_err(|error| format!("/etc/resolv.conf: {error}"))?;
        *current = Some((Instant::now(), system.clone()));
        Ok(system)
    }
}

impl Resolve for SystemResolver {
    async fn resolve(&self, host: &Host) -> [Answer; 2] {
        match self.system().and_then(|it| Ok((it, absolute(host)?))) {
            Ok((system, name)) => system.ask(&name).await,
            Err(error) => [Answer::Failed(error.clone()), Answer::Failed(error)],
        }
    }
}

/// What the system's files say.
#[derive(Clone)]
struct System {
    resolver: TokioResolver,
    hosts: Arc<Hosts>,
}

impl System {
    fn open() -> Result<Self, NetError> {
        let mut builder = TokioResolver::builder_tokio()?;
        // Names are asked for when their time is over; a second cache could only be wrong.
        builder.options_mut().cache_size = 0;
        let hosts = Hosts::from_system().unwrap_or_default();
        Ok(Self::new(builder.build()?, hosts))
    }

    fn new(mut resolver: TokioResolver, hosts: Hosts) -> Self {
        let hosts = Arc::new(hosts);
        resolver.set_hosts(Arc::clone(&hosts));
        Self { resolver, hosts }
    }

    /// Not by the resolver's own look-up of both families, which takes a failure of one for its
    /// having no address.
    async fn ask(&self, name: &Name) -> [Answer; 2] {
        let (v4, v6) = tokio::join!(
            self.resolver.lookup(name.clone(), RecordType::A),
            self.resolver.lookup(name.clone(), RecordType::AAAA),
        );
        let answers = [answer(v4), answer(v6)];
        if !self.is_in_hosts(name) {
            return answers;
        }
        // Such a name needs no DNS server; where there is one, it may add the other family.
        answers.map(|answer| match answer {
            Answer::Failed(_) => Answer::Nothing,
            it => it,
        })
    }

    fn is_in_hosts(&self, name: &Name) -> bool {
        FAMILIES.iter().any(|&family| {
            let query = Query::query(name.clone(), family);
            self.hosts.lookup_static_host(&query).is_some()
        })
    }
}

fn absolute(host: &Host) -> Result<Name, String> {
    let mut name = Name::from_ascii(host.as_str()).map_err(|error| error.to_string())?;
    name.set_fqdn(true);
    Ok(name)
}

fn answer(found: Result<Lookup, NetError>) -> Answer {
    let lookup = match found {
        Ok(lookup) => lookup,
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) if is_known(&none) => {
            return Answer::Nothing;
        }
        Err(error) => return Answer::Failed(error.to_string()),
    };
    let addrs: Vec<_> = lookup
        .answers()
        .iter()
        .filter_map(|record| record.data.ip_addr())
        .collect();
    if addrs.is_empty() {
        return Answer::Nothing;
    }
    let ttl = lookup
        .valid_until()
        .saturating_duration_since(Instant::now());
    Answer::Addrs(addrs, ttl)
}

/// Whether the server knows that there are no records, and not merely has none.
fn is_known(none: &NoRecords) -> bool {
    match none.response_code {
        ResponseCode::NXDomain => true,
        // Name servers without an SOA say who else to ask (RFC 2308, 2.2).
        ResponseCode::NoError => none.soa.is_some() || none.ns.is_none(),
        _ => false,
    }
}

const FAMILIES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

const KEEP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
