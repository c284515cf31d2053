//! The way to an API server, which can be cut and blocked.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::town::Town;

/// A relay in front of a town's API server, in the same namespace.
pub struct Gate {
    addr: SocketAddr,
    way: Arc<Way>,
}

#[derive(Default)]
struct Way {
    is_blocked: AtomicBool,
    is_over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Gate {
    /// Opens one.
    #[track_caller]
    pub fn open(town: &Town) -> Self {
        let to = town.control.url();
        let to: SocketAddr = to
            .trim_start_matches("https://")
            .parse()
            .expect("its address");
        let way = Arc::new(Way::default());
        let relayed = Arc::clone(&way);
        // A thread is in the namespace of the one that starts it.
        let addr = town.lab.net.router.run(move || {
            let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a port");
            let addr = listener.local_addr().expect("its address");
            thread::spawn(move || relay_all(&listener, to, &relayed));
            addr
        });
        Self { addr, way }
    }

    /// The administrator's kubeconfig for the way through here.
    #[track_caller]
    pub fn kubeconfig(&self, town: &Town) -> PathBuf {
        let direct = std::fs::read_to_string(town.control.kubeconfig()).expect("a kubeconfig");
        let url = format!("https://{}", self.addr);
        let text = direct.replace(&town.control.url(), &url);
        assert!(text.contains(&url), "{direct}");
        let path = town.lab.dir().join("gate.kubeconfig");
        std::fs::write(&path, text).expect("write a kubeconfig");
        path
    }

    /// Ends all connections, and tells how many that were; new ones get through.
    pub fn cut(&self) -> usize {
        let streams = std::mem::take(&mut *self.way.streams());
        // Of either end of each. It fails on one that has ended by itself.
        let ended = streams
            .iter()
            .filter(|stream| stream.shutdown(Shutdown::Both).is_ok());
        ended.count() / 2
    }

    /// From now on nothing gets through, and nobody is told; or no longer so.
    pub fn block(&self, is_blocked: bool) {
        self.way.is_blocked.store(is_blocked, Ordering::Relaxed);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.way.is_over.store(true, Ordering::Relaxed);
        self.block(false);
        self.cut();
    }
}

impl Way {
    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_open(&self) {
        while self.is_blocked.load(Ordering::Relaxed) {
            thread::sleep(MOMENT);
        }
    }
}

fn relay_all(listener: &TcpListener, to: SocketAddr, way: &Arc<Way>) {
    listener.set_nonblocking(true).expect("a socket");
    while !way.is_over.load(Ordering::Relaxed) {
        let Ok((from, _)) = listener.accept() else {
            thread::sleep(MOMENT);
            continue;
        };
        way.wait_open();
        let Ok(to) = TcpStream::connect(to) else {
            continue;
        };
        from.set_nonblocking(false).expect("a socket");
        let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
        way.streams().extend([copy(&from), copy(&to)]);
        for (from, to) in [(copy(&from), copy(&to)), (to, from)] {
            let way = Arc::clone(way);
            thread::spawn(move || relay(&from, &to, &way));
        }
    }
}

/// Passes bytes on one way until either side ends.
fn relay(mut from: &TcpStream, mut to: &TcpStream, way: &Way) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        way.wait_open();
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

const MOMENT: Duration = Duration::from_millis(10);
