//! Long streams in one direction.

use std::io::Read as _;
use std::net::Shutdown;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Client, Stream, TICK, broken};
use crate::measure::{Meter, PATIENCE};
use crate::order::{Order, Verdict};
use crate::pattern::CHUNK;
use crate::poll::{self, Read, Ready};

/// From the endpoint to the client: counts what has been received and checked.
pub fn down(client: &mut Client<'_>) -> Result<Value> {
    let mut streams = client.open_all(Order::Down)?;
    client.watch(&streams, Ready::IN)?;
    let mut meter = client.meter()?;
    let mut last = vec![Instant::now(); streams.len()];
    let result = pump(client, &mut meter, |client, index| {
        let stream = &mut streams[index];
        last[index] = Instant::now();
        match poll::read(&stream.socket, &mut client.buffer)? {
            Read::Nothing => Ok(0),
            Read::Bytes(bytes) => {
                let len = bytes.len();
                stream.check(&client.table, bytes).map(|()| len)
            }
            Read::End => bail!("the endpoint's stream has ended"),
        }
    });
    conclude(meter, result.and_then(|()| all_moved(&last)))
}

/// From the client to the endpoint: counts what has been sent, and in the end makes sure that the
/// endpoint has received and checked all of it.
pub fn up(client: &mut Client<'_>) -> Result<Value> {
    let mut streams = client.open_all(Order::Up)?;
    client.watch(&streams, Ready::OUT)?;
    let mut meter = client.meter()?;
    let mut sent = vec![0; streams.len()];
    let mut last = vec![Instant::now(); streams.len()];
    let result = pump(client, &mut meter, |client, index| {
        let stream = &mut streams[index];
        last[index] = Instant::now();
        let len = poll::write(&stream.socket, stream.up.bytes(&client.table, CHUNK))?;
        stream.up.advance(len);
        sent[index] += len as u64;
        Ok(len)
    });
    let result = result.and_then(|()| all_moved(&last));
    conclude(meter, result.and_then(|()| settle(&mut streams, &sent)))
}

/// Lets every stream that is ready move bytes until the time is over.
fn pump<'a>(
    client: &mut Client<'a>,
    meter: &mut Meter,
    mut step: impl FnMut(&mut Client<'a>, usize) -> Result<usize>,
) -> Result<()> {
    while meter.goes_on(Instant::now())? {
        for ready in 0..client.poll.wait(TICK)? {
            let (index, _) = client.poll.ready(ready);
            let moved = step(client, index).with_context(|| format!("stream {index}"))?;
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

/// Ends the streams and compares what the endpoint got with what was sent.
fn settle(streams: &mut [Stream], sent: &[u64]) -> Result<()> {
    for stream in &mut *streams {
        stream.socket.set_nonblocking(false)?;
        stream.socket.set_read_timeout(Some(PATIENCE))?;
        stream.socket.shutdown(Shutdown::Write)?;
    }
    for (stream, sent) in streams.iter_mut().zip(sent) {
        let mut verdict = Verdict::default();
        let read = stream.socket.read_exact(&mut verdict);
        read.context("the endpoint does not say what it has received")?;
        let received = u64::from_le_bytes(verdict);
        ensure!(
            received == *sent,
            "the endpoint has received {received} of {sent} bytes"
        );
    }
    Ok(())
}

fn conclude(meter: Meter, result: Result<()>) -> Result<Value> {
    match result {
        Ok(()) => meter.report(),
        Err(error) => Ok(broken(&error)),
    }
}
