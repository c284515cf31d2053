//! The Listener type of `citrix.com/v1`, field by field as NetScaler's own definition has it.
//!
//! Real NetScaler manifests must parse unchanged, so every field is here, also those that mean
//! nothing to a router which never decrypts; what is done with each is said in
//! `docs/configuration.md` and decided in [`super::listener`]. The schema is a superset of
//! NetScaler's: it never refuses what theirs accepts.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::crd::CustomResourceExt;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The CustomResourceDefinition `listeners.citrix.com`, as a JSON value ready to be printed.
pub fn definition() -> serde_json::Value {
    let mut value = serde_json::to_value(Listener::crd()).unwrap_or_default();
    strip_nulls(&mut value);
    value
}

/// What a front-end virtual IP and port is made of.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::duplicated_attributes,
    reason = "columns of a type have that type in common"
)]
#[kube(
    group = "citrix.com",
    version = "v1",
    kind = "Listener",
    namespaced,
    status = "ListenerStatus",
    derive = "PartialEq",
    doc = "A front-end virtual IP and port",
    printcolumn(name = "VIP", type_ = "string", json_path = ".spec.vip"),
    printcolumn(name = "Port", type_ = "integer", json_path = ".spec.port"),
    printcolumn(
        name = "Passthrough",
        type_ = "boolean",
        json_path = ".spec.passthrough"
    ),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(validation = Rule::new(PASSTHROUGH_WITHOUT_ROUTES).message(PASSTHROUGH_WITHOUT_ROUTES_MESSAGE))]
#[serde(rename_all = "camelCase")]
pub struct ListenerSpec {
    /// The controller class that serves this Listener; every controller where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingressclass: Option<String>,
    /// The VIP is shared with controllers of other clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicluster: Option<bool>,
    /// Forward TLS by server name without decrypting it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<bool>,
    /// The protocol of the front end.
    pub protocol: Protocol,
    /// The virtual IP, IPv4 or IPv6; every local address where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
    /// Further virtual IPs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub secondary_vips: Option<Vec<String>>,
    /// The TCP port; 443 for https and tcp, 80 for http where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// A plain HTTP port whose requests are redirected to https.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub redirect_port: Option<i32>,
    /// The certificates bound to the front end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub certificates: Option<Vec<Certificate>>,
    /// Front-end tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies: Option<Policies>,
    /// HTTPRoutes (citrix.com) attached to the Listener; not possible with passthrough.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub routes: Option<Vec<RouteRef>>,
    /// What happens to connections that match nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_action: Option<DefaultAction>,
}

/// The protocol of a front end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP, whatever it carries.
    Tcp,
    /// TLS.
    #[default]
    Https,
    /// Plain HTTP.
    Http,
}

/// One certificate: a Secret, or one that already is on a NetScaler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    /// The certificate for clients that send no server name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// The name of a certificate on a NetScaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconfigured: Option<String>,
    /// A Secret of type kubernetes.io/tls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// The Secret's name, where it is not indented below `secret` as it should be: so the vendor
    /// prints it in the example that people paste.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The Secret's namespace, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A Secret by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Its name.
    pub name: String,
    /// Its namespace; the Listener's where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Front-end tuning of a NetScaler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Policies {
    /// HTTP profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub httpprofile: Option<Profile>,
    /// TCP profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcpprofile: Option<Profile>,
    /// SSL profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sslprofile: Option<Profile>,
    /// Ciphers in order of preference.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub sslciphers: Option<Vec<String>>,
    /// Keys of the content-switching virtual server; all values are strings.
    #[serde(rename = "csvserverConfig", skip_serializing_if = "Option::is_none")]
    pub csvserver_config: Option<BTreeMap<String, String>>,
    /// Analytics profiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analyticsprofile: Option<AnalyticsProfile>,
}

/// A profile, by name or by its keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Profile {
    /// The name of a profile on a NetScaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconfigured: Option<String>,
    /// Its keys; all values are strings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<BTreeMap<String, String>>,
}

