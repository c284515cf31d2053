//! Taking everything out of the kernel that a router has left there.

use std::fs;
use std::io;

use foldhash::HashMap;
use sni_router_common::flow::{FlowKey, address};

use super::limits::reset_both;
use crate::datapath::bpf::{Pins, open_flows, remove_filter};

/// Ends the flows of a router that is gone: both sides get a RST. Answers how many there were.
pub fn end_left(pins: &Pins) -> io::Result<usize> {
    let Some(flows) = open_flows(pins)? else {
        return Ok(0);
    };
    let mut found = HashMap::default();
    flows.for_each(|key, flow| {
        found.insert(*key, *flow);
    })?;
    let mut ended = 0;
    for (key, up) in &found {
        let back = FlowKey::answers(up);
        flows.remove(key);
        if up.up == 1
            && up.closed == 0
            && let Some(down) = found.get(&back)
        {
            flows.remove(&back);
            tracing::debug!(client = %address(&key.src), "ended");
            reset_both(up, down);
            ended += 1;
        }
    }
    Ok(ended)
}

/// Removes the filters of routers of this version, which are there instead of links where those were
/// attached by clsact.
pub fn remove_filters(version: u32) {
    // Not by /sys, which shows the interfaces of the network namespace that it was mounted in.
    let interfaces = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    // Two lines of titles.
    for line in interfaces.lines().skip(2) {
        if let Some((name, _)) = line.split_once(':') {
            remove_filter(name.trim(), version);
        }
    }
}
