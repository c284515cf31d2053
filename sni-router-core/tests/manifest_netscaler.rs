//! Manifests as NetScaler's users have them parse unchanged.

mod manifest_support;

use manifest_support::*;

/// Every field of NetScaler's schema at once. Those that exclude each other there are told apart
/// by this router in words, not by its schema.
const EVERY_FIELD: &str = r#"
apiVersion: citrix.com/v1
kind: Listener
metadata:
  name: web
  annotations:
    listeners.citrix.com/ipam-range: Prod
spec:
  ingressclass: citrix
  multicluster: true
  passthrough: true
  protocol: https
  vip: 192.0.2.1
  secondaryVips: [192.0.2.2]
  port: 443
  redirectPort: 80
  certificates:
  - preconfigured: on-the-appliance
    default: true
  - secret:
      name: a
      namespace: b
  policies:
    httpprofile: {preconfigured: h}
    tcpprofile: {config: {sack: ENABLED}}
    sslprofile: {config: {tls13: ENABLED}}
    sslciphers: [HIGH, MEDIUM]
    csvserverConfig: {clttimeout: "20"}
    analyticsprofile:
      config:
      - type: webinsight
        parameters: {allhttpheaders: ENABLED}
  defaultAction:
    backend:
      kube:
        service: app
        namespace: default
        port: 443
        backendConfig:
          secure_backend: true
          lbConfig: {lbmethod: ROUNDROBIN}
          servicegroupConfig: {clttimeout: "20"}
    redirect:
      httpsRedirect: true
      hostRedirect: example.com
      targetExpression: x
      responseCode: 301
status:
  state: SUCCESS
  status_message: Success
"#;

#[test]
fn listener_with_every_field_is_served() {
    let build = build(EVERY_FIELD);
    assert_eq!(listeners(&build), ["web 192.0.2.1,192.0.2.2:443"]);
    let told = errors(&build);
    assert!(
        told.iter().all(|told| told.contains("there is no Service")),
        "{told:?}"
    );
    let told = warnings(&build);
    assert!(
        !told.iter().any(|told| told.contains("not a field")),
        "{told:?}"
    );
}

/// As printed in the documentation of SSL passthrough for Listeners, but for the certificate.
const SEED: &str = r#"apiVersion: citrix.com/v1
kind: Listener
metadata:
  name: listener-https-passthrough
  namespace: default
spec:
  multicluster: true # Required for this feature to be active
  vip: '1.2.3.4'
  port: 443
  protocol: https
  passthrough: true # Enables SSL Passthrough
  certificates:
  - secret:
    name: app-secret # Mandatory certificate binding
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: https-ingress
  annotations:
    ingress.citrix.com/listener: listener-https-passthrough
spec:
  ingressClassName: "cic-vpx"
  rules:
  - host: httpsapp-netscaler.com
    http:
      paths:
      - path: /
        pathType: Prefix
        backend:
          service:
            name: https-app
            port:
              number: 80
"#;

#[test]
fn seed_is_served_with_a_word_about_its_indentation() {
    let build = build(
        &(SEED.to_owned() + &service("https-app", "198.51.100.1").replace("port: 443", "port: 80")),
    );
    assert_eq!(
        routes(&build),
        ["listener-https-passthrough httpsapp-netscaler.com https-app:80 [198.51.100.1:8443]"]
    );
    let told = warnings(&build);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("spec.certificates[0].name"), "{told:?}");
    assert!(told[0].contains("`    name: app-secret`"), "{told:?}");
}
