//! EndpointSlices: the addresses behind Services.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::report::Report;
use crate::model::{Cluster, ObjectKey};
use crate::name::Host;

/// EndpointSlices by the Service they belong to.
pub(super) struct Slices<'a>(HashMap<ObjectKey, Vec<&'a EndpointSlice>>);

/// The port of a Service, as its EndpointSlices know it.
pub(super) struct TargetPort<'a> {
    /// The Service port's name, which is the slice port's name; empty for an unnamed one.
    pub(super) name: &'a str,
    /// The number where a slice's port has none: it then means every port.
    pub(super) number: i32,
}

/// The endpoints of one port over all slices.
#[derive(Debug, Default)]
pub(super) struct Tiers {
    /// How many slices the Service has.
    pub(super) slices: usize,
    /// Whether one of them has the port.
    pub(super) port_found: bool,
    /// Whether one of them has other ports only.
    pub(super) other_ports: bool,
    /// Whether one of them has endpoints and no port.
    pub(super) portless: bool,
    pub(super) ready: BTreeSet<SocketAddr>,
    /// On their way out, but still serving.
    pub(super) terminating: BTreeSet<SocketAddr>,
}

impl<'a> Slices<'a> {
    pub(super) fn new(slices: impl Iterator<Item = &'a (Cluster, Arc<EndpointSlice>)>) -> Self {
        let mut by_service: HashMap<_, Vec<_>> = HashMap::new();
        for (cluster, slice) in slices {
            if let Some(key) = service_of(slice, cluster) {
                by_service.entry(key).or_default().push(slice.as_ref());
            }
        }
        Self(by_service)
    }

    /// The endpoints of a Service's port. `resolve` gives the addresses of a name, for slices
    /// that hold names.
    pub(super) fn endpoints(
        &self,
        service: &ObjectKey,
        port: &TargetPort<'_>,
        resolve: &mut dyn FnMut(&Host) -> Vec<IpAddr>,
    ) -> Tiers {
        let mut tiers = Tiers::default();
        for slice in self.0.get(service).into_iter().flatten() {
            tiers.slices += 1;
            let Some(number) = slice_port(slice, port) else {
                let has_ports = !ports(slice).is_empty();
                tiers.other_ports |= has_ports;
                // Where there is no pod, Kubernetes makes a slice that has neither.
                tiers.portless |= !has_ports && !slice.endpoints.is_empty();
                continue;
            };
            tiers.port_found = true;
            for endpoint in &slice.endpoints {
                let Some(ready) = state(endpoint) else {
                    continue;
                };
                let tier = if ready {
                    &mut tiers.ready
                } else {
                    &mut tiers.terminating
                };
                for text in &endpoint.addresses {
                    let addresses = match Address::parse(text, &slice.address_type) {
                        Ok(Address::Ip(addr)) => vec![addr],
                        Ok(Address::Name(host)) => resolve(&host),
                        Err(_) => continue,
                    };
                    tier.extend(
                        addresses
                            .into_iter()
                            .map(|addr| SocketAddr::new(addr, number)),
                    );
                }
            }
        }
        tiers
    }
}

/// Reports what is wrong in a slice itself.
pub(super) fn check(slice: &EndpointSlice, report: &mut Report) {
    if service_name(slice).is_none() {
        // No warning: others have slices of their own, as the multicluster Services API has.
        let what = format!("has no {SERVICE_NAME}, so it belongs to no Service");
        report.note(
            "metadata.labels",
            what,
            "label it with the name of its Service",
        );
    }
    if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6" | "FQDN") {
        let what = format!("{:?} is not one of IPv4, IPv6, FQDN", slice.address_type);
        report.error(
            "addressType",
            what,
            "write the kind that its addresses are of",
        );
        return;
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        for (nth, text) in endpoint.addresses.iter().enumerate() {
            if let Err(what) = Address::parse(text, &slice.address_type) {
                let path = format!("endpoints[{index}].addresses[{nth}]");
                report.error(path, format!("{text:?} {what}"), "the address is left out");
            }
        }
    }
    for (index, port) in ports(slice).iter().enumerate() {
        if port
            .port
            .is_some_and(|number| !(1..=65535).contains(&number))
        {
            report.error(
                format!("ports[{index}].port"),
                "is not a TCP port",
                "write a number from 1 to 65535",
            );
        }
    }
}

fn service_of(slice: &EndpointSlice, cluster: &Cluster) -> Option<ObjectKey> {
    Some(ObjectKey {
        cluster: cluster.clone(),
        namespace: slice.metadata.namespace.clone().unwrap_or_default(),
        name: service_name(slice)?.clone(),
    })
}

fn service_name(slice: &EndpointSlice) -> Option<&String> {
    slice.metadata.labels.as_ref()?.get(SERVICE_NAME)
}

/// The ports of a slice. None means that its endpoints have none, and not that they have every one
/// (EndpointSlice API, `ports`): Kubernetes puts pods into such a slice that lack the port which
/// `targetPort` names.
fn ports(slice: &EndpointSlice) -> &[EndpointPort] {
    slice.ports.as_deref().unwrap_or_default()
}

/// The number of a Service's port in a slice: ports are matched by name.
fn slice_port(slice: &EndpointSlice, wanted: &TargetPort<'_>) -> Option<u16> {
    let port = ports(slice).iter().find(|port| {
        port.name.as_deref().unwrap_or_default() == wanted.name
            && port.protocol.as_deref().unwrap_or("TCP") == "TCP"
    })?;
    let number = port.port.unwrap_or(wanted.number);
    u16::try_from(number).ok().filter(|number| *number > 0)
}

/// Whether an endpoint is ready (`true`) or terminating but serving (`false`); `None` if neither.
/// Absent conditions mean ready (EndpointSlice API, EndpointConditions).
fn state(endpoint: &Endpoint) -> Option<bool> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    if conditions.terminating.unwrap_or(false) {
        return conditions.serving.unwrap_or(ready).then_some(false);
    }
    ready.then_some(true)
}

enum Address {
    Ip(IpAddr),
    Name(Host),
}

impl Address {
    fn parse(text: &str, kind: &str) -> Result<Self, &'static str> {
        if kind == "FQDN" {
            return text
                .parse()
                .map(Self::Name)
                .map_err(|_| "is not a host name");
        }
        let addr: IpAddr = text.parse().map_err(|_| "is not an IP address")?;
        match (kind, addr) {
            ("IPv4", IpAddr::V4(_)) | ("IPv6", IpAddr::V6(_)) => {}
            ("IPv4", _) => return Err("is not an IPv4 address"),
            _ => return Err("is not an IPv6 address"),
        }
        let addr = addr.to_canonical();
        if !is_of_another_host(addr) {
            return Err("is no address of another host");
        }
        Ok(Self::Ip(addr))
    }
}

/// Whether an address, never v4-mapped, can be another host's alone. Kubernetes takes no others in
/// EndpointSlices (`ValidateEndpointIP` in pkg/apis/core/validation), but DNS says anything.
pub(super) fn is_of_another_host(addr: IpAddr) -> bool {
    let is_link_local = match addr {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(addr.is_unspecified() || addr.is_multicast() || addr.is_loopback() || is_link_local)
}

/// The label by which an EndpointSlice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
