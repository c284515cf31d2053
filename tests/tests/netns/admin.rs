//! The admin API of a running router.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;

use rstest::rstest;
use sni_router_tests::daemon::{Datapath, Launch, Router, binary};
use sni_router_tests::netns::Namespace;
use sni_router_tests::rig::{Lab, Rig};
use sni_router_tests::wait::{SOON, until};

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn counters_follow_a_connection(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    assert_eq!(rig.router.get("/healthz").status, 200);
    assert_eq!(rig.router.get("/nothing").status, 404);
    let closed = || {
        let labels = [("reason", "done"), ("datapath", datapath.name())];
        let name = "sni_router_connections_closed_total";
        rig.router.metric(name, &labels)
    };
    assert_eq!(closed(), 0.0);
    let mut up = 0;
    for _ in 0..3 {
        let address = rig.open().address;
        let access = rig.access(address);
        assert_eq!(access.reason, "done");
        up += access.bytes_up;
    }
    until("three connections are counted", SOON, || closed() == 3.0);
    until("no connection is active", SOON, || {
        rig.router.metric("sni_router_connections_active", &[]) == 0.0
    });
    let bytes = rig
        .router
        .metric("sni_router_bytes_total", &[("direction", "up")]);
    assert_eq!(bytes, up as f64);
}

/// The same over TCP, from inside the router's namespace.
#[test]
fn admin_over_tcp_answers_where_it_was_told_to() {
    let lab = Lab::new(1);
    Rig::site(&lab).write_to(&lab.manifests());
    let at: SocketAddr = "127.0.0.1:9911".parse().expect("an address");
    let launch = Launch {
        manifests: Some(&lab.manifests()),
        admin: &at.to_string(),
        args: &["--datapath", "userspace"],
        without: &[],
    };
    let _router = Router::launch(&lab.net.router, &launch);
    let get = |host: &str| {
        let mut stream = lab.net.router.connect(at, SOON).ok()?;
        let request = format!("GET /readyz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        Some(response)
    };
    until("/readyz answers 200", SOON, || {
        get("127.0.0.1:9911").is_some_and(|text| text.starts_with("HTTP/1.1 200 "))
    });
    // A browser that was tricked into asking here names the page's own host.
    let tricked = get("attacker.example").expect("an answer");
    assert!(tricked.starts_with("HTTP/1.1 403 "), "{tricked}");
}

/// They have no end of their own, and are fewer than there are places for connections.
#[test]
fn any_number_of_traces_keeps_no_probe_away() {
    let rig = Rig::start(Datapath::Userspace, &[]);
    let admin = rig.lab.admin();
    let path = admin.strip_prefix("unix:").expect("a Unix socket");
    let mut answered = Vec::new();
    let followers: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(path).expect("connect");
            let request = b"GET /api/v1/trace HTTP/1.1\r\nhost: x\r\n\r\n";
            stream.write_all(request).expect("write");
            let mut begin = [0; 12];
            stream.read_exact(&mut begin).expect("an answer");
            answered.push(begin[9..].to_owned());
            stream
        })
        .collect();
    assert_eq!(answered[..16], vec![b"200".to_vec(); 16]);
    assert_eq!(answered[16..], vec![b"429".to_vec(); 84]);
    assert_eq!(rig.router.get("/healthz").status, 200);
    drop(followers);
}

/// Whoever reaches the port from elsewhere may see how the router fares, and nothing of its clients.
#[test]
fn admin_over_tcp_shows_others_only_how_it_fares() {
    let lab = Lab::new(1);
    Rig::site(&lab).write_to(&lab.manifests());
    let token = lab.dir().join("token");
    fs::write(&token, "not-much-of-a-secret").expect("write the token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("keep it");
    let path = token.to_str().expect("a path in UTF-8");
    let args = ["--admin", "0.0.0.0:9911", "--admin-token-file", path];
    let router = lab.start(Datapath::Userspace, &args);
    let ask = |from: &Namespace, at: &str, call: &str, header: &str| {
        let at: SocketAddr = at.parse().expect("an address");
        let mut stream = from.connect(at, SOON).expect("connect");
        let request = format!("{call} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).expect("write");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("read");
        response[9..12].parse::<u16>().expect("a status")
    };
    let bearer = "authorization: Bearer not-much-of-a-secret\r\n";
    for (call, here, elsewhere, with_token) in [
        ("GET /healthz", 200, 200, 200),
        ("GET /metrics", 200, 200, 200),
        ("GET /api/v1/status", 200, 200, 200),
        ("GET /api/v1/connections", 200, 401, 200),
        ("GET /api/v1//connections", 404, 401, 404),
        ("GET /", 200, 401, 200),
        ("POST /api/v1/reload", 401, 401, 204),
        ("OPTIONS /api/v1/reload", 401, 401, 405),
    ] {
        let client = &lab.net.client;
        assert_eq!(
            ask(&lab.net.router, "127.0.0.1:9911", call, ""),
            here,
            "{call}"
        );
        assert_eq!(
            ask(client, "192.168.10.1:9911", call, ""),
            elsewhere,
            "{call}"
        );
        assert_eq!(
            ask(client, "192.168.10.1:9911", call, bearer),
            with_token,
            "{call}"
        );
    }
    assert_eq!(router.get("/readyz").status, 200);
}

/// What an operator sees of it.
#[test]
fn status_shows_connections_by_datapath_and_why_others_were_declined() {
    let rig = Rig::start(Datapath::Tc, &["--tc-ports", "10000-10000"]);
    let carried = rig.open();
    let declined = rig.open();
    let status = |flags: &[&str]| {
        let mut command = Command::new(binary());
        command
            .args(["status", "--admin", &rig.lab.admin()])
            .args(flags);
        let output = command.output().expect("run sni-router");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let text = status(&[]);
    for line in [
        "  tc                       1",
        "  userspace                1",
        "  no_port                  1",
    ] {
        assert!(text.lines().any(|it| it == line), "no {line:?} in\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&status(&["--json"])).expect("JSON");
    assert_eq!(json["carried"]["tc"], 1, "{json}");
    drop((carried, declined));
}

#[test]
fn status_of_nobody_says_so() {
    let mut command = Command::new(binary());
    command.args(["status", "--admin", "unix:/nowhere/admin.sock"]);
    let output = command.output().expect("run sni-router");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("no router answers at unix:/nowhere/admin.sock"),
        "{said}"
    );
}
