//! The `userspace` datapath: this process moves the bytes.
//!
//! Small pieces are copied through one buffer per worker thread; a direction that keeps filling
//! the buffer moves on to `splice(2)` through a pooled pipe. A connection that waits holds
//! neither. It works everywhere and never declines.

mod copy;
mod pipe;
mod splice;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::unconstrained;

use super::clock::limits_reached;
use crate::carry::{Datapath, Direction, End, Kind, Limits, Outcome, Pair, Refused, Traffic};
use crate::meter::Meter;
use crate::sys::sockopt::tcp_info;

/// See the module.
#[derive(Debug)]
pub struct Userspace {
    meter: Meter,
}

impl Userspace {
    /// A datapath that counts there what it moves.
    pub fn new(meter: Meter) -> Self {
        Self { meter }
    }
}

impl Datapath for Userspace {
    fn carry<'a>(
        &'a self,
        pair: Pair,
        limits: &'a Limits,
        traffic: &'a Traffic,
    ) -> Pin<Box<dyn Future<Output = Result<Outcome, Refused>> + Send + 'a>> {
        Box::pin(async move {
            let tally = Tally {
                traffic,
                meter: &self.meter,
            };
            let end = carry(pair, limits, &tally).await;
            Ok(Outcome::Over(end))
        })
    }

    fn kind(&self) -> Kind {
        Kind::Userspace
    }

    fn next(&self) -> Option<&dyn Datapath> {
        None
    }
}

/// Where bytes are counted: for the connection, and for all of them.
struct Tally<'a> {
    traffic: &'a Traffic,
    meter: &'a Meter,
}

impl Tally<'_> {
    fn add(&self, direction: Direction, bytes: u64) {
        self.traffic.add(direction, bytes);
        self.meter.add(Kind::Userspace, direction, bytes);
    }
}

async fn carry(pair: Pair, limits: &Limits, tally: &Tally<'_>) -> End {
    let Pair {
        client,
        endpoint,
        forwarded,
        unsent,
        mapped,
        hold: _hold,
    } = pair;
    let sides = match (client.registered(), endpoint.registered()) {
        (Ok(client), Ok(endpoint)) => Sides { client, endpoint },
        (client, endpoint) => {
            // What could not be registered is closed; the other one shall not look as if all was said.
            client.iter().chain(&endpoint).for_each(abort);
            drop((client, endpoint));
            return End::Failed;
        }
    };
    tally.add(Direction::Up, forwarded);
    let end = tokio::select! {
        end = both_ways(&sides, &unsent, mapped.is_some(), tally) => end,
        end = limits_reached(limits, tally.traffic, || progress(&sides, tally.traffic)) => end,
    };
    if end != End::Done {
        // The side that is still there shall learn that the stream was cut: RST, not FIN.
        abort(&sides.client);
        abort(&sides.endpoint);
    }
    // What is left of the pair must outlive the sockets.
    drop(sides);
    end
}

/// The two sockets of a connection, both of which are waited for.
struct Sides {
    client: TcpStream,
    endpoint: TcpStream,
}

/// Runs both directions until both have passed on a FIN, or one side is gone.
async fn both_ways(sides: &Sides, unsent: &[u8], copy_only: bool, tally: &Tally<'_>) -> End {
    let Sides { client, endpoint } = sides;
    let first = async {
        copy::write_all(endpoint, unsent).await?;
        tally.add(Direction::Up, unsent.len() as u64);
        Ok(())
    };
    let mut up = pin!(async {
        first.await?;
        one_way(client, endpoint, Direction::Up, copy_only, tally).await
    });
    let mut down = pin!(one_way(endpoint, client, Direction::Down, copy_only, tally));
    let (mut up_done, mut down_done) = (false, false);
    let end = loop {
        tokio::select! {
            result = &mut up, if !up_done => match result {
                Ok(()) => up_done = true,
                Err(Broken::Source) => return End::ClientReset,
                Err(Broken::Sink) => break End::EndpointReset,
            },
            result = &mut down, if !down_done => match result {
                Ok(()) => down_done = true,
                Err(Broken::Source) => return End::EndpointReset,
                Err(Broken::Sink) => break End::ClientReset,
            },
            // A side is not read from after its FIN, nor while the other one is slow.
            () = reset(client) => break End::ClientReset,
            () = reset(endpoint) => break End::EndpointReset,
        }
        if up_done && down_done {
            return End::Done;
        }
    };
    // What came before a RST is passed on before the RST is.
    match end {
        End::ClientReset if !up_done => once(up).await,
        End::EndpointReset if !down_done => once(down).await,
        _ => {}
    }
    end
}

/// Which side of a direction is gone.
enum Broken {
    Source,
    Sink,
}

/// Moves bytes until the source's FIN, and passes that on.
async fn one_way(
    source: &TcpStream,
    sink: &TcpStream,
    direction: Direction,
    copy_only: bool,
    tally: &Tally<'_>,
) -> Result<(), Broken> {
    loop {
        match copy::until_bulk(source, sink, direction, tally).await? {
            Pace::Changed if copy_only => continue,
            Pace::Changed => {}
            Pace::Finished => break,
        }
        match splice::until_slow(source, sink, direction, tally).await? {
            Pace::Changed => {}
            Pace::Finished => break,
        }
    }
    tally.traffic.finished(direction);
    SockRef::from(sink)
        .shutdown(std::net::Shutdown::Write)
        .map_err(|_| Broken::Sink)
}

/// Why a way of moving bytes stopped.
enum Pace {
    /// The other way suits this direction better now.
    Changed,
    /// The source has sent its FIN, and everything before it was written to the sink.
    Finished,
}

/// Waits until `stream` is writable; the answer to a full send queue.
async fn writable(stream: &TcpStream) -> Result<(), Broken> {
    stream
        .ready(Interest::WRITABLE)
        .await
        .map(drop)
        .map_err(|_| Broken::Sink)
}

/// Grows as long as anything moves, be it only out of a send queue to a slow peer.
fn progress(sides: &Sides, traffic: &Traffic) -> u64 {
    let acked = |socket| tcp_info(socket).map_or(0, |info| info.bytes_acked());
    traffic.up() + traffic.down() + acked(&sides.client) + acked(&sides.endpoint)
}

/// Has a direction move what it can at once.
async fn once(direction: Pin<&mut impl Future>) {
    // Whatever else has had its turn: what is there is finite.
    let mut direction = pin!(unconstrained(direction));
    poll_fn(|context| {
        let _ = direction.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}

/// Answers when the peer of `stream` has reset the connection.
async fn reset(stream: &TcpStream) {
    loop {
        match stream.ready(Interest::ERROR).await {
            Ok(ready) if !ready.is_error() => {}
            _ => return,
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn abort(stream: &TcpStream) {
    // Fails only on a socket that is already gone.
    let _ = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}
