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

/// Bytes that may be on their way between the two sockets, per direction, beside the sockets' own
/// buffers. Half of it is what a fast direction moves between two wake-ups of the daemon.
pub(super) const WINDOW: u64 = 4 << 20;

/// See the module.
pub(super) struct Flow {
    state: State,
    /// Bytes read from the source that the sink has not taken yet.
    rest: Vec<u8>,
    /// When the program was told to write its next event.
    notify_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Draining,
    Finished,
}

/// Whether a direction must be looked at again soon, or only when something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// An event will tell.
    Waiting,
    /// Something is under way of which no event will tell.
    Busy,
}

/// A socket failed. Whose it is decides who is said to have reset the connection.
pub(super) enum Failed {
    Source,
    Sink,
}

impl Flow {
    pub(super) fn new() -> Self {
        Self {
            state: State::Open,
            rest: Vec::new(),
            notify_at: WINDOW / 2,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.state == State::Finished
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
            self.copy(source, sink, stream)?;
            // Also when all is copied: an event that was to tell of more may have been written
            // before the program saw what we consumed.
            step = Step::Busy;
        }
        if self.state == State::Draining {
            return self.drain(source, sink, stream);
        }
        if stream.redirected() >= self.notify_at && !self.grant(sink, stream)? {
            step = Step::Busy;
        }
        Ok(step)
    }

    /// Raises the limit by what the sink has taken; false if it must be raised again soon, since
    /// the event that was to remind us has been used up.
    fn grant(&mut self, sink: &Side, stream: StreamView<'_>) -> Result<bool, Failed> {
        let written = sink.written_since().map_err(|_| Failed::Sink)?;
        let limit = written.saturating_sub(stream.consumed()) + WINDOW;
        self.notify_at = limit - WINDOW / 2;
        stream.grant(limit, self.notify_at);
        Ok(stream.redirected() < self.notify_at)
    }

    /// Copies what was passed up, once everything redirected before it has been written.
    fn copy(&mut self, source: &Side, sink: &Side, stream: StreamView<'_>) -> Result<(), Failed> {
        let before = stream.redirected() + stream.consumed();
        let written = sink.written_since().map_err(|_| Failed::Sink)?;
        // Part of the rest may have been written already; it is not counted as consumed yet.
        if self.rest.is_empty() && written < before {
            return Ok(());
        }
        loop {
            if self.rest.is_empty() && !self.read(source)? {
                return Ok(());
            }
            let took = match (&sink.socket).write(&self.rest) {
                Ok(took) => took,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Failed::Sink),
            };
            self.rest.drain(..took);
            stream.consume(stream.consumed() + took as u64);
        }
    }

    /// Reads into the rest; false if nothing is there to read.
    fn read(&mut self, source: &Side) -> Result<bool, Failed> {
        BUFFER.with_borrow_mut(|buffer| match (&source.socket).read(buffer) {
            Ok(read) => {
                self.rest.extend_from_slice(&buffer[..read]);
                Ok(read > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(Failed::Source),
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

/// A FIN takes one number of the sequence space, and counts as one byte received.
const FIN: u64 = 1;
