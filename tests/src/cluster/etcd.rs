//! etcd, for one test: nothing survives it, so nothing is synced to disk.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::assets::program;
use super::place::Place;
use super::process::Process;

/// A running etcd; killed on drop.
#[derive(Debug)]
pub struct Etcd {
    _process: Process,
    port: u16,
}

impl Etcd {
    /// Starts it, without waiting for it: the API server does.
    #[track_caller]
    pub fn start(place: &Place, dir: &Path) -> Self {
        let (port, peers) = (place.free_port(), place.free_port());
        let clients = format!("http://127.0.0.1:{port}");
        let peers = format!("http://127.0.0.1:{peers}");
        let mut command = Command::new(program("etcd"));
        command.arg("--data-dir").arg(dir.join("etcd"));
        command.args(["--listen-client-urls", &clients]);
        command.args(["--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers]);
        command.args(["--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("default={peers}")]);
        command.args(["--unsafe-no-fsync", "--log-level=warn"]);
        Self {
            _process: Process::start(place, command, &dir.join("etcd.log")),
            port,
        }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Removes every revision but the newest.
    #[track_caller]
    pub fn compact(&self, place: &Place) {
        // Any key: what is wanted is the revision in the answer's header.
        let answer = self.post(place, "/v3/kv/range", json!({"key": "AA=="}));
        let revision = &answer["header"]["revision"];
        assert!(revision.is_string(), "no revision in {answer}");
        let wanted = json!({"revision": revision, "physical": true});
        let answer = self.post(place, "/v3/kv/compaction", wanted);
        assert!(answer["header"].is_object(), "compaction: {answer}");
    }

    /// Asks the JSON gateway of etcd's API.
    #[track_caller]
    fn post(&self, place: &Place, path: &str, body: Value) -> Value {
        let (port, body) = (self.port, body.to_string());
        let request = format!(
            "POST {path} HTTP/1.0\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let text = place.run(async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        });
        let text = text.unwrap_or_else(|e| panic!("etcd: {path}: {e}"));
        let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        serde_json::from_str(body).unwrap_or_else(|e| panic!("etcd: {path}: {e}: {text}"))
    }
}
