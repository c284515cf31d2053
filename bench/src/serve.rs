//! The endpoint: does what the hello asks for, and checks every byte of the client.
//!
//! A connection that is not as it must be is reset and told of on standard error; the client,
//! which waits for an answer, counts the error.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, accept_with, bind, getsockname, listen, sockopt};

use crate::channel::{Buffer, Channel};
use crate::order::{self, Order};
use crate::pattern::{CHUNK, Cursor, Sampling, Table};
use crate::poll::{self, Dropped, Poll, Read, Ready};
use crate::tls;

/// What `serve` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Where to listen (repeatable)
    #[arg(long, required = true, value_name = "IP:PORT")]
    listen: Vec<SocketAddr>,

    /// Speak TLS, with what `certificate` has put here
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
}

/// Serves until the process is ended.
pub fn serve(args: &Args) -> Result<()> {
    let tls = args.tls.as_deref().map(tls::Server::new);
    let mut server = Server::new(tls.transpose()?)?;
    for at in &args.listen {
        let listening = server.listen(*at);
        listening.with_context(|| format!("listen on {at}"))?;
    }
    server.run()
}

/// The endpoint.
pub struct Server {
    poll: Poll,
    /// They have the first numbers of `poll`.
    listeners: Vec<OwnedFd>,
    connections: Vec<Option<Connection>>,
    /// Empty slots of `connections`.
    free: Vec<usize>,
    table: Table,
    buffer: Buffer,
    tls: Option<tls::Server>,
}

impl Server {
    /// One that listens nowhere yet.
    pub fn new(tls: Option<tls::Server>) -> Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            listeners: Vec::new(),
            connections: Vec::new(),
            free: Vec::new(),
            table: Table::new(),
            buffer: Buffer::new(),
            tls,
        })
    }

    /// Serves; returns only after an error.
    pub fn run(&mut self) -> Result<()> {
        loop {
            let count = self.poll.wait(Duration::from_secs(3600))?;
            for index in 0..count {
                let (number, ready) = self.poll.ready(index);
                match number.checked_sub(self.listeners.len()) {
                    None => self.accept(number)?,
                    Some(slot) => self.go_on(slot, ready),
                }
            }
        }
    }

    /// Listens at an address; says which, where the port is 0. Before any connection: the first
    /// numbers are the listeners'.
    pub fn listen(&mut self, at: SocketAddr) -> Result<SocketAddr> {
        let socket = poll::tcp(match at {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        })?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        // Accepted sockets inherit it.
        sockopt::set_tcp_nodelay(&socket, true)?;
        bind(&socket, &at)?;
        listen(&socket, BACKLOG)?;
        self.poll.add(&socket, self.listeners.len(), Ready::IN)?;
        let at = getsockname(&socket)?.try_into()?;
        self.listeners.push(socket);
        Ok(at)
    }

    /// Accepts what waits, a bounded number at once so that connections get their turn.
    fn accept(&mut self, listener: usize) -> Result<()> {
        for _ in 0..ACCEPTS {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match accept_with(&self.listeners[listener], flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                // The client was faster to give up.
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error).context("accept"),
            };
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let number = self.listeners.len() + slot;
            self.poll.add(&socket, number, Ready::IN)?;
            let tls = self.tls.as_ref().map(tls::Server::connection);
            let channel = Channel::new(socket.into(), tls.transpose()?);
            self.connections[slot] = Some(Connection::new(channel, number));
        }
        Ok(())
    }

    fn go_on(&mut self, slot: usize, ready: Ready) {
        let Some(connection) = &mut self.connections[slot] else {
            return;
        };
        let tools = Tools {
            poll: &self.poll,
            table: &self.table,
            buffer: &mut self.buffer,
        };
        let ended = match connection.go_on(ready, tools) {
            Ok(ended) => ended,
            Err(error) => {
                let is_end = error.downcast_ref::<std::io::Error>().is_some_and(is_end);
                if !is_end {
                    eprintln!("sni-router-bench: serve: {error:#}");
                }
                if let Some(connection) = self.connections[slot].take() {
                    // It may be gone already.
                    let _ = poll::reset_on_close(&connection.channel);
                }
                true
            }
        };
        if ended {
            self.connections[slot] = None;
            self.free.push(slot);
        }
    }
}

/// Whether an error is a way in which clients end connections.
fn is_end(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
    )
}

/// What a connection works with.
struct Tools<'a> {
    poll: &'a Poll,
    table: &'a Table,
    buffer: &'a mut Buffer,
}

struct Connection {
    channel: Channel,
    /// In the poll.
    number: usize,
    /// The hello so far; empty once it has been read.
    hello: Vec<u8>,
    order: Option<Order>,
    up: Cursor,
    down: Cursor,
    sampling: Sampling,
    /// Bytes of the client so far, behind the hello.
    received: u64,
    /// Bytes that it is owed.
    owed: u64,
    /// Whether it waits for room to write.
    is_stalled: bool,
}

