//! A TCP server: one thread a connection.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use socket2::SockRef;

/// The stack of a connection's thread, so that thousands of them cost little.
const STACK: usize = 256 * 1024;

/// Accepts until it is dropped. Connections it has accepted run on until their peer ends them.
#[derive(Debug)]
pub struct Server {
    listener: Arc<TcpListener>,
    accepted: Arc<AtomicUsize>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves a listener with `handler`, called on a new thread for every connection.
    pub fn spawn(
        listener: TcpListener,
        handler: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = Arc::new(listener);
        let accepted = Arc::new(AtomicUsize::new(0));
        let (handler, incoming, count) = (Arc::new(handler), listener.clone(), accepted.clone());
        let acceptor = thread::spawn(move || {
            while let Ok((stream, _)) = incoming.accept() {
                count.fetch_add(1, Ordering::Relaxed);
                let handler = handler.clone();
                let builder = thread::Builder::new().stack_size(STACK);
                builder
                    .spawn(move || handler(stream))
                    .expect("start a thread for a connection");
            }
        });
        Self {
            listener,
            accepted,
            acceptor: Some(acceptor),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound listener")
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
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
