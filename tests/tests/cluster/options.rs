//! The options of the chart: what they are set to, and what is then in what it renders (or, with `!`,
//! is not).

/// Values as `helm --set-json` takes them, and texts of the rendered objects as JSON.
pub const CASES: [(&[&str], &[&str]); 31] = [
    (
        &[],
        &[
            "--claim-vips",
            "--lease-name=sni-router",
            "\"image\":\"sni-router:0.1.0\"",
            "\"secrets\"",
            "!\"privileged\":true",
        ],
    ),
    (
        &[
            "image.repository=\"example.com/x\"",
            "image.tag=\"9\"",
            "image.pullPolicy=\"Always\"",
        ],
        &[
            "\"image\":\"example.com/x:9\"",
            "\"imagePullPolicy\":\"Always\"",
        ],
    ),
    (
        &["imagePullSecrets=[{\"name\":\"pull\"}]"],
        &["\"imagePullSecrets\":[{\"name\":\"pull\"}]"],
    ),
    (
        &[
            "ingressClass=[\"edge\",\"cic-vpx\"]",
            "setAsDefaultIngressClass=true",
        ],
        &[
            "--ingress-class=edge",
            "--ingress-class=cic-vpx",
            "is-default-class\":\"true\"",
        ],
    ),
    (
        &["ingressClass=[]"],
        &["!--ingress-class", "!\"kind\":\"IngressClass\""],
    ),
    (
        &["ingressClass=[\"cic-vpx\"]", "createIngressClass=false"],
        &["--ingress-class=cic-vpx", "!\"kind\":\"IngressClass\""],
    ),
    (&["citrixClass=true"], &["--citrix-class"]),
    (
        &["updateIngressStatus=false"],
        &["--update-ingress-status=false", "!ingresses/status"],
    ),
    (
        &["certificates=\"declared\""],
        &["--certificates=declared", "!\"secrets\""],
    ),
    (
        &["certificates=\"ignore\""],
        &["--certificates=ignore", "!\"secrets\""],
    ),
    (
        &["watchNamespaces=[\"web\",\"shop\"]"],
        &[
            "--watch-namespace=web",
            "--watch-namespace=shop",
            "!sni-router-watch",
        ],
    ),
    (
        &["watchNamespaces=[\"web\",\"shop\"]", "rbacRole=true"],
        &[
            "\"name\":\"sni-router-watch\",\"namespace\":\"web\"",
            "\"namespace\":\"shop\"",
        ],
    ),
    (
        &["listenerSelector=\"team in (web, shop)\""],
        &["--listener-selector=team in (web, shop)"],
    ),
    (
        &["ingressSelector=\"team=web\""],
        &["--ingress-selector=team=web"],
    ),
    (&["clusterName=\"east\""], &["--local-cluster=east"]),
    (
        &["clustersSecret=\"clusters\""],
        &[
            "--clusters-dir=/etc/sni-router/clusters",
            "\"secretName\":\"clusters\"",
        ],
    ),
    (
        &["datapath=\"userspace\"", "takeOver=false"],
        &["--datapath=userspace"],
    ),
    (&["tcPorts=\"20000-29999\""], &["--tc-ports=20000-29999"]),
    (&["claimVips=false"], &["!--claim-vips"]),
    (
        &["drainSeconds=300"],
        &[
            "--drain-timeout=300s",
            "\"terminationGracePeriodSeconds\":315",
        ],
    ),
    (
        &["logLevel=\"warn,access=off\""],
        &["--log-level=warn,access=off"],
    ),
    (&["jsonLog=true"], &["--log-format=json"]),
    (
        &["adminAddress=\"\""],
        &["!--admin=0.0.0.0", "--admin=unix:"],
    ),
    (&["extraArgs=[\"--workers=2\"]"], &["--workers=2"]),
    (
        &["takeOver=false"],
        &[
            "\"maxSurge\":0",
            "\"maxUnavailable\":1",
            "!--spare-predecessor",
        ],
    ),
    (&["privileged=true"], &["\"privileged\":true", "!PERFMON"]),
    (
        &["serviceAccount.annotations={\"a\":\"b\"}"],
        &["\"annotations\":{\"a\":\"b\"}"],
    ),
    (
        &["resources={\"limits\":{\"memory\":\"2Gi\"}}"],
        &["\"memory\":\"2Gi\""],
    ),
    (
        &[
            "podAnnotations={\"prometheus.io/port\":\"9901\"}",
            "affinity={\"nodeAffinity\":{}}",
        ],
        &[
            "\"prometheus.io/port\":\"9901\"",
            "\"affinity\":{\"nodeAffinity\":{}}",
        ],
    ),
    (
        // NetScaler's way to write it.
        &[
            "nodeSelector={\"key\":\"role\",\"value\":\"edge\"}",
            "tolerations=[]",
        ],
        &["\"nodeSelector\":{\"role\":\"edge\"}", "!NoExecute"],
    ),
    (
        &["nodeSelector={\"role\":\"edge\"}", "priorityClassName=\"\""],
        &[
            "\"nodeSelector\":{\"role\":\"edge\"}",
            "!system-node-critical",
        ],
    ),
];