impl Connection {
    fn new(channel: Channel, number: usize) -> Self {
        Self {
            channel,
            number,
            hello: Vec::new(),
            order: None,
            up: Cursor::up(0),
            down: Cursor::down(0),
            sampling: Sampling::new(false),
            received: 0,
            owed: 0,
            is_stalled: false,
        }
    }

    /// Does what can be done; whether it has ended.
    fn go_on(&mut self, ready: Ready, tools: Tools<'_>) -> Result<bool> {
        let Tools {
            poll,
            table,
            buffer,
        } = tools;
        if ready.contains(Ready::OUT) || ready.contains(Ready::ERR) {
            self.pay(poll, table)?;
        }
        if !ready.intersects(Ready::IN | Ready::HUP | Ready::ERR) {
            return Ok(false);
        }
        // Level-triggered: what is left is told again.
        if !self.sampling.looks() {
            return match self.channel.drop(buffer)? {
                Dropped::Nothing => Ok(false),
                Dropped::Bytes(count) => {
                    self.up.advance(count);
                    self.count(count)?;
                    Ok(false)
                }
                Dropped::End => self.end(),
            };
        }
        match self.channel.read(buffer)? {
            Read::Nothing => {
                if self.channel.is_stalled() {
                    self.watch(poll, true)?;
                }
                Ok(false)
            }
            Read::Bytes(bytes) => {
                self.take(bytes, table)?;
                self.pay(poll, table)?;
                Ok(false)
            }
            Read::End => self.end(),
        }
    }

    fn take(&mut self, mut bytes: &[u8], table: &Table) -> Result<()> {
        if self.order.is_none() {
            let before = self.hello.len();
            self.hello.extend_from_slice(bytes);
            let Some(length) = order::length(&self.hello).filter(|n| *n <= self.hello.len()) else {
                return Ok(());
            };
            let (order, number) = order::read(&self.hello[..length])?;
            (self.up, self.down) = (Cursor::up(number), Cursor::down(number));
            self.order = Some(order);
            self.owed = match order {
                Order::Answer(size) => u64::from(size),
                Order::Down => u64::MAX,
                Order::Up | Order::UpSampled | Order::Echo(_) => 0,
            };
            if matches!(order, Order::Up | Order::UpSampled) {
                self.acknowledge(0)?;
            }
            self.sampling = Sampling::new(order == Order::UpSampled);
            self.hello = Vec::new();
            bytes = &bytes[length - before..];
        }
        if !self.up.check(table, bytes) {
            bail!(
                "wrong bytes from the client, somewhere after {}",
                self.received
            );
        }
        self.count(bytes.len())
    }

    /// So many bytes have come.
    fn count(&mut self, bytes: usize) -> Result<()> {
        let before = self.received;
        self.received += bytes as u64;
        match self.order {
            Some(Order::Echo(size)) => {
                let size = u64::from(size.max(1));
                self.owed += (self.received / size - before / size) * size;
            }
            Some(Order::Up | Order::UpSampled) => {
                let units = self.received / order::UNIT;
                if units > before / order::UNIT {
                    self.acknowledge(units * order::UNIT)?;
                }
            }
            Some(Order::Answer(_) | Order::Down) if bytes > 0 => {
                bail!("{bytes} bytes from a client that has none to send");
            }
            _ => {}
        }
        Ok(())
    }

    /// Says that so many bytes have come.
    fn acknowledge(&mut self, bytes: u64) -> Result<()> {
        let receipt: order::Receipt = bytes.to_le_bytes();
        // The client reads them as they come: there is room.
        self.channel.write(&receipt)?;
        Ok(())
    }

    /// Sends what is owed, as far as there is room.
    fn pay(&mut self, poll: &Poll, table: &Table) -> Result<()> {
        self.channel.flush()?;
        while self.owed > 0 {
            let len = usize::try_from(self.owed).unwrap_or(CHUNK);
            let bytes = self.down.bytes(table, len);
            let (offered, sent) = (bytes.len(), self.channel.write(bytes)?);
            self.down.advance(sent);
            if self.owed != u64::MAX {
                self.owed -= sent as u64;
            }
            // Others are to have their turn: an endless stream writes once an event.
            if sent < offered || self.owed == u64::MAX {
                return self.watch(poll, true);
            }
        }
        self.watch(poll, self.channel.is_stalled())
    }

    fn watch(&mut self, poll: &Poll, is_stalled: bool) -> Result<()> {
        if is_stalled != self.is_stalled {
            self.is_stalled = is_stalled;
            let flags = match is_stalled {
                true => Ready::IN | Ready::OUT,
                false => Ready::IN,
            };
            poll.modify(&self.channel, self.number, flags)?;
        }
        Ok(())
    }

    /// The client's FIN.
    fn end(&mut self) -> Result<bool> {
        // Without a byte of it, it is a client that had no time left to greet.
        if !self.hello.is_empty() {
            bail!("the client has ended in its hello");
        }
        Ok(true)
    }
}

/// Longer queues than the kernel allows are cut (net.core.somaxconn).
const BACKLOG: i32 = 65_535;
const ACCEPTS: usize = 64;
