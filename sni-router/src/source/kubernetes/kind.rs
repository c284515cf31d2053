//! The kinds of objects that are watched.

use kube::core::{ApiResource, GroupVersionKind};

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Listener,
    Ingress,
    IngressClass,
    Service,
    EndpointSlice,
    Secret,
    Namespace,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Listener,
        Self::Ingress,
        Self::IngressClass,
        Self::Service,
        Self::EndpointSlice,
        Self::Secret,
        Self::Namespace,
    ];

    /// As objects spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "Listener",
            Self::Ingress => "Ingress",
            Self::IngressClass => "IngressClass",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Secret => "Secret",
            Self::Namespace => "Namespace",
        }
    }

    /// Where the API server has it.
    pub fn resource(self) -> ApiResource {
        let (group, version, plural) = match self {
            Self::Listener => ("citrix.com", "v1", "listeners"),
            Self::Ingress => ("networking.k8s.io", "v1", "ingresses"),
            Self::IngressClass => ("networking.k8s.io", "v1", "ingressclasses"),
            Self::Service => ("", "v1", "services"),
            Self::EndpointSlice => ("discovery.k8s.io", "v1", "endpointslices"),
            Self::Secret => ("", "v1", "secrets"),
            Self::Namespace => ("", "v1", "namespaces"),
        };
        let kind = GroupVersionKind::gvk(group, version, self.as_str());
        ApiResource::from_gvk_with_plural(&kind, plural)
    }

    /// As RBAC and `kubectl` name it: `ingresses.networking.k8s.io`.
    pub fn name(self) -> String {
        let resource = self.resource();
        match resource.group.as_str() {
            "" => resource.plural,
            group => format!("{}.{group}", resource.plural),
        }
    }

    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::IngressClass | Self::Namespace)
    }
}
