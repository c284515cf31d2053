//! Changing by which interface flows leave.

use std::io;
use std::sync::{Arc, Mutex};

use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use sni_router_common::flow::Led;
use sni_router_common::names;
use zerocopy::IntoBytes as _;

use super::load::program;
use super::lock;

/// The program that does it.
pub(super) struct Leader(Arc<Mutex<Ebpf>>);

impl Leader {
    /// `ebpf` must have it, and it must be loaded.
    pub(super) const fn new(ebpf: Arc<Mutex<Ebpf>>) -> Self {
        Self(ebpf)
    }

    /// Whether there was such a flow.
    pub(super) fn lead(&self, led: &Led) -> io::Result<bool> {
        let ebpf = &mut *lock(&self.0);
        let lead: &mut SchedClassifier =
            program(ebpf, names::PROG_LEAD).map_err(io::Error::other)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(led.as_bytes());
        let ran = lead.test_run(options).map_err(io::Error::other)?;
        Ok(ran.return_value == TC_ACT_OK)
    }
}

/// include/uapi/linux/pkt_cls.h
const TC_ACT_OK: u32 = 0;
