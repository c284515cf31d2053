//! Moving pages through a pipe with `splice(2)`.

use std::io;

use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::consume_budget;

use super::pipe::{PIPE_BYTES, Pipe};
use super::{Broken, Pace, Tally, would_block, writable};
use crate::carry::Direction;

/// Splices until the source finishes or has delivered only small pieces for a while.
pub(super) async fn until_slow(
    source: &TcpStream,
    sink: &TcpStream,
    direction: Direction,
    tally: &Tally<'_>,
) -> Result<Pace, Broken> {
    let mut small_in_a_row = 0;
    loop {
        source.readable().await.map_err(|_| Broken::Source)?;
        let Ok(mut pipe) = Pipe::take() else {
            // No descriptor left for a pipe: copying needs none.
            return Ok(Pace::Changed);
        };
        // The pipe is empty here, so "would block" can only mean that the source has nothing.
        loop {
            match fill(source, &mut pipe) {
                Ok(0) => return Ok(Pace::Finished),
                Ok(moved) => {
                    drain(&mut pipe, sink).await?;
                    tally.add(direction, moved as u64);
                    // A source and a sink that are always ready would keep the thread for ever.
                    consume_budget().await;
                    if moved < SMALL_BYTES {
                        small_in_a_row += 1;
                        break;
                    }
                    small_in_a_row = 0;
                }
                // Also after each small piece, where there are pauses between them.
                Err(error) if would_block(&error) => break,
                Err(_) => return Err(Broken::Source),
            }
        }
        if small_in_a_row == SLOW_AFTER {
            return Ok(Pace::Changed);
        }
    }
}

fn fill(source: &TcpStream, pipe: &mut Pipe) -> io::Result<usize> {
    let moved = source.try_io(Interest::READABLE, || {
        Ok(splice(
            source,
            None,
            pipe.write_end(),
            None,
            PIPE_BYTES,
            FLAGS,
        )?)
    })?;
    pipe.filled += moved;
    Ok(moved)
}

async fn drain(pipe: &mut Pipe, sink: &TcpStream) -> Result<(), Broken> {
    while pipe.filled > 0 {
        let moved = sink.try_io(Interest::WRITABLE, || {
            Ok(splice(
                pipe.read_end(),
                None,
                sink,
                None,
                pipe.filled,
                FLAGS,
            )?)
        });
        match moved {
            // A pipe of which we know the contents never ends early.
            Ok(0) => return Err(Broken::Sink),
            Ok(moved) => pipe.filled -= moved,
            Err(error) if would_block(&error) => writable(sink).await?,
            Err(_) => return Err(Broken::Sink),
        }
    }
    Ok(())
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// Pieces below this are cheaper to copy.
const SMALL_BYTES: usize = 16 * 1024;

/// Small pieces in a row after which a direction no longer counts as bulk.
const SLOW_AFTER: u32 = 16;
