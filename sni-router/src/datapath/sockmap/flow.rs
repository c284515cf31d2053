//! One direction of a carried connection: granting, copying what was passed up, and the FIN.
//!
//! ```text
//! Open ──FIN at source──▶ Draining ──every byte written to sink──▶ Finished (FIN passed on)
//! ```
//!
//! The invariant that ends a direction: what the source received equals what was read before the
//! hand-over, plus redirected, plus passed; and what the sink was given equals what was written
//! before, plus redirected, plus consumed. Until both hold, a byte is still in a queue between
//! the sockets, and a FIN would overtake it.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};

use super::side::Side;
use crate::datapath::bpf::StreamView;
use crate::sys::sockopt::data_ready;

/// See the module.
pub(super) struct Flow {
    state: State,
    /// Bytes read from the source that the sink has not taken yet.
    rest: Vec<u8>,
    /// When the program was told to write its next event.
    notify_at: u64,
    /// Bytes copied since they were last asked for.
    copied: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Draining,
    Finished,
}

/// When a direction must be looked at again. In this order of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// An event will tell.
    Waiting,
    /// Something is under way of which no event will tell.
    Busy,
    /// There is more to do now. The sooner a direction has caught up with what was passed up, the
    /// sooner the kernel moves its bytes again.
    Now,
}

/// A socket failed. Whose it is decides who is said to have reset the connection.
pub(super) enum Failed {
    Source,
    Sink,
    /// The kernel holds more than it should. Nothing but the end frees it.
    Overrun,
}

impl Flow {
    /// Prepares the stream of a source that is not in the map yet.
    pub(super) fn start(sink: &Side, stream: StreamView<'_>) -> io::Result<Self> {
        let limit = sink.send_room()?;
        let notify_at = limit / 2;
        stream.reset(limit, notify_at);
        Ok(Self {
            state: State::Open,
            rest: Vec::new(),
            notify_at,
            copied: 0,
        })
    }

    pub(super) fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Bytes that were copied since the last call.
    pub(super) fn take_copied(&mut self) -> u64 {
        std::mem::take(&mut self.copied)
    }

    /// The source has sent its FIN.
    pub(super) fn source_finished(&mut self) {
        if self.state == State::Open {
            self.state = State::Draining;
        }
    }

    /// Does what can be done now.
    pub(super) fn step(
        &mut self,
        source: &Side,
        sink: &Side,
        stream: StreamView<'_>,
    ) -> Result<Step, Failed> {
        if self.state == State::Finished {
            return Ok(Step::Waiting);
        }
        let mut step = Step::Waiting;
        if stream.passed() != stream.consumed() {
            step = self.copy(source, sink, stream)?;
        }
        if self.state == State::Draining {
            return Ok(step.max(self.drain(source, sink, stream)?));
        }
        if stream.redirected() >= self.notify_at && stream.passed() == stream.consumed() {
            self.grant(sink, stream)?;
        }
        Ok(step)
    }

    /// Raises the limit to what the sink's send buffer has room for.
    ///
    /// No further: what does not fit there would wait in the sink's backlog, which nothing accounts
    /// for, and in which bytes passed up to the sink's own reader would get stuck behind it. Where
    /// there is no room the limit stays, and the next bytes are passed up.
    fn grant(&mut self, sink: &Side, stream: StreamView<'_>) -> Result<(), Failed> {
        let written = sink.written_since().map_err(|_| Failed::Sink)?;
        let redirected = stream.redirected();
        let on_their_way = (redirected + stream.consumed()).saturating_sub(written);
        let room = sink.send_room().map_err(|_| Failed::Sink)?;
        let granted = room.saturating_sub(on_their_way);
        if granted >= LEAST_GRANT {
            self.notify_at = redirected + granted / 2;
            stream.grant(redirected + granted, self.notify_at);
        }
        Ok(())
    }

    /// Copies what was passed up, once everything redirected before it has been written.
    ///
    /// Up to what was passed at the start and no further: until all of that is consumed the program
    /// redirects nothing, so nothing of it can come after a redirected byte.
    fn copy(&mut self, source: &Side, sink: &Side, stream: StreamView<'_>) -> Result<Step, Failed> {
        let passed = stream.passed();
        let redirected = stream.redirected();
        if passed - stream.consumed() > MOST_PASSED {
            return Err(Failed::Overrun);
        }
        // What is written here fills the room that was granted.
        stream.grant(redirected, redirected);
        self.notify_at = redirected;
        let written = sink.written_since().map_err(|_| Failed::Sink)?;
        if written < redirected + stream.consumed() {
            return Ok(Step::Busy);
        }
        let upto = passed.min(stream.consumed() + COPIED_AT_ONCE);
        while stream.consumed() < upto {
            let most = upto - stream.consumed();
            if self.rest.is_empty() && !self.read(source, most)? {
                return Ok(Step::Busy);
            }
            let took = match (&sink.socket).write(&self.rest) {
                Ok(took) => took,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Busy),
                Err(_) => return Err(Failed::Sink),
            };
            self.rest.drain(..took);
            self.copied += took as u64;
            stream.consume(stream.consumed() + took as u64);
        }
        // Also when all is copied: an event that was to tell of more may have been written before
        // the program saw what we consumed.
        Ok(Step::Now)
    }

    /// Reads at most `most` bytes into the rest; false if nothing is there to read.
    fn read(&mut self, source: &Side, most: u64) -> Result<bool, Failed> {
        BUFFER.with_borrow_mut(|buffer| {
            let most = usize::try_from(most).map_or(buffer.len(), |most| most.min(buffer.len()));
            match (&source.socket).read(&mut buffer[..most]) {
                Ok(read) => {
                    self.rest.extend_from_slice(&buffer[..read]);
                    Ok(read > 0)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(_) => Err(Failed::Source),
            }
        })
    }

    /// Passes the FIN on once nothing is left between the sockets.
    fn drain(
        &mut self,
        source: &Side,
        sink: &Side,
        stream: StreamView<'_>,
    ) -> Result<Step, Failed> {
        // The FIN is announced before the bytes that came with it are judged: wait for the
        // softirq to be done with the segment, by taking the socket's lock.
        data_ready(&source.socket).map_err(|_| Failed::Source)?;
        let received = source.info().map_err(|_| Failed::Source)?.bytes_received();
        let (redirected, passed) = (stream.redirected(), stream.passed());
        let judged = source.read_before + redirected + passed;
        let all_judged = judged + FIN >= received;
        let all_copied = passed == stream.consumed() && self.rest.is_empty();
        if !all_judged || !all_copied {
            return Ok(Step::Busy);
        }
        let written = sink.written_since().map_err(|_| Failed::Sink)?;
        if written < redirected + passed {
            return Ok(Step::Busy);
        }
        sink.finish().map_err(|_| Failed::Sink)?;
        self.state = State::Finished;
        Ok(Step::Waiting)
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_BYTES]);
}

const BUFFER_BYTES: usize = 64 * 1024;

/// A smaller grant is used up by the next buffer, and costs an event.
const LEAST_GRANT: u64 = 16 * 1024;

/// So much is copied before other connections of the thread get their turn.
const COPIED_AT_ONCE: u64 = 1 << 20;

/// What is passed up waits in the source's receive buffer, at most `tcp_rmem[2]`. Where it does not,
/// since the socket's backlog was not empty after all, nothing limits it but this.
const MOST_PASSED: u64 = 64 << 20;

/// A FIN takes one number of the sequence space, and counts as one byte received.
const FIN: u64 = 1;
