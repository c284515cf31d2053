//! New connections, one after the other on each of `--streams` places, or at a fixed rate: connect,
//! hello, the first bytes of the endpoint, close.

use std::io;
use std::time::Instant;

use anyhow::Result;
use rustix::net::sockopt::{set_tcp_nodelay, socket_error};
use serde_json::Value;

use super::schedule::Schedule;
use super::{Client, Close, TICK};
use crate::channel::Channel;
use crate::measure::{Meter, PATIENCE};
use crate::order::Order;
use crate::pattern::Cursor;
use crate::poll::{self, Read, Ready};

/// Does it until the time is over; counts time until the first byte of the endpoint.
pub fn run(client: &mut Client<'_>) -> Result<Value> {
    let mut places: Vec<Option<Place>> = Vec::new();
    places.resize_with(client.args.streams as usize, || None);
    let mut free: Vec<_> = (0..places.len()).rev().collect();
    let mut meter = client.meter()?;
    let mut schedule = Schedule::new(client.args.rate, Instant::now());
    let mut next_sweep = Instant::now() + PATIENCE / 10;
    loop {
        let now = Instant::now();
        if !meter.goes_on(now)? {
            return meter.report();
        }
        if now >= next_sweep {
            next_sweep = now + PATIENCE / 10;
            for (number, place) in places.iter_mut().enumerate() {
                if place.as_ref().is_some_and(|it| now - it.began > PATIENCE) {
                    meter.errors.slow += 1;
                    *place = None;
                    free.push(number);
                }
            }
        }
        while let Some(&number) = free.last()
            && let Some(began) = schedule.take(Instant::now())
        {
            places[number] = Some(start(client, number, began)?);
            free.pop();
        }
        let pause = schedule.pause(now).filter(|_| !free.is_empty());
        for event in 0..client.poll.wait(pause.unwrap_or(TICK).min(TICK))? {
            let (number, ready) = client.poll.ready(event);
            // It may be one that was too slow, and has been closed.
            let Some(place) = &mut places[number] else {
                continue;
            };
            if place.go_on(client, ready, &mut meter) {
                let next = schedule.take(Instant::now());
                if next.is_none() {
                    free.push(number);
                }
                // What it held is closed only now that it is replaced.
                places[number] = next.map(|began| start(client, number, began)).transpose()?;
            }
        }
    }
}

/// A connection on its way.
struct Place {
    channel: Channel,
    /// Of the connection.
    number: u64,
    /// Or should have.
    began: Instant,
    is_greeted: bool,
    received: usize,
    down: Cursor,
}

fn start(client: &mut Client<'_>, place: usize, began: Instant) -> Result<Place> {
    let number = client.number;
    client.number += 1;
    let socket = poll::connect(client.target(number))?;
    set_tcp_nodelay(&socket, true)?;
    // Edges, so that one registration tells of both the connection and the answer.
    let flags = Ready::IN | Ready::OUT | Ready::ET;
    client.poll.add(&socket, place, flags)?;
    Ok(Place {
        channel: client.channel(socket.into(), number)?,
        number,
        began,
        is_greeted: false,
        received: 0,
        down: Cursor::down(number),
    })
}

impl Place {
    /// Does what can be done; whether the connection is over, well or not.
    fn go_on(&mut self, client: &mut Client<'_>, ready: Ready, meter: &mut Meter) -> bool {
        let result = match self.is_greeted {
            false => self.greet(client, ready),
            true => self.receive(client, meter),
        };
        let errors = &mut meter.errors;
        match result {
            Ok(Step::Wait) => return false,
            Ok(Step::Done) => {
                let closed = match client.args.close {
                    Close::Fin => self.channel.finish(),
                    Close::Rst => poll::reset_on_close(&self.channel),
                };
                errors.lost += u64::from(closed.is_err());
            }
            Ok(Step::Corrupt) => errors.corrupt += 1,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => errors.corrupt += 1,
            Err(_) if self.received == 0 => errors.refused += 1,
            Err(_) => errors.lost += 1,
        }
        true
    }

    fn greet(&mut self, client: &mut Client<'_>, ready: Ready) -> io::Result<Step> {
        if ready.intersects(Ready::ERR | Ready::HUP) {
            socket_error(&self.channel)??;
        }
        if ready.contains(Ready::OUT) {
            let order = Order::Answer(client.args.size);
            let hello = client.template.fill(order, self.number);
            if self.channel.write(hello)? < hello.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.is_greeted = true;
        }
        Ok(Step::Wait)
    }

    fn receive(&mut self, client: &mut Client<'_>, meter: &mut Meter) -> io::Result<Step> {
        let size = client.args.size as usize;
        // To the last byte, or until there is nothing: the next edge comes only after that.
        while self.received < size {
            match self.channel.read(&mut client.buffer)? {
                Read::Nothing => return Ok(Step::Wait),
                Read::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                // RFC 8446, 6: the router wants none of it.
                Read::Bytes([ALERT, 3, _, 0, 2, _, _]) if self.received == 0 => {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                Read::Bytes(bytes) => {
                    if self.received == 0 {
                        meter.did(self.began.elapsed());
                    }
                    self.received += bytes.len();
                    if !self.down.check(&client.table, bytes) || self.received > size {
                        return Ok(Step::Corrupt);
                    }
                }
            }
        }
        Ok(Step::Done)
    }
}

/// The type of a TLS record.
const ALERT: u8 = 21;

enum Step {
    Wait,
    Done,
    Corrupt,
}
