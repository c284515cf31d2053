//! Long streams in one direction.

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Client, Stream, TICK, WRONG_BYTES, broken};
use crate::channel::Buffer;
use crate::measure::{Meter, PATIENCE};
use crate::order::{Order, Receipt, UNIT};
use crate::pattern::{CHUNK, Sampling, Table};
use crate::poll::{Dropped, Read, Ready};

/// From the endpoint to the client: counts what has been received, and checked unless only samples are.
pub fn down(client: &mut Client<'_>) -> Result<Value> {
    let mut streams = client.open_all(Order::Down)?;
    client.watch(&streams, Ready::IN)?;
    let mut samplings = vec![Sampling::new(client.args.sampled); streams.len()];
    let mut meter = client.meter()?;
    let mut last = vec![Instant::now(); streams.len()];
    let result = pump(client, &mut meter, |client, index, _| {
        let stream = &mut streams[index];
        last[index] = Instant::now();
        if !samplings[index].looks() {
            return match stream.channel.drop(&mut client.buffer)? {
                Dropped::Nothing => Ok(0),
                Dropped::Bytes(count) => {
                    stream.down.advance(count);
                    Ok(count)
                }
                Dropped::End => bail!(ENDED),
            };
        }
        match stream.channel.read(&mut client.buffer)? {
            Read::Nothing => Ok(0),
            Read::Bytes(bytes) => {
                let len = bytes.len();
                stream.check(&client.table, bytes).map(|()| len)
            }
            Read::End => bail!(ENDED),
        }
    });
    conclude(meter, result.and_then(|()| all_moved(&last)))
}

/// From the client to the endpoint: counts what has been sent, and in the end makes sure that the
/// endpoint has received all of it, and checked it unless only samples are.
pub fn up(client: &mut Client<'_>) -> Result<Value> {
    let mut streams = client.open_all(match client.args.sampled {
        true => Order::UpSampled,
        false => Order::Up,
    })?;
    // In TLS nobody sends before the endpoint has answered the hello.
    for stream in &mut streams {
        let mut receipt = Receipt::default();
        let received = stream.channel.read_exact(&mut receipt);
        let checked = received.map_err(Into::into).and_then(|()| {
            ensure!(receipt == NOTHING_YET, WRONG_BYTES);
            Ok(())
        });
        if let Err(error) = checked {
            return Ok(broken(&error));
        }
    }
    client.watch(&streams, Ready::IN | Ready::OUT)?;
    let mut streams: Vec<_> = streams.into_iter().map(Upload::new).collect();
    let mut meter = client.meter()?;
    let result = pump(client, &mut meter, |client, index, ready| {
        let stream = &mut streams[index];
        if ready.intersects(Ready::IN | Ready::ERR | Ready::HUP) {
            stream.read_receipts(&mut client.buffer)?;
        }
        stream.send(&client.table, CHUNK)
    });
    let result = result.and_then(|()| {
        let all = streams.iter().map(|upload| upload.last);
        all_moved(&all.collect::<Vec<_>>())?;
        settle(client, &mut streams)
    });
    conclude(meter, result)
}

const ENDED: &str = "the endpoint's stream has ended";

/// The answer to the hello.
const NOTHING_YET: Receipt = [0; 8];

/// A stream to the endpoint.
struct Upload {
    stream: Stream,
    sent: u64,
    /// What the endpoint says that it has got.
    received: u64,
    /// The beginning of a receipt.
    receipt: Vec<u8>,
    last: Instant,
}

impl Upload {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            sent: 0,
            received: 0,
            receipt: Vec::new(),
            last: Instant::now(),
        }
    }

    /// Sends what fits, at most so much.
    fn send(&mut self, table: &Table, len: usize) -> Result<usize> {
        let bytes = self.stream.up.bytes(table, len);
        let sent = self.stream.channel.write(bytes)?;
        self.stream.up.advance(sent);
        self.sent += sent as u64;
        self.last = Instant::now();
        Ok(sent)
    }

    fn read_receipts(&mut self, buffer: &mut Buffer) -> Result<()> {
        match self.stream.channel.read(buffer)? {
            Read::Nothing => return Ok(()),
            Read::Bytes(bytes) => self.receipt.extend_from_slice(bytes),
            Read::End => bail!("the endpoint has closed the stream"),
        }
        let whole = self.receipt.len() / size_of::<Receipt>() * size_of::<Receipt>();
        if let Some(last) = self.receipt[..whole].last_chunk() {
            self.received = u64::from_le_bytes(*last);
        }
        self.receipt.drain(..whole);
        Ok(())
    }
}

/// Sends the rest of each last unit, and waits until the endpoint says that it has got it all.
fn settle(client: &mut Client<'_>, streams: &mut [Upload]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let is_whole = |upload: &Upload| upload.sent.is_multiple_of(UNIT);
    while streams
        .iter()
        .any(|it| !is_whole(it) || it.received < it.sent)
    {
        ensure!(
            Instant::now() < deadline,
            "the endpoint does not say that it has received everything"
        );
        for event in 0..client.poll.wait(TICK)? {
            let (index, _) = client.poll.ready(event);
            let upload = &mut streams[index];
            upload.read_receipts(&mut client.buffer)?;
            let left = usize::try_from(UNIT - upload.sent % UNIT)?;
            if !is_whole(upload) {
                upload.send(&client.table, left.min(CHUNK))?;
                continue;
            }
            upload.stream.channel.flush()?;
            if !upload.stream.channel.is_stalled() {
                // Nothing more to send: to be told of room would only keep this loop busy.
                client.poll.modify(&upload.stream, index, Ready::IN)?;
            }
        }
    }
    let wrong = streams.iter().find(|upload| upload.received != upload.sent);
    ensure!(
        wrong.is_none(),
        "the endpoint has received more than was sent"
    );
    Ok(())
}

/// Lets every stream that is ready move bytes until the time is over.
fn pump<'a>(
    client: &mut Client<'a>,
    meter: &mut Meter,
    mut step: impl FnMut(&mut Client<'a>, usize, Ready) -> Result<usize>,
) -> Result<()> {
    while meter.goes_on(Instant::now())? {
        for ready in 0..client.poll.wait(TICK)? {
            let (index, ready) = client.poll.ready(ready);
            let moved = step(client, index, ready).with_context(|| format!("stream {index}"))?;
            meter.moved(moved);
        }
    }
    Ok(())
}

/// A stream that stands still while others run is an error, too.
fn all_moved(last: &[Instant]) -> Result<()> {
    let stalled = last.iter().filter(|at| at.elapsed() > PATIENCE).count();
    ensure!(stalled == 0, "{stalled} streams stood still");
    Ok(())
}

fn conclude(meter: Meter, result: Result<()>) -> Result<Value> {
    match result {
        Ok(()) => meter.report(),
        Err(error) => Ok(broken(&error)),
    }
}
