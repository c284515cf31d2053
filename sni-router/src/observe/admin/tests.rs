mod crowd;
mod fake;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::super::metrics::Labels;
use super::*;
use fake::Fake;

#[tokio::test]
async fn readyz_follows_readiness_and_healthz_does_not() {
    let (_admin, addr, readiness) = start("127.0.0.1:0").await;
    assert_eq!(get_tcp(addr, "/healthz", "127.0.0.1").await.status, 200);
    let answer = get_tcp(addr, "/readyz", "127.0.0.1").await;
    assert_eq!(
        (answer.status, answer.body.contains("starting")),
        (503, true)
    );

    readiness.set_ready();
    assert_eq!(get_tcp(addr, "/readyz", "127.0.0.1").await.status, 200);
    readiness.set_draining();
    readiness.set_ready();
    let answer = get_tcp(addr, "/readyz", "127.0.0.1").await;
    assert_eq!(
        (answer.status, answer.body.contains("draining")),
        (503, true)
    );
    assert_eq!(get_tcp(addr, "/healthz", "127.0.0.1").await.status, 200);
}

#[tokio::test]
async fn metrics_and_status_are_served() {
    let (_admin, addr, _) = start("[::1]:0").await;
    let answer = get_tcp(addr, "/metrics", "[::1]:9901").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains(calls::OPENMETRICS), "{}", answer.head);
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
    let answer = get_tcp(addr, "/api/v1/status", "[::1]:9901").await;
    assert_eq!(
        (answer.status, &answer.json()["generation"]),
        (200, &json!(3))
    );
    let answer = get_tcp(addr, "/else", "[::1]:9901").await;
    assert_eq!(answer.status, 404);
    assert!(
        answer.json()["error"]
            .as_str()
            .unwrap()
            .contains("openapi.json")
    );
}

#[tokio::test]
async fn request_is_refused_when_its_host_is_a_name() {
    let (_admin, addr, _) = start("127.0.0.1:0").await;
    for (host, status) in [
        ("127.0.0.1", 200),
        ("127.0.0.1:9901", 200),
        ("[::1]:9901", 200),
        ("localhost", 200),
        ("LocalHost:9901", 200),
        ("evil.test", 403),
        ("evil.test:9901", 403),
        ("localhost.evil.test", 403),
        ("127.0.0.1.evil.test", 403),
        ("127.0.0.1@evil.test", 403),
        ("", 403),
    ] {
        for path in ["/healthz", "/metrics", "/api/v1/status", "/else"] {
            let answer = get_tcp(addr, path, host).await;
            let expected = if status == 200 && path == "/else" {
                404
            } else {
                status
            };
            assert_eq!(answer.status, expected, "{host:?} {path}");
        }
    }
}

#[tokio::test]
async fn any_host_is_served_on_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let admin = serve(&AdminAddr::Unix(path.clone())).await.unwrap();
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(
        get_on(stream, "/healthz", "whatever.test").await.status,
        200
    );
    drop(admin);
    assert!(!path.exists());
}

#[tokio::test]
async fn serving_fails_with_flag_and_remedy_when_the_port_is_taken() {
    let (_admin, addr, _) = start("127.0.0.1:0").await;
    let error = serve(&AdminAddr::Tcp(addr))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("127.0.0.1:") && error.contains("give --admin a port"),
        "{error}"
    );
    let error = serve(&"unix:/does/not/exist".parse().unwrap())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("/does/not/exist") && error.contains("create"),
        "{error}"
    );
}

