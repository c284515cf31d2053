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

/// Removes filters, which kernels without TCX have instead of links.
pub fn remove_filters() {
    for interface in fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Some(name) = interface.file_name().to_str() {
            remove_filter(name);
        }
    }
}
