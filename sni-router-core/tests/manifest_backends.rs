//! Where connections go: from a Service port to its endpoints.

mod manifest_support;

use std::net::IpAddr;

use manifest_support::*;
use sni_router_core::manifest::Resolved;

#[test]
fn port_by_name_and_by_number_is_matched_with_the_slice_by_name() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: app}\nspec:\n  \
        clusterIP: None\n  ports:\n  - {name: tls, port: 443, targetPort: https}\n  \
        - {name: admin, port: 8443}\n";
    let slices = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
        name: app-4\n  labels: {kubernetes.io/service-name: app}\naddressType: IPv4\nendpoints:\n\
        - addresses: [198.51.100.2]\n- addresses: [198.51.100.1]\n  conditions: {ready: null}\n\
        - addresses: [198.51.100.3]\n  conditions: {ready: false}\nports:\n\
        - {name: admin, port: 9443}\n- {name: tls, port: 10443}\n\
        ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
        name: app-6\n  labels: {kubernetes.io/service-name: app}\naddressType: IPv6\nendpoints:\n\
        - addresses: ['2001:db8::1']\nports:\n- {name: tls, port: 10443}\n\
        ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
        name: app-4\n  namespace: other\n  labels: {kubernetes.io/service-name: app}\n\
        addressType: IPv4\nendpoints:\n- addresses: [198.51.100.9]\nports:\n- {name: tls, port: 1}\n";
    let endpoints = "[198.51.100.1:10443, 198.51.100.2:10443, [2001:db8::1]:10443]";
    for (port, name) in [("number: 443", "443"), ("name: tls", "tls")] {
        let ingress = ingress("app", "a.test", "app").replace("number: 443", port);
        let build = build(&(listener("web", 443) + &ingress + service + slices));
        assert_eq!(
            routes(&build),
            [format!("web a.test app:{name} {endpoints}")]
        );
        assert_eq!(build.problems, []);
    }
}

#[test]
fn terminating_endpoints_are_used_only_when_nothing_else_is_left() {
    let slice = |first: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: app-2\n  \
             labels: {{kubernetes.io/service-name: app}}\naddressType: IPv4\nendpoints:\n{first}\
             - addresses: [198.51.100.2]\n  conditions: {{ready: false, serving: true, terminating: true}}\n\
             - addresses: [198.51.100.3]\n  conditions: {{ready: false, serving: false, terminating: true}}\n\
             ports: [{{port: 8443}}]\n"
        )
    };
    let base = listener("web", 443) + &ingress("app", "a.test", "app");
    let service =
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: app}\nspec: {ports: [{port: 443}]}\n";
    let ready = "- addresses: [198.51.100.1]\n";
    assert_eq!(
        routes(&build(&format!("{base}{service}{}", slice(ready)))),
        ["web a.test app:443 [198.51.100.1:8443]"]
    );
    assert_eq!(
        routes(&build(&format!("{base}{service}{}", slice("")))),
        ["web a.test app:443 [198.51.100.2:8443]"]
    );
}

#[test]
fn external_name_has_the_addresses_that_dns_gave() {
    let text = listener("web", 443)
        + &ingress("app", "a.test", "app")
        + "---\napiVersion: v1\nkind: Service\nmetadata: {name: app}\n\
           spec: {type: ExternalName, externalName: Backend.Example.}\n";
    let snapshot = snapshot(&[("a.yaml", &text)]);
    let mut compiler = compiler();
    let first = compiler.build(&snapshot, &Resolved::new(), 0);
    let host = "backend.example".parse().unwrap();
    assert_eq!(
        first.model.external_names.iter().collect::<Vec<_>>(),
        [&host]
    );
    assert_eq!(routes(&first), ["web a.test app:443 []"]);
    assert_eq!(first.problems, [], "not asked yet is no problem");

    let addresses = vec![
        "2001:db8::1".parse().unwrap(),
        "198.51.100.1".parse().unwrap(),
    ];
    let resolved = Resolved::from([(host.clone(), addresses)]);
    let second = compiler.build(&snapshot, &resolved, 0);
    assert_eq!(
        routes(&second),
        ["web a.test app:443 [198.51.100.1:443, [2001:db8::1]:443]"]
    );

    let nothing = compiler.build(&snapshot, &Resolved::from([(host, vec![])]), 0);
    assert_eq!(warnings(&nothing).len(), 1);
}

