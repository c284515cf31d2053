//! The client: one kind of load for a given time.

mod bulk;
mod connect;
mod exchange;
mod idle;
mod schedule;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde_json::Value;

use crate::channel::{Buffer, Channel};
use crate::measure::{Meter, PATIENCE};
use crate::order::{self, Order, Template};
use crate::pattern::{Cursor, Table};
use crate::poll::{Poll, Ready};
use crate::tls;

/// What `load` takes.
#[derive(clap::Args)]
pub struct Args {
    /// What to do
    #[arg(value_enum)]
    kind: Kind,

    /// What to connect to (repeatable: connections take turns)
    #[arg(long, required = true, value_name = "IP:PORT")]
    to: Vec<SocketAddr>,

    /// How many connections there are at any time; with --rate, at most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    streams: u32,

    /// How many connections `connect` begins a second, whether or not others have ended; without it,
    /// as fast as places become free
    #[arg(long, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,

    /// Bytes of an answer
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    size: u32,

    /// How `connect` ends connections
    #[arg(long, value_enum, default_value_t = Close::Fin)]
    close: Close,

    /// How many hosts the connections name
    #[arg(long, default_value_t = 1)]
    hosts: u64,

    /// The number of the first of them
    #[arg(long, default_value_t = 0)]
    first_host: u64,

    /// Check a sixteenth of what `down` and `up` move, and have the kernel drop the rest: both ends take less of the CPU,
    /// and the way between a larger part
    #[arg(long, conflicts_with = "tls")]
    sampled: bool,

    /// Milliseconds before the measuring begins
    #[arg(long, default_value_t = 300, value_name = "MS")]
    warm_up: u64,

    /// Milliseconds that are measured
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    measure: u64,

    /// Process id of the endpoint, to tell its share of CPU time
    #[arg(long, value_name = "PID")]
    endpoint: Option<u32>,

    /// Speak TLS, with what `certificate` has put here
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Receive as much as comes
    Down,
    /// Send as much as is taken
    Up,
    /// Connect, get an answer, close, again
    Connect,
    /// Send and get back, again and again
    Exchange,
    /// Hold connections until a line is read from standard input
    Idle,
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Close {
    /// By FIN
    Fin,
    /// By RST
    Rst,
}

/// Loads, and prints what was measured.
pub fn load(args: &Args) -> Result<()> {
    println!("{}", measure(args)?);
    Ok(())
}

fn measure(args: &Args) -> Result<Value> {
    let mut client = Client::new(args)?;
    let measured = match args.kind {
        Kind::Down => bulk::down(&mut client),
        Kind::Up => bulk::up(&mut client),
        Kind::Connect => connect::run(&mut client),
        Kind::Exchange => exchange::run(&mut client),
        Kind::Idle => idle::run(&mut client),
    };
    measured.or_else(|error| match is_garbled(&error) {
        true => Ok(broken(&error)),
        false => Err(error),
    })
}

/// What every load works with.
struct Client<'a> {
    args: &'a Args,
    poll: Poll,
    table: Table,
    buffer: Buffer,
    template: Template,
    tls: Option<tls::Client>,
    /// Of the next connection.
    number: u64,
}

impl<'a> Client<'a> {
    fn new(args: &'a Args) -> Result<Self> {
        Ok(Self {
            args,
            poll: Poll::new()?,
            table: Table::new(),
            buffer: Buffer::new(),
            template: Template::new(args.first_host..args.first_host.saturating_add(args.hosts))?,
            tls: args.tls.as_deref().map(tls::Client::new).transpose()?,
            number: 0,
        })
    }

    /// A meter whose warm-up begins now.
    fn meter(&self) -> Result<Meter> {
        Meter::start(
            Duration::from_millis(self.args.warm_up),
            Duration::from_millis(self.args.measure),
            self.args.endpoint,
        )
    }

    /// Where the connection with this number goes.
    fn target(&self, number: u64) -> SocketAddr {
        self.args.to[(number % self.args.to.len() as u64) as usize]
    }

    /// Opens all connections, one after the other, and sends their hellos.
    fn open_all(&mut self, order: Order) -> Result<Vec<Stream>> {
        let streams = 0..self.args.streams;
        streams.map(|_| self.open(order)).collect()
    }

    fn open(&mut self, order: Order) -> Result<Stream> {
        let number = self.number;
        self.number += 1;
        let to = self.target(number);
        let mut open = || {
            let socket = TcpStream::connect_timeout(&to, PATIENCE)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let mut channel = self.channel(socket, number)?;
            channel.write_all(self.template.fill(order, number))?;
            Ok::<_, anyhow::Error>(channel)
        };
        Ok(Stream {
            channel: open().with_context(|| format!("connection {number} to {to}"))?,
            up: Cursor::up(number),
            down: Cursor::down(number),
        })
    }

    /// What the connection with this number speaks.
    fn channel(&self, socket: TcpStream, number: u64) -> Result<Channel> {
        let host = || order::host(self.template.host_of(number));
        let tls = self.tls.as_ref().map(|tls| tls.connection(host()));
        Ok(Channel::new(socket, tls.transpose()?))
    }

    /// Watches connections, each by its index, from now on without blocking.
    fn watch(&self, streams: &[Stream], flags: Ready) -> Result<()> {
        for (index, stream) in streams.iter().enumerate() {
            stream.channel.socket.set_nonblocking(true)?;
            self.poll.add(stream, index, flags)?;
        }
        Ok(())
    }
}

/// An established connection.
struct Stream {
    channel: Channel,
    up: Cursor,
    down: Cursor,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Stream {
    /// Checks the next bytes of the endpoint.
    fn check(&mut self, table: &Table, bytes: &[u8]) -> Result<()> {
        ensure!(self.down.check(table, bytes), WRONG_BYTES);
        Ok(())
    }
}

/// A report of nothing but this error, for loads that cannot go on after one.
fn broken(error: &anyhow::Error) -> Value {
    let is_corrupt = error.root_cause().to_string() == WRONG_BYTES || is_garbled(error);
    serde_json::json!({
        "errors": 1,
        "corrupt": u64::from(is_corrupt),
        "error": format!("{error:#}"),
    })
}

/// Whether TLS has found bytes that are not those that were sent.
fn is_garbled(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// How often loads look whether their time is over, at least.
const TICK: Duration = Duration::from_millis(50);
const WRONG_BYTES: &str = "wrong bytes from the endpoint";

#[cfg(test)]
mod tests;
