//! Answers that say little, and note what they are told to do.

use std::sync::Mutex;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use serde_json::{Value, json};

use super::super::{Answers, Refused};
use tokio::sync::oneshot;

use crate::api;

/// Notes what it is told to do.
#[derive(Default)]
pub(super) struct Fake(Mutex<Vec<String>>);

impl Fake {
    pub(super) fn done(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

/// A value that says as little as its type lets it.
fn some<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl Answers for Fake {
    fn status(&self) -> api::Status {
        some(json!({
            "version": "1", "pid": 1, "uptime_seconds": 0.0, "generation": 3, "connections": 0,
            "opened": 0, "closed": {}, "rejects": {}, "bytes_up": 0, "bytes_down": 0, "datapath": "tc",
            "declined": null, "self_tests": [], "programs": [], "carried": {}, "declines": {}, "listeners": [], "clusters": [],
            "kernel": null,
        }))
    }
    fn listeners(&self) -> Vec<api::Listener> {
        Vec::new()
    }
    fn routes(&self) -> Vec<api::Route> {
        Vec::new()
    }
    fn backends(&self) -> Vec<api::Backend> {
        Vec::new()
    }
    fn problems(&self) -> Vec<api::Problem> {
        Vec::new()
    }
    fn config(&self) -> api::Config {
        some(json!({
            "source": "", "generation": 3, "applied_at": null, "refused": false, "listeners": 0,
            "routes": 0, "errors": 0, "warnings": 0, "notes": 0,
        }))
    }
    fn kernel(&self) -> api::Kernel {
        some(json!({
            "release": "", "datapath": "", "declined": null, "self_tests": [], "programs": [], "pins": null,
            "maps": [],
            "interfaces": [], "counters": {},
        }))
    }
    fn connections(&self, _: &api::ConnectionQuery) -> Result<api::Page, Refused> {
        Ok(some(json!({"connections": [], "total": 0, "next": null})))
    }
    fn connection(&self, _: u64) -> Result<api::Connection, Refused> {
        Err(Refused::NotFound("over".into()))
    }
    fn explain(&self, _: &api::Question) -> Result<Vec<api::Explanation>, Refused> {
        Ok(Vec::new())
    }
    fn trace(&self, _: &api::TraceQuery) -> Result<BoxStream<'static, api::Step>, Refused> {
        // Nothing happens, for ever.
        Ok(futures_util::stream::pending().boxed())
    }
    fn close(&self, id: u64) -> Result<(), Refused> {
        match id {
            7 => self.note("close 7".into()),
            _ => return Err(Refused::NotFound("over".into())),
        }
        Ok(())
    }
    fn close_all(&self, query: &api::ConnectionQuery) -> Result<usize, Refused> {
        let Some(host) = &query.host else {
            return Err(Refused::Nonsense("everything".into()));
        };
        self.note(format!("close host {host}"));
        Ok(2)
    }
    fn drain(&self, what: &api::Drain, begin: bool) -> Result<api::Drained, Refused> {
        let endpoint = what.endpoint.as_deref().unwrap_or_default();
        self.note(format!("drain {endpoint} {begin}"));
        Ok(some(json!({"changed": true, "connections": 5})))
    }
    fn reload(&self) -> oneshot::Receiver<()> {
        self.note("reload".into());
        oneshot::channel().1
    }
    fn log(&self, filter: &str) -> Result<(), Refused> {
        self.note(format!("log {filter}"));
        Ok(())
    }
}
