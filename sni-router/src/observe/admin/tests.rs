use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::super::metrics::Labels;
use super::*;

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
    assert!(answer.head.contains(OPENMETRICS), "{}", answer.head);
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
    let answer = get_tcp(addr, "/api/v1/status", "[::1]:9901").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap(),
        STATUS()
    );
    let answer = get_tcp(addr, "/else", "[::1]:9901").await;
    assert_eq!((answer.status, answer.body.as_str()), (404, INDEX));
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

async fn start(addr: &str) -> (Admin, SocketAddr, Arc<Readiness>) {
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let answers = answers();
    let readiness = Arc::clone(&answers.readiness);
    (Admin::on_tcp(listener, answers), addr, readiness)
}

async fn serve(addr: &AdminAddr) -> Result<Admin, AdminError> {
    let Answers {
        readiness,
        metrics,
        status,
    } = answers();
    Admin::serve(addr, readiness, metrics, status).await
}

fn answers() -> Answers {
    let labels = Labels {
        reasons: &[],
        datapaths: &[],
        declines: &[],
        connect_failures: &[],
    };
    Answers {
        readiness: Arc::default(),
        metrics: Arc::new(Metrics::new(labels)),
        status: Arc::new(STATUS),
    }
}

const STATUS: fn() -> serde_json::Value = || json!({ "generation": 3, "listeners": [] });

struct Answer {
    status: u16,
    head: String,
    body: String,
}

async fn get_tcp(addr: SocketAddr, path: &str, host: &str) -> Answer {
    get_on(TcpStream::connect(addr).await.unwrap(), path, host).await
}

async fn get_on(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str, host: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
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
