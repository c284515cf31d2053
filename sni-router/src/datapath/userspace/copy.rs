//! Copying through the worker thread's buffer.

use std::cell::RefCell;
use std::io;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::consume_budget;

use super::{Broken, Pace, Tally, would_block, writable};
use crate::carry::Direction;

/// Copies until the source finishes or has filled the buffer several times in a row.
pub(super) async fn until_bulk(
    source: &TcpStream,
    sink: &TcpStream,
    direction: Direction,
    tally: &Tally<'_>,
) -> Result<Pace, Broken> {
    let mut full_in_a_row = 0;
    loop {
        source.readable().await.map_err(|_| Broken::Source)?;
        let Some(step) = step(source, sink)? else {
            continue;
        };
        if step.read == 0 {
            return Ok(Pace::Finished);
        }
        if !step.rest.is_empty() {
            write_all(sink, &step.rest).await?;
        }
        tally.add(direction, step.read as u64);
        // As with pipes: what is always ready would keep the thread for ever.
        consume_budget().await;
        full_in_a_row = if step.read == BUFFER_BYTES {
            full_in_a_row + 1
        } else {
            0
        };
        if full_in_a_row == BULK_AFTER {
            return Ok(Pace::Changed);
        }
    }
}

/// One read and the write that follows it.
struct Step {
    /// Bytes read; zero is the source's FIN.
    read: usize,
    /// What the sink did not take yet.
    rest: Vec<u8>,
}

/// Reads and writes without giving up the thread in between, so that one buffer serves every
/// connection of the thread. `None`: there was nothing to read.
fn step(source: &TcpStream, sink: &TcpStream) -> Result<Option<Step>, Broken> {
    BUFFER.with_borrow_mut(|buffer| {
        let read = match source.try_read(buffer) {
            Ok(read) => read,
            Err(error) if would_block(&error) => return Ok(None),
            Err(_) => return Err(Broken::Source),
        };
        if read == 0 {
            return Ok(Some(Step {
                read,
                rest: Vec::new(),
            }));
        }
        if read < buffer.len() {
            drained(source);
        }
        let written = match sink.try_write(&buffer[..read]) {
            Ok(written) => written,
            Err(error) if would_block(&error) => 0,
            Err(_) => return Err(Broken::Sink),
        };
        Ok(Some(Step {
            read,
            rest: buffer[written..read].to_vec(),
        }))
    })
}

/// Tells tokio that a read which did not fill the buffer has emptied the socket, so that it waits
/// for the next event instead of having us read once more to learn the same. With edge-triggered
/// epoll whatever arrived since is an event of its own, and a FIN is never forgotten.
fn drained(source: &TcpStream) {
    let empty: io::Result<()> =
        source.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
    debug_assert!(empty.is_err());
}

/// Writes all of `bytes`.
pub(super) async fn write_all(sink: &TcpStream, mut bytes: &[u8]) -> Result<(), Broken> {
    while !bytes.is_empty() {
        writable(sink).await?;
        match sink.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if would_block(&error) => {}
            Err(_) => return Err(Broken::Sink),
        }
    }
    Ok(())
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_BYTES]);
}

/// Four full-size TLS records.
const BUFFER_BYTES: usize = 64 * 1024;

/// Full buffers in a row after which a direction counts as bulk. A pipe costs two more system
/// calls per piece than it saves copying, so a single large answer is not worth one.
const BULK_AFTER: u32 = 4;
