//! Worker threads: each has its own runtime and its own socket of every listening group, so that
//! a connection stays on one core from accept to close.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::Proxy;
use super::conn::{Past, serve};
use crate::limits;
use crate::sys::allocator;
use crate::sys::readable::readable;

/// A running worker.
pub struct Worker {
    orders: mpsc::UnboundedSender<Order>,
    thread: JoinHandle<()>,
}

/// Where a worker is given clients that it has not accepted itself.
pub struct Door(mpsc::WeakUnboundedSender<Order>);

impl Door {
    /// Has it serve a client with a past.
    pub(super) fn serve(&self, socket: TcpStream, client: SocketAddr, past: Past) {
        // Without it, the connection ends.
        if let Some(orders) = self.0.upgrade() {
            let _ = orders.send(Order::Serve(socket, client, past));
        }
    }
}

enum Order {
    Serve(TcpStream, SocketAddr, Past),
    Listen(SocketAddr, TcpListener),
    Unlisten(SocketAddr),
    StopListening,
}

impl Worker {
    /// Starts worker number `index`, on `cpu` alone if that is given.
    pub fn start(index: usize, cpu: Option<usize>, proxy: Arc<Proxy>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .on_thread_park(allocator::answer)
            .build()?;
        let (orders, inbox) = mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                if let Some(cpu) = cpu {
                    limits::pin_thread(cpu);
                }
                runtime.block_on(run(proxy, inbox));
            })?;
        Ok(Self { orders, thread })
    }

    /// Accepts connections from a listening, non-blocking socket. `addr` names it for
    /// [`Worker::unlisten`].
    pub fn listen(&self, addr: SocketAddr, listener: TcpListener) {
        self.order(Order::Listen(addr, listener));
    }

    /// Where it can be given clients.
    pub fn door(&self) -> Door {
        Door(self.orders.downgrade())
    }

    /// Closes the listening socket of `addr`; its connections go on.
    pub fn unlisten(&self, addr: SocketAddr) {
        self.order(Order::Unlisten(addr));
    }

    /// Closes all listening sockets; connections go on.
    pub fn stop_listening(&self) {
        self.order(Order::StopListening);
    }

    /// Ends the thread. Connections it still serves are dropped.
    pub fn join(self) {
        drop(self.orders);
        if self.thread.join().is_err() {
            warn!("a worker thread had panicked");
        }
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            warn!("a worker thread is gone");
        }
    }
}

/// Follows orders until there is nobody left to give any.
async fn run(proxy: Arc<Proxy>, mut inbox: mpsc::UnboundedReceiver<Order>) {
    // Dropping a sender stops its listener.
    let mut listening: Vec<(SocketAddr, oneshot::Sender<()>)> = Vec::new();
    while let Some(order) = inbox.recv().await {
        match order {
            Order::Listen(addr, listener) => match readable(listener) {
                Ok(listener) => {
                    let (stop, stopped) = oneshot::channel();
                    tokio::spawn(accept_until(Arc::clone(&proxy), listener, stopped));
                    listening.push((addr, stop));
                }
                Err(error) => warn!(%addr, %error, "cannot accept"),
            },
            Order::Serve(socket, client, past) => {
                tokio::spawn(serve(Arc::clone(&proxy), socket.into(), client, Some(past)));
            }
            Order::Unlisten(addr) => listening.retain(|(other, _)| *other != addr),
            Order::StopListening => listening.clear(),
        }
    }
}

async fn accept_until(
    proxy: Arc<Proxy>,
    listener: AsyncFd<TcpListener>,
    stopped: oneshot::Receiver<()>,
) {
    tokio::select! {
        biased;
        _ = stopped => {}
        () = accept(&proxy, &listener) => {}
    }
    // Closing the socket resets the connections that wait to be accepted.
    loop {
        match accept_one(&proxy, listener.get_ref()) {
            Err(error) if !is_the_clients(&error) => return,
            _ => {}
        }
    }
}

/// Accepts for ever.
async fn accept(proxy: &Arc<Proxy>, listener: &AsyncFd<TcpListener>) {
    loop {
        // Fails only at the end of the runtime, which ends this task too.
        let Ok(mut ready) = listener.readable().await else {
            return;
        };
        for _ in 0..AT_A_TIME {
            match accept_one(proxy, listener.get_ref()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    break;
                }
                Err(error) if is_the_clients(&error) => {
                    debug!(%error, "a client left before accept");
                }
                Err(error) => {
                    // Out of descriptors or memory: trying again at once would only burn the CPU.
                    if let Some(times) = proxy.unaccepted.happens(Instant::now()) {
                        warn!(%error, times, "cannot accept; trying again (raise LimitNOFILE if this stays)");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        yield_now().await;
    }
}

/// Takes one connection that waits, and serves it.
fn accept_one(proxy: &Arc<Proxy>, listener: &TcpListener) -> io::Result<()> {
    let (client, peer) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
    let peer = SocketAddr::try_from(peer)?;
    let client = TcpStream::from(client).into();
    tokio::spawn(serve(Arc::clone(proxy), client, peer, None));
    Ok(())
}

/// Errors of accept(2) that concern one connection, not the listening socket.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections taken before those that were taken are served.
const AT_A_TIME: usize = 32;
