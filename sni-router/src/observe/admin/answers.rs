//! What the admin API asks of the parts of the router, which it does not know.

use futures_util::stream::BoxStream;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::api::{
    Backend, Config, Connection, ConnectionQuery, Drain, Drained, Explanation, Kernel, Listener,
    Page, Problem, Question, Route, Status, Step, TraceQuery,
};

/// Answers for all parts together. May be asked from any thread, and may take milliseconds.
pub trait Answers: Send + Sync {
    /// Everything at a glance.
    fn status(&self) -> Status;
    /// What is served, in the order of names.
    fn listeners(&self) -> Vec<Listener>;
    /// All host patterns.
    fn routes(&self) -> Vec<Route>;
    /// Where they lead to, in the order of names.
    fn backends(&self) -> Vec<Backend>;
    /// What is wrong in the configuration.
    fn problems(&self) -> Vec<Problem>;
    /// The configuration in force.
    fn config(&self) -> Config;
    /// What there is in the kernel.
    fn kernel(&self) -> Kernel;
    /// Connections that are not over.
    fn connections(&self, query: &ConnectionQuery) -> Result<Page, Refused>;
    /// One of them.
    fn connection(&self, id: u64) -> Result<Connection, Refused>;
    /// What a client would get, at each Listener.
    fn explain(&self, question: &Question) -> Result<Vec<Explanation>, Refused>;
    /// Steps of connections, from now on, until somebody drops it.
    fn trace(&self, query: &TraceQuery) -> Result<BoxStream<'static, Step>, Refused>;
    /// Has a connection ended.
    fn close(&self, id: u64) -> Result<(), Refused>;
    /// Has connections ended, and tells how many.
    fn close_all(&self, query: &ConnectionQuery) -> Result<usize, Refused>;
    /// Begins to drain something, or ends that.
    fn drain(&self, what: &Drain, begin: bool) -> Result<Drained, Refused>;
    /// Reads the configuration again. The answer ends when that is done.
    fn reload(&self) -> oneshot::Receiver<()>;
    /// Changes what is logged.
    fn log(&self, filter: &str) -> Result<(), Refused>;
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The question makes no sense.
    #[error("{0}")]
    Nonsense(String),
    /// What it is about is not there.
    #[error("{0}")]
    NotFound(String),
    /// Too many others ask the same.
    #[error("{0}")]
    Busy(String),
}