/// Analytics profiles, by name or by their keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AnalyticsProfile {
    /// Names of profiles on a NetScaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub preconfigured: Option<Vec<String>>,
    /// Profiles by their keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub config: Option<Vec<AnalyticsConfig>>,
}

/// One analytics profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AnalyticsConfig {
    /// What it measures.
    #[serde(rename = "type")]
    pub kind: AnalyticsKind,
    /// Its keys; all values are strings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<BTreeMap<String, String>>,
}

/// What an analytics profile measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(
    missing_docs,
    reason = "the names are NetScaler's and say all there is"
)]
pub enum AnalyticsKind {
    WebInsight,
    TcpInsight,
    SecurityInsight,
    VideoInsight,
    HdxInsight,
    GatewayInsight,
    TimeSeries,
    LsnInsight,
    BotInsight,
}

/// HTTPRoutes by name or by label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteRef {
    /// The name of an HTTPRoute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// All HTTPRoutes with these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<BTreeMap<String, String>>,
}

/// What happens to connections that match nothing: a backend or a redirect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DefaultAction {
    /// They go to a Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<DefaultBackend>,
    /// They are redirected by HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
}

/// The Service of a default action.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DefaultBackend {
    /// A Service of Kubernetes.
    pub kube: KubeBackend,
}

/// A Service and its port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeBackend {
    /// The Service.
    pub service: String,
    /// Its port, by number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Its namespace; the Listener's where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Back-end tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_config: Option<BackendConfig>,
}

/// Back-end tuning of a NetScaler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackendConfig {
    /// Encrypt again towards the backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_backend: Option<bool>,
    /// Keys of the load-balancing virtual server; all values are strings.
    #[serde(rename = "lbConfig", skip_serializing_if = "Option::is_none")]
    pub lb_config: Option<BTreeMap<String, String>>,
    /// Keys of the service group; all values are strings.
    #[serde(rename = "servicegroupConfig", skip_serializing_if = "Option::is_none")]
    pub servicegroup_config: Option<BTreeMap<String, String>>,
}

/// An HTTP redirect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    /// To https on the same host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_redirect: Option<bool>,
    /// To another host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_redirect: Option<String>,
    /// To what a NetScaler policy expression says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_expression: Option<String>,
    /// The status code, 302 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub response_code: Option<i32>,
}

/// How a Listener fares.
///
/// `state` and `status_message` are NetScaler's; the rest is added by this router.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// One word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// One sentence.
    #[serde(rename = "status_message", skip_serializing_if = "Option::is_none")]
    pub status_message: Option<String>,
    /// `Accepted`, `Programmed` and `ResolvedRefs`, as in Gateway API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<Condition>>,
    /// The generation of the object these words are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The addresses it is served on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// How many routes are attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached_routes: Option<i32>,
}

const PASSTHROUGH_WITHOUT_ROUTES: &str =
    "!(has(self.passthrough) && self.passthrough && has(self.routes))";
const PASSTHROUGH_WITHOUT_ROUTES_MESSAGE: &str = "passthrough is possible only where Ingresses \
    name the Listener by annotation: remove routes, or passthrough";

/// Removes fields that are null, which for Kubernetes is the same as absent.
pub(super) fn strip_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.retain(|_, field| !field.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_refuses_passthrough_with_routes() {
        let crd = definition();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert_eq!(
            spec["x-kubernetes-validations"][0]["rule"],
            PASSTHROUGH_WITHOUT_ROUTES
        );
        assert_eq!(spec["required"], serde_json::json!(["protocol"]));
    }

    #[test]
    fn definition_has_netscalers_identity() {
        let crd = definition();
        assert_eq!(crd["metadata"]["name"], "listeners.citrix.com");
        assert_eq!(crd["spec"]["scope"], "Namespaced");
        assert!(crd["spec"]["versions"][0]["subresources"]["status"].is_object());
        let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
            .as_array()
            .unwrap();
        assert_eq!(columns.len(), 5);
    }
}