#[test]
fn connection_is_never_sent_to_the_router_or_its_machine() {
    let web = listener("web", 443) + &ingress("app", "a.test", "app");
    let slice = service("app", "192.0.2.1");
    let elsewhere = build(&(web.clone() + &slice));
    assert_eq!(routes(&elsewhere), ["web a.test app:443 [192.0.2.1:8443]"]);
    assert_eq!(elsewhere.problems, []);
    let here = build(&(web.clone() + &slice.replace("port: 8443", "port: 443")));
    assert_eq!(routes(&here), ["web a.test app:443 []"]);
    let told = warnings(&here);
    assert!(
        told.len() == 1 && told[0].contains("192.0.2.1:443 of the Service default/app is served"),
        "{told:?}"
    );
    let local = build(&(web.clone() + &service("app", "127.0.0.1")));
    assert_eq!(routes(&local), ["web a.test app:443 []"]);
    assert_eq!(errors(&local).len(), 1, "{:?}", local.problems);

    let external = "---\napiVersion: v1\nkind: Service\nmetadata: {name: app}\n\
        spec: {type: ExternalName, externalName: backend.example}\n";
    let addresses = [
        "192.0.2.1",
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "::1",
        "0.0.0.0",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "255.255.255.255",
        "198.51.100.1",
    ];
    let addresses = addresses
        .map(|text| text.parse::<IpAddr>().unwrap())
        .to_vec();
    let resolved = Resolved::from([("backend.example".parse().unwrap(), addresses)]);
    let snapshot = snapshot(&[("a.yaml", &(web + external))]);
    let named = compiler().build(&snapshot, &resolved, 0);
    assert_eq!(routes(&named), ["web a.test app:443 [198.51.100.1:443]"]);
    assert_eq!(warnings(&named).len(), 1, "{:?}", named.problems);
}

/// The Service `app` and a slice of one endpoint, each with ports as YAML writes them.
fn with_ports(ports: &[String], slice_ports: &[String]) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: app}}\nspec:\n  ports: [{}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: app-1\n  \
         labels: {{kubernetes.io/service-name: app}}\naddressType: IPv4\n\
         endpoints: [{{addresses: [198.51.100.1]}}]\nports: [{}]\n",
        ports.join(", "),
        slice_ports.join(", ")
    )
}

#[test]
fn tcp_port_is_found_when_a_udp_port_has_its_number_or_its_name() {
    let port = |name: &str, number: u16, protocol: &str| {
        format!("{{name: {name}, port: {number}, protocol: {protocol}}}")
    };
    for (wanted, shown, udp, tcp) in [
        ("number: 443", "443", ("quic", 443), ("https", 443)),
        // An API server takes no name twice, a file may have it.
        ("name: web", "web", ("web", 444), ("web", 443)),
    ] {
        let base =
            listener("web", 443) + &ingress("app", "a.test", "app").replace("number: 443", wanted);
        let mut ports = [port(udp.0, udp.1, "UDP"), port(tcp.0, tcp.1, "TCP")];
        let mut slice_ports = [port(udp.0, 9443, "UDP"), port(tcp.0, 8443, "TCP")];
        let udp_only = base.clone() + &with_ports(&ports[..1], &slice_ports);
        for _ in 0..2 {
            let build = build(&(base.clone() + &with_ports(&ports, &slice_ports)));
            let expected = format!("web a.test app:{shown} [198.51.100.1:8443]");
            assert_eq!(routes(&build), [expected], "{ports:?}");
            assert_eq!(build.problems, [], "{ports:?}");
            ports.reverse();
            slice_ports.reverse();
        }
        let told = errors(&build(&udp_only));
        assert!(
            told.len() == 1 && told[0].contains("is not TCP"),
            "{told:?}"
        );
    }
}

#[test]
fn slice_without_ports_has_no_endpoint_and_a_port_without_number_is_every_port() {
    let named = "{name: tls, port: 443, targetPort: https}";
    let numbered = "{name: tls, port: 443, targetPort: 10443}";
    let base = listener("web", 443) + &ingress("app", "a.test", "app");
    let slice = |ports: &str| {
        let ports = ports.split_terminator(", ").map(str::to_owned);
        with_ports(&[named.to_owned()], &ports.collect::<Vec<_>>())
    };
    // Pods that lack the port are in a slice of their own.
    let lacking = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
        name: app-2\n  labels: {kubernetes.io/service-name: app}\naddressType: IPv4\n\
        endpoints: [{addresses: [198.51.100.9]}]\nports: []\n";
    let mixed = build(&(base.clone() + &slice("{name: tls, port: 8443}") + lacking));
    assert_eq!(routes(&mixed), ["web a.test app:443 [198.51.100.1:8443]"]);
    assert_eq!(mixed.problems, []);

    for none in [
        lacking.to_owned(),
        lacking.replace("ports: []", "ports: null"),
    ] {
        let alone = build(&(base.clone() + &slice("") + &none));
        assert_eq!(routes(&alone), ["web a.test app:443 []"]);
        let told = warnings(&alone);
        let what = "the endpoints of the Service default/app have no port";
        assert!(told.len() == 1 && told[0].contains(what), "{told:?}");
    }
    // What Kubernetes makes where there is no pod.
    let empty = slice("").replace("endpoints: [{addresses: [198.51.100.1]}]", "endpoints: []");
    let told = warnings(&build(&(base.clone() + &empty)));
    let what = "has no ready endpoint";
    assert!(told.len() == 1 && told[0].contains(what), "{told:?}");

    let every = slice("{name: tls}").replace(named, numbered);
    let every = build(&(base + &every));
    assert_eq!(routes(&every), ["web a.test app:443 [198.51.100.1:10443]"]);
    assert_eq!(every.problems, []);
}
