//! Where the API server's verdict on a manifest and ours differ, and why.

/// The server has them stored.
pub const ONLY_WE_REFUSE: [(&str, &str); 37] = [
    (
        "tests/bad-manifests/ingress-allowed-namespaces.yaml",
        ANNOTATION,
    ),
    (
        "tests/bad-manifests/ingress-backend-resource.yaml",
        "is right for an Ingress; connections go to Services only",
    ),
    (
        "tests/bad-manifests/ingress-host-long-label.yaml",
        "the server checks the length of the name, not of each label",
    ),
    (
        "tests/bad-manifests/ingress-listener-malformed.yaml",
        ANNOTATION,
    ),
    ("tests/bad-manifests/ingress-listener-missing.yaml", OTHER),
    (
        "tests/bad-manifests/ingress-listener-misspelled.yaml",
        ANNOTATION,
    ),
    (
        "tests/bad-manifests/ingress-listener-other-namespace.yaml",
        OTHER,
    ),
    ("tests/bad-manifests/ingress-listener-refused.yaml", OTHER),
    (
        "tests/bad-manifests/ingress-rule-without-backend.yaml",
        "to the server, a rule may leave its connections to whoever is the default",
    ),
    ("tests/bad-manifests/ingress-service-missing.yaml", OTHER),
    (
        "tests/bad-manifests/ingress-service-port-missing.yaml",
        OTHER,
    ),
    (
        "tests/bad-manifests/listener-certificate-both.yaml",
        "oneOf in NetScaler's schema; ours tells it in words, with the path",
    ),
    (
        "tests/bad-manifests/listener-certificate-empty.yaml",
        "oneOf in NetScaler's schema; ours tells it in words, with the path",
    ),
    (
        "tests/bad-manifests/listener-certificate-preconfigured.yaml",
        US,
    ),
    (
        "tests/bad-manifests/listener-certificates-absent.yaml",
        SCHEMA,
    ),
    ("tests/bad-manifests/listener-default-action.yaml", OTHER),
    ("tests/bad-manifests/listener-passthrough-absent.yaml", US),
    ("tests/bad-manifests/listener-passthrough-false.yaml", US),
    ("tests/bad-manifests/listener-protocol-http.yaml", US),
    ("tests/bad-manifests/listener-protocol-udp.yaml", US),
    (
        "tests/bad-manifests/listener-same-secondary-vip.yaml",
        OTHER,
    ),
    ("tests/bad-manifests/listener-same-vip-and-port.yaml", OTHER),
    ("tests/bad-manifests/listener-secondary-vips.yaml", SCHEMA),
    ("tests/bad-manifests/listener-secret-missing.yaml", OTHER),
    ("tests/bad-manifests/listener-secret-opaque.yaml", OTHER),
    ("tests/bad-manifests/listener-vip-link-local.yaml", SCHEMA),
    ("tests/bad-manifests/listener-vip-multicast.yaml", SCHEMA),
    ("tests/bad-manifests/listener-vip-name.yaml", SCHEMA),
    ("tests/bad-manifests/listener-vip-prefix.yaml", SCHEMA),
    ("tests/bad-manifests/listener-vip-unspecified.yaml", SCHEMA),
    ("tests/bad-manifests/listener-vip-with-port.yaml", SCHEMA),
    (
        "tests/bad-manifests/metadata-creation-time.yaml",
        "the server sets this field itself, whatever is sent",
    ),
    (
        "tests/bad-manifests/object-twice.yaml",
        "to the server, the second is a newer version of the first",
    ),
    (
        "tests/bad-manifests/service-external-name-ip.yaml",
        "to the server, digits and dots are a DNS name",
    ),
    ("tests/bad-manifests/service-external-name-port.yaml", OTHER),
    ("tests/bad-manifests/service-udp.yaml", OTHER),
    (
        "tests/bad-manifests/slice-bad-port.yaml",
        "the server checks no number of a slice's port",
    ),
];

/// No cluster has them.
pub const ONLY_THE_SERVER_REFUSES: [(&str, &str); 8] = [
    (
        "tests/bad-manifests/good.yaml",
        "has a Secret without its key, which a directory need not contain",
    ),
    (
        "tests/bad-manifests/ingress-host-twice.yaml",
        "we compare hosts without regard to case, as DNS does",
    ),
    (
        "tests/bad-manifests/ingress-without-rules.yaml",
        "routes nothing, which is a warning",
    ),
    (
        "tests/bad-manifests/listener-certificate-common-name.yaml",
        "has a Secret without its key",
    ),
    (
        "tests/bad-manifests/listener-certificate-expired.yaml",
        "has a Secret without its key",
    ),
    (
        "tests/bad-manifests/listener-certificate-future.yaml",
        "has a Secret without its key",
    ),
    (
        "tests/bad-manifests/listener-unknown-fields.yaml",
        "asked to be strict, the server takes no unknown field; we warn, as kubectl does",
    ),
    (
        "tests/bad-manifests/object-kinds-skipped.yaml",
        "has a Deployment that is not complete, which is not for us to read",
    ),
];

const OTHER: &str = "is about another object, and the server looks at one alone";
const SCHEMA: &str =
    "NetScaler's schema takes it too, and ours must not refuse what theirs accepts";
const US: &str = "is right for a NetScaler, and this router cannot do it";
const ANNOTATION: &str = "to the server, an annotation is any text";
