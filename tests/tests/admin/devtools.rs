//! A browser that is told what to do over its DevTools protocol, through a pipe
//! (<https://chromedevtools.github.io/devtools-protocol/>): JSON texts that end with a zero byte.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::{ADDR, Served};

/// A browser with the dashboard open; ended on drop.
pub(super) struct Page {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    calls: u64,
    session: Option<String>,
}

impl Page {
    /// Opens it in the router's namespace.
    pub(super) fn open(served: &Served) -> Self {
        let browser = env::var("SNI_ROUTER_BROWSER");
        let browser = browser.expect("no SNI_ROUTER_BROWSER: run `cargo xtask test-admin`");
        // It reads its descriptor 3 and writes to 4.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec env \"$@\" 3<&0 4>&1 1>&2", "sh"])
            .args(browser.split(' '))
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--remote-debugging-pipe"])
            .arg(format!(
                "--user-data-dir={}",
                served.lab.dir().join("devtools").display()
            ))
            .env("HOME", served.lab.dir())
            // Killed, it takes nothing away itself.
            .env("TMPDIR", served.lab.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // It misses a D-Bus, hundreds of times.
            .stderr(Stdio::null());
        let child = served.lab.net.router.spawn(&mut command);
        let mut child = child.expect("start the browser");
        let to = child.stdin.take().expect("a pipe");
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut this = Self {
            child,
            to,
            from,
            calls: 0,
            session: None,
        };
        let target = this.call("Target.createTarget", json!({ "url": "about:blank" }));
        let id = &target["targetId"];
        let attach = json!({ "targetId": id, "flatten": true });
        let session = this.call("Target.attachToTarget", attach);
        let session = session["sessionId"].as_str().expect("a session");
        this.session = Some(session.to_owned());
        // Answers once scripts run in the new page, however much of that is there by then.
        let navigate = json!({ "url": format!("http://{ADDR}/") });
        let opened = this.call("Page.navigate", navigate);
        assert!(opened["errorText"].is_null(), "{opened}");
        this
    }

    /// Has the page take the user for one who prefers `dark` or `light`.
    pub(super) fn prefer(&mut self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        let media = json!({ "features": [feature] });
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// What a script of the page makes, awaited where it is a promise.
    #[track_caller]
    pub(super) fn evaluate(&mut self, script: &str) -> Value {
        let what = json!({ "expression": script, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", what);
        assert!(answer["exceptionDetails"].is_null(), "{answer}");
        answer["result"]["value"].clone()
    }

    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut call = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        write!(self.to, "{call}\0").expect("tell the browser");
        loop {
            let mut text = Vec::new();
            let read = self.from.read_until(0, &mut text).expect("its answer");
            assert!(read > 0, "the browser has ended before {method}");
            text.pop();
            let answer: Value = serde_json::from_slice(&text).expect("JSON");
            // Everything else is an event.
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Fails where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
