//! The network namespace that a control plane and its clients run in.

use std::future::Future;
use std::net::TcpListener;
use std::panic;
use std::process::{Child, Command};

use tokio::runtime::{Builder, Runtime};

use crate::netns::Namespace;

/// A namespace, as a runtime whose thread is inside.
///
/// A thread, and so a process and a socket, starts in the namespace of the one that makes it: what a
/// task makes is inside too.
#[derive(Debug)]
pub struct Place {
    /// Declared first: its threads end before the namespace goes.
    runtime: Runtime,
    _own: Option<Namespace>,
}

impl Place {
    /// Inside a namespace that is somebody else's.
    pub fn within(ns: &Namespace) -> Self {
        let runtime = ns.run(|| {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(1).enable_all().build()
        });
        Self {
            runtime: runtime.expect("start a thread"),
            _own: None,
        }
    }

    /// Inside a namespace that is gone with this.
    pub fn own(ns: Namespace) -> Self {
        let inside = Self::within(&ns);
        Self {
            _own: Some(ns),
            ..inside
        }
    }

    /// Runs a future inside, and gives what it gives.
    #[track_caller]
    pub fn run<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // Not `block_on` alone: that would poll it on this thread, which is elsewhere.
        let joined = self.runtime.block_on(self.runtime.spawn(future));
        joined.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(payload) => panic::resume_unwind(payload),
            Err(error) => panic!("{error}"),
        })
    }

    /// Starts a process inside.
    #[track_caller]
    pub fn spawn(&self, mut command: Command) -> Child {
        let program = command.get_program().to_owned();
        let child = self.run(async move { command.spawn() });
        child.unwrap_or_else(|e| panic!("start {}: {e}", program.display()))
    }

    /// A port of the loopback interface that nobody has. Nobody but the lab runs in the namespace, so
    /// nobody takes it meanwhile.
    pub fn free_port(&self) -> u16 {
        self.run(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a port");
            listener.local_addr().expect("its address").port()
        })
    }
}
