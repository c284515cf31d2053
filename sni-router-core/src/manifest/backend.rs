//! Backends: from a Service and its port to the addresses behind it.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Resolved;
use super::object::Kind;
use super::slices::{Slices, TargetPort, Tiers, is_of_another_host};
use super::sorted::Sorted;
use crate::model::ObjectKey;
use crate::name::Host;
use crate::problem::Severity;

/// Services and what is known of their endpoints.
pub(super) struct Services<'a> {
    objects: &'a Sorted,
    slices: Slices<'a>,
    resolved: &'a Resolved,
    /// Where this router listens itself.
    served: HashSet<SocketAddr>,
    /// Names that endpoints have instead of addresses.
    external: RefCell<BTreeSet<Host>>,
    known: RefCell<HashMap<(ObjectKey, String), Rc<Resolution>>>,
}

/// The endpoints of a Service's port.
#[derive(Debug, Default)]
pub(super) struct Resolution {
    /// Sorted, each once.
    pub(super) endpoints: Vec<SocketAddr>,
    /// Why there are none, or fewer than there could be.
    pub(super) trouble: Option<Trouble>,
}

/// What is wrong with a backend, for whoever names it.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) severity: Severity,
    pub(super) what: String,
    pub(super) hint: &'static str,
}

impl<'a> Services<'a> {
    pub(super) fn new(
        objects: &'a Sorted,
        resolved: &'a Resolved,
        served: HashSet<SocketAddr>,
    ) -> Self {
        Self {
            objects,
            slices: Slices::new(objects.slices.iter()),
            resolved,
            served,
            external: RefCell::default(),
            known: RefCell::default(),
        }
    }

    /// The endpoints of a Service's port, given by number or by name.
    pub(super) fn resolve(&self, service: &ObjectKey, port: &str) -> Rc<Resolution> {
        let key = (service.clone(), port.to_owned());
        if let Some(known) = self.known.borrow().get(&key) {
            return Rc::clone(known);
        }
        let resolution = Rc::new(self.without_self(service, self.look_up(service, port)));
        self.known.borrow_mut().insert(key, Rc::clone(&resolution));
        resolution
    }

    /// Names that were met instead of addresses.
    pub(super) fn into_external_names(self) -> BTreeSet<Host> {
        self.external.into_inner()
    }

    /// The same without addresses at which this machine would be met, or this router: what is open
    /// to the machine alone is nobody else's, and a connection that comes to the router again is
    /// routed again, until there is no descriptor left.
    fn without_self(&self, service: &ObjectKey, mut resolution: Resolution) -> Resolution {
        let mut left_out = None;
        resolution.endpoints.retain(|addr| {
            let what = if !is_of_another_host(addr.ip()) {
                "no address of another host"
            } else if self.served.contains(addr) {
                "served by this router itself"
            } else {
                return true;
            };
            left_out.get_or_insert((*addr, what));
            false
        });
        if let Some((addr, what)) = left_out {
            let what = format!("{addr} of the Service {service} is {what}, and is left out");
            resolution.trouble = Some(Trouble::warning(what, ""));
        }
        resolution
    }

    fn look_up(&self, key: &ObjectKey, port: &str) -> Resolution {
        let Some(service) = self.objects.services.get(key) else {
            if self.objects.is_bad(Kind::Service, key) {
                let what = format!("the Service {key} is wrong itself");
                return Resolution::failed(what, "see its problems");
            }
            return Resolution::failed(format!("there is no Service {key}"), "add it");
        };
        let spec = service.spec.as_ref();
        let ports = spec
            .and_then(|spec| spec.ports.as_deref())
            .unwrap_or_default();
        let found = find_port(ports, port);
        if let Some(spec) = spec
            && spec.type_.as_deref() == Some("ExternalName")
        {
            return self.external_name(key, spec.external_name.as_deref(), port, found);
        }
        let Some(found) = found else {
            let what = format!("the Service {key} has no port {port}{}", listed(ports));
            return Resolution::failed(what, "write one of its ports");
        };
        if !is_tcp(found) {
            let protocol = found.protocol.as_deref().unwrap_or_default();
            let what = format!("the port {port} of the Service {key} is not TCP but {protocol:?}");
            let hint = match protocol.eq_ignore_ascii_case("TCP") {
                true => "write TCP",
                false => "TLS needs a TCP port",
            };
            return Resolution::failed(what, hint);
        }
        self.listed_endpoints(key, port, found)
    }

    fn listed_endpoints(&self, key: &ObjectKey, port: &str, found: &ServicePort) -> Resolution {
        let target = TargetPort {
            name: found.name.as_deref().unwrap_or_default(),
            number: match &found.target_port {
                Some(IntOrString::Int(number)) => *number,
                _ => found.port,
            },
        };
        let tiers = self
            .slices
            .endpoints(key, &target, &mut |host| self.addresses(host));
        let trouble = match self.objects.bad_slice(key) {
            Some(slice) if tiers.slices == 0 => {
                let what = format!(
                    "the Service {key} has no EndpointSlice but {slice}, which is wrong itself, so its \
                     hosts are refused"
                );
                Some(Trouble::warning(what, "see its problems"))
            }
            _ => trouble(&tiers, key, port, target.name),
        };
        let chosen = if tiers.ready.is_empty() {
            tiers.terminating
        } else {
            tiers.ready
        };
        Resolution {
            endpoints: chosen.into_iter().collect(),
            trouble,
        }
    }

