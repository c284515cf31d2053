//! Connections that do nothing, so that what they occupy can be measured from outside.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Client, Stream, broken};
use crate::order::Order;
use crate::pattern::Table;

/// Opens them, makes sure that each works, tells so with a line, waits for a line, makes sure that
/// each still works.
pub fn run(client: &mut Client<'_>) -> Result<Value> {
    let mut streams = Vec::new();
    for _ in 0..client.args.streams {
        let mut stream = client.open(Order::Echo(SIZE as u32))?;
        if let Err(error) = exchange(&mut stream, &client.table) {
            return Ok(broken(&error.context("a new connection")));
        }
        streams.push(stream);
    }
    println!("{}", json!({ "idle": streams.len() }));
    std::io::stdout().flush()?;
    std::io::stdin().read_line(&mut String::new())?;
    for stream in &mut streams {
        if let Err(error) = exchange(stream, &client.table) {
            return Ok(broken(&error.context("an idle connection")));
        }
    }
    Ok(json!({ "count": streams.len(), "errors": 0, "corrupt": 0 }))
}

fn exchange(stream: &mut Stream, table: &Table) -> Result<()> {
    stream.channel.write_all(stream.up.bytes(table, SIZE))?;
    stream.up.advance(SIZE);
    let mut answer = [0; SIZE];
    let read = stream.channel.read_exact(&mut answer);
    read.context("no answer")?;
    stream.check(table, &answer)
}

/// Bytes of a request, and of the answer.
const SIZE: usize = 64;
