//! Requests and responses of one size on established connections, one at a time on each.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Client, Stream, TICK, broken};
use crate::measure::{Meter, PATIENCE};
use crate::order::Order;
use crate::poll::{Read, Ready};

/// Does it until the time is over; counts time from the first byte sent to the last received.
pub fn run(client: &mut Client<'_>) -> Result<Value> {
    let size = client.args.size as usize;
    let streams = client.open_all(Order::Echo(client.args.size))?;
    client.watch(&streams, Ready::IN)?;
    let mut talks: Vec<_> = streams.into_iter().map(Talk::new).collect();
    let mut meter = client.meter()?;
    match exchange(client, &mut talks, size, &mut meter) {
        Ok(()) => meter.report(),
        Err(error) => Ok(broken(&error)),
    }
}

fn exchange(
    client: &mut Client<'_>,
    talks: &mut [Talk],
    size: usize,
    meter: &mut Meter,
) -> Result<()> {
    for (index, talk) in talks.iter_mut().enumerate() {
        talk.ask(client, index, size)?;
    }
    while meter.goes_on(Instant::now())? {
        for event in 0..client.poll.wait(TICK)? {
            let (index, _) = client.poll.ready(event);
            let talk = &mut talks[index];
            let step = talk.go_on(client, index, size, meter);
            step.with_context(|| format!("connection {index}"))?;
        }
    }
    let slow = talks.iter().filter(|talk| talk.began.elapsed() > PATIENCE);
    meter.errors.slow += slow.count() as u64;
    Ok(())
}

/// A connection in the middle of an exchange.
struct Talk {
    stream: Stream,
    began: Instant,
    to_send: usize,
    to_receive: usize,
    is_stalled: bool,
}

impl Talk {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            began: Instant::now(),
            to_send: 0,
            to_receive: 0,
            is_stalled: false,
        }
    }

    /// Begins the next exchange.
    fn ask(&mut self, client: &Client<'_>, index: usize, size: usize) -> Result<()> {
        self.began = Instant::now();
        (self.to_send, self.to_receive) = (size, size);
        self.send(client, index)
    }

    fn send(&mut self, client: &Client<'_>, index: usize) -> Result<()> {
        let mut is_stalled = false;
        self.stream.channel.flush()?;
        while self.to_send > 0 && !is_stalled {
            let bytes = self.stream.up.bytes(&client.table, self.to_send);
            let sent = self.stream.channel.write(bytes)?;
            is_stalled = sent < bytes.len();
            self.stream.up.advance(sent);
            self.to_send -= sent;
        }
        is_stalled |= self.stream.channel.is_stalled();
        if is_stalled != self.is_stalled {
            self.is_stalled = is_stalled;
            let flags = match is_stalled {
                true => Ready::IN | Ready::OUT,
                false => Ready::IN,
            };
            client.poll.modify(&self.stream, index, flags)?;
        }
        Ok(())
    }

    fn go_on(
        &mut self,
        client: &mut Client<'_>,
        index: usize,
        size: usize,
        meter: &mut Meter,
    ) -> Result<()> {
        if self.to_send > 0 || self.is_stalled {
            self.send(client, index)?;
        }
        match self.stream.channel.read(&mut client.buffer)? {
            Read::Nothing => return Ok(()),
            Read::End => bail!("the endpoint has closed it"),
            Read::Bytes(bytes) => {
                self.stream.check(&client.table, bytes)?;
                let left = self.to_receive.checked_sub(bytes.len());
                self.to_receive = left.context("more bytes than were asked for")?;
            }
        }
        if self.to_receive == 0 {
            meter.did(self.began.elapsed());
            meter.moved(2 * size);
            self.ask(client, index, size)?;
        }
        Ok(())
    }
}