    fn external_name(
        &self,
        key: &ObjectKey,
        name: Option<&str>,
        port: &str,
        found: Option<&ServicePort>,
    ) -> Resolution {
        let host = match name.unwrap_or_default().parse::<Host>() {
            Ok(host) => host,
            Err(error) => {
                let what =
                    format!("the externalName of the Service {key} is no host name: {error}");
                return Resolution::failed(
                    what,
                    "write a DNS name; for addresses write an EndpointSlice",
                );
            }
        };
        // Such a Service need not list its ports: a number stands for itself.
        let number = match found {
            Some(found) => u16::try_from(found.port).ok(),
            None => port.parse().ok(),
        };
        let Some(number) = number.filter(|number| *number > 0) else {
            let what = format!("the Service {key} has no port {port}");
            return Resolution::failed(what, "write a number, or add the port to the Service");
        };
        let addresses = self.addresses(&host);
        let unresolvable = self.resolved.get(&host).is_some_and(Vec::is_empty);
        let trouble = unresolvable.then(|| {
            Trouble::warning(
                format!("{host} of the Service {key} has no address in DNS"),
                "",
            )
        });
        let endpoints: BTreeSet<_> = addresses
            .into_iter()
            .map(|addr| SocketAddr::new(addr, number))
            .collect();
        Resolution {
            endpoints: endpoints.into_iter().collect(),
            trouble,
        }
    }

    /// What DNS said of a name; the name is remembered, for the daemon to ask.
    fn addresses(&self, host: &Host) -> Vec<IpAddr> {
        self.external.borrow_mut().insert(host.clone());
        let addresses = self.resolved.get(host).into_iter().flatten();
        addresses.map(IpAddr::to_canonical).collect()
    }
}

impl Resolution {
    fn failed(what: String, hint: &'static str) -> Self {
        let trouble = Trouble {
            severity: Severity::Error,
            what,
            hint,
        };
        Self {
            endpoints: Vec::new(),
            trouble: Some(trouble),
        }
    }
}

impl Trouble {
    fn warning(what: String, hint: &'static str) -> Self {
        Self {
            severity: Severity::Warning,
            what,
            hint,
        }
    }
}

/// Why there is no endpoint for a port, which slices know by `name`, or fewer than there could be.
fn trouble(tiers: &Tiers, key: &ObjectKey, port: &str, name: &str) -> Option<Trouble> {
    let (what, hint) = if tiers.slices == 0 {
        (
            format!("the Service {key} has no EndpointSlice, so its hosts are refused"),
            "add one with the label kubernetes.io/service-name",
        )
    } else if !tiers.port_found && tiers.other_ports {
        (
            format!(
                "no EndpointSlice of the Service {key} has a port named {name:?}, as its port {port} is"
            ),
            "name the port of the EndpointSlice as the port of the Service",
        )
    } else if !tiers.port_found && tiers.portless {
        (
            format!("the endpoints of the Service {key} have no port"),
            "see that the pods have the port that targetPort names, or list it in the EndpointSlice",
        )
    } else if tiers.ready.is_empty() && tiers.terminating.is_empty() {
        (format!("the Service {key} has no ready endpoint"), "")
    } else if tiers.ready.is_empty() {
        let what = format!("the Service {key} has terminating endpoints only, they are used");
        (what, "")
    } else {
        return None;
    };
    Some(Trouble::warning(what, hint))
}

/// By name, or by number. A name cannot be all digits (RFC 6335, 5.1), so the two never meet.
///
/// What serves HTTP/3 has the same number for UDP and TCP: TCP comes first, then whatever is listed
/// first.
fn find_port<'a>(ports: &'a [ServicePort], wanted: &str) -> Option<&'a ServicePort> {
    let number = wanted.parse::<i32>().ok();
    let is_wanted = |port: &&ServicePort| match number {
        Some(number) => port.port == number,
        None => port.name.as_deref() == Some(wanted),
    };
    let wanted = ports.iter().filter(is_wanted);
    // The first of equals wins, as `min_by_key` documents.
    wanted.min_by_key(|port| !is_tcp(port))
}

fn is_tcp(port: &ServicePort) -> bool {
    port.protocol.as_deref().unwrap_or("TCP") == "TCP"
}

fn listed(ports: &[ServicePort]) -> String {
    let ports: Vec<_> = ports
        .iter()
        .map(|port| match port.name.as_deref() {
            Some(name) if !name.is_empty() => format!("{} ({name})", port.port),
            _ => port.port.to_string(),
        })
        .collect();
    if ports.is_empty() {
        String::new()
    } else {
        format!(", only {}", ports.join(", "))
    }
}
