//! A TCP server: one thread a connection.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use socket2::SockRef;

use crate::wait::{SOON, until};

/// The stack of a connection's thread, so that thousands of them cost little.
const STACK: usize = 256 * 1024;

/// Accepts until it is dropped. Connections it has accepted run on until their peer ends them.
#[derive(Debug)]
pub struct Server {
    listener: Arc<TcpListener>,
    counts: Arc<Counts>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicUsize,
    ended: AtomicUsize,
    failed: AtomicUsize,
}

impl Server {
    /// Serves a listener with `handler`, called on a new thread for every connection.
    pub fn spawn(
        listener: TcpListener,
        handler: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = Arc::new(listener);
        let counts = Arc::new(Counts::default());
        let (handler, incoming, shared) = (Arc::new(handler), listener.clone(), counts.clone());
        let acceptor = thread::spawn(move || {
            while let Ok((stream, _)) = incoming.accept() {
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                let (handler, counts) = (handler.clone(), shared.clone());
                let handle = move || {
                    let handled = catch_unwind(AssertUnwindSafe(|| handler(stream)));
                    let failed = usize::from(handled.is_err());
                    counts.failed.fetch_add(failed, Ordering::Relaxed);
                    counts.ended.fetch_add(1, Ordering::Release);
                };
                let thread = thread::Builder::new().stack_size(STACK).spawn(handle);
                thread.expect("start a thread for a connection");
            }
        });
        Self {
            listener,
            counts,
            acceptor: Some(acceptor),
        }
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Waits until every connection accepted so far has ended, and panics if a handler did.
    #[track_caller]
    pub fn check(&self) {
        until("every connection of the server ends", SOON, || {
            self.counts.ended.load(Ordering::Acquire) >= self.accepted()
        });
        let failed = self.counts.failed.load(Ordering::Relaxed);
        assert_eq!(failed, 0, "connections that the server saw go wrong");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On Linux this wakes the thread in accept(2), with EINVAL.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