#[test]
fn address_is_parsed_or_refused_with_an_example() {
    for text in [
        "127.0.0.1:9901",
        "[::]:80",
        "unix:/run/admin.sock",
        "unix:admin.sock",
    ] {
        assert_eq!(text.parse::<AdminAddr>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "9901",
        "localhost:9901",
        ":9901",
        "/run/admin.sock",
        "unix:",
    ] {
        let error = text.parse::<AdminAddr>().unwrap_err().to_string();
        assert!(
            error.contains(&format!("{text:?}")) && error.contains("--admin"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn description_has_every_call_and_nothing_is_changed_by_get() {
    let (_admin, addr, _) = start("127.0.0.1:0").await;
    let description = get_tcp(addr, "/api/v1/openapi.json", "127.0.0.1")
        .await
        .json();
    let paths = description["paths"].as_object().unwrap();
    let mut calls: Vec<_> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| format!("{method} {path}"))
        })
        .collect();
    calls.sort();
    assert_eq!(
        calls,
        [
            "delete /api/v1/connections",
            "delete /api/v1/connections/{id}",
            "get /api/v1/backends",
            "get /api/v1/config",
            "get /api/v1/connections",
            "get /api/v1/connections/{id}",
            "get /api/v1/explain",
            "get /api/v1/kernel",
            "get /api/v1/listeners",
            "get /api/v1/problems",
            "get /api/v1/routes",
            "get /api/v1/status",
            "get /api/v1/trace",
            "get /healthz",
            "get /metrics",
            "get /readyz",
            "post /api/v1/drain",
            "post /api/v1/reload",
            "post /api/v1/undrain",
            "put /api/v1/log-level",
        ]
    );
    for (path, item) in paths {
        if item.get("get").is_none() {
            let answer = get_tcp(addr, path, "127.0.0.1").await;
            assert_eq!(answer.status, 405, "{path}");
            assert!(answer.json()["error"].is_string());
        }
    }
}

#[tokio::test]
async fn change_over_tcp_needs_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let write = |text: &str| fs::write(&path, text).unwrap();
    write("0123456789abcdef\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let token = Token::open(path.clone()).unwrap();
    let (answers, served) = served();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let _admin = Admin::on_tcp(listener, served, Some(token));
    let call = async |header: &str| {
        let stream = TcpStream::connect(addr).await.unwrap();
        let head = format!("POST /api/v1/reload HTTP/1.1\r\nhost: 127.0.0.1\r\n{header}");
        send(stream, &head, "").await.status
    };
    for (header, status) in [
        ("", 401),
        ("authorization: Bearer 0123456789abcdeX\r\n", 401),
        ("authorization: Bearer 0123456789abcde\r\n", 401),
        ("authorization: Bearer \r\n", 401),
        ("authorization: Basic 0123456789abcdef\r\n", 401),
    ] {
        assert_eq!(call(header).await, status, "{header:?}");
    }
    assert_eq!(answers.done(), [""; 0]);
    assert_eq!(
        call("authorization: Bearer 0123456789abcdef\r\n").await,
        204
    );
    write("another-token-of-it");
    assert_eq!(
        call("authorization: Bearer 0123456789abcdef\r\n").await,
        401
    );
    assert_eq!(
        call("authorization: Bearer another-token-of-it\r\n").await,
        204
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        call("authorization: Bearer another-token-of-it\r\n").await,
        403
    );
    assert_eq!(answers.done(), ["reload", "reload"]);
}

#[tokio::test]
async fn nothing_is_changed_over_tcp_without_a_token_file() {
    let (answers, served) = served();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let _admin = Admin::on_tcp(listener, served, None);
    for call in [
        "POST /api/v1/reload",
        "DELETE /api/v1/connections/1",
        "PUT /api/v1/log-level",
    ] {
        let stream = TcpStream::connect(addr).await.unwrap();
        let head = format!("{call} HTTP/1.1\r\nhost: 127.0.0.1\r\n");
        let answer = send(stream, &head, "{}").await;
        assert_eq!(answer.status, 403);
        assert!(
            answer.json()["error"]
                .as_str()
                .unwrap()
                .contains("--admin-token-file")
        );
    }
    assert_eq!(answers.done(), [""; 0]);
}

#[tokio::test]
async fn page_of_another_origin_is_refused() {
    let (_admin, addr, _) = start("127.0.0.1:0").await;
    for (header, status) in [
        ("origin: http://127.0.0.1:9\r\n", 200),
        ("origin: http://evil.test\r\n", 403),
        ("origin: null\r\n", 403),
        ("sec-fetch-site: same-origin\r\n", 200),
        ("sec-fetch-site: none\r\n", 200),
        ("sec-fetch-site: cross-site\r\n", 403),
        ("sec-fetch-site: same-site\r\n", 403),
    ] {
        let stream = TcpStream::connect(addr).await.unwrap();
        let head = format!("GET /api/v1/status HTTP/1.1\r\nhost: 127.0.0.1:9\r\n{header}");
        assert_eq!(send(stream, &head, "").await.status, status, "{header:?}");
    }
}

#[tokio::test]
async fn whoever_opens_the_unix_socket_may_change_things() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let (answers, parts) = served();
    let Served {
        readiness,
        metrics,
        answers: shared,
    } = parts;
    let addr = AdminAddr::Unix(path.clone());
    let _admin = Admin::serve(&addr, None, readiness, metrics, shared)
        .await
        .unwrap();
    let call = async |head: &str, body: &str| {
        let stream = UnixStream::connect(&path).await.unwrap();
        let head = format!("{head} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
        send(stream, &head, body).await
    };
    let answer = call("DELETE /api/v1/connections/7", "").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"closed": 1})));
    let answer = call("DELETE /api/v1/connections?host=a.test", "").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"closed": 2})));
    let answer = call("POST /api/v1/drain", r#"{"endpoint": "10.0.0.1:1"}"#).await;
    assert_eq!(answer.json(), json!({"changed": true, "connections": 5}));
    assert_eq!(
        call("PUT /api/v1/log-level", r#"{"filter": "debug"}"#)
            .await
            .status,
        204
    );
    assert_eq!(
        answers.done(),
        [
            "close 7",
            "close host a.test",
            "drain 10.0.0.1:1 true",
            "log debug"
        ]
    );
    for (head, body, status) in [
        ("DELETE /api/v1/connections/8", "", 404),
        ("DELETE /api/v1/connections/x", "", 400),
        ("DELETE /api/v1/connections", "", 400),
        ("GET /api/v1/connections?nothing=1", "", 400),
        ("GET /api/v1/connections?limit=x", "", 400),
        ("POST /api/v1/drain", "{", 400),
        ("POST /api/v1/drain", r#"{"what": 1}"#, 422),
        ("PATCH /api/v1/drain", "", 405),
    ] {
        let answer = call(head, body).await;
        assert_eq!(answer.status, status, "{head} {}", answer.body);
        assert!(answer.json()["error"].is_string(), "{head}");
    }
}

#[test]
fn token_is_refused_when_others_can_read_it_or_guess_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let open = |text: &str, mode| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Token::open(path.clone())
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(open("0123456789abcdef", 0o600), None);
    assert!(open("0123456789abcdef", 0o604).unwrap().contains("chmod"));
    assert!(
        open("0123456789abcde\n", 0o600)
            .unwrap()
            .contains("openssl")
    );
    let missing = Token::open(dir.path().join("none"))
        .unwrap_err()
        .to_string();
    assert!(missing.contains("--admin-token-file"), "{missing}");
}

async fn start(addr: &str) -> (Admin, SocketAddr, Arc<Readiness>) {
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (_, served) = served();
    let readiness = Arc::clone(&served.readiness);
    (Admin::on_tcp(listener, served, None), addr, readiness)
}

async fn serve(addr: &AdminAddr) -> Result<Admin, AdminError> {
    let Served {
        readiness,
        metrics,
        answers,
    } = served().1;
    Admin::serve(addr, None, readiness, metrics, answers).await
}

fn served() -> (Arc<Fake>, Served) {
    let labels = Labels {
        reasons: &[],
        datapaths: &[],
        declines: &[],
        connect_failures: &[],
    };
    let fake = Arc::new(Fake::default());
    let served = Served {
        readiness: Arc::default(),
        metrics: Arc::new(Metrics::new(labels)),
        answers: Arc::clone(&fake) as _,
    };
    (fake, served)
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

async fn get_tcp(addr: SocketAddr, path: &str, host: &str) -> Answer {
    get_on(TcpStream::connect(addr).await.unwrap(), path, host).await
}

async fn get_on(stream: impl AsyncRead + AsyncWrite + Unpin, path: &str, host: &str) -> Answer {
    send(
        stream,
        &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n"),
        "",
    )
    .await
}

/// Sends a request with this head, which is completed, and body.
async fn send(mut stream: impl AsyncRead + AsyncWrite + Unpin, head: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!("{head}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.into(),
        body: body.into(),
    }
}
