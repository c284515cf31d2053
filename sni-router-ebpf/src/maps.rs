//! Every map: who writes it, who reads it, what happens when it is full.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf, SockHash, SockMap};
use sni_router_common::counter::COUNTERS;
use sni_router_common::names::{EVENT_RING_BYTES, LISTEN_ENTRIES, MAX_RULES, MAX_SLOTS};
use sni_router_common::rule::{Rule, RuleKey};
use sni_router_common::stream::Stream;

/// Daemon → `snir_lookup`. Full: the configuration is refused.
#[map(name = "SNI_RULES")]
pub static RULES: HashMap<RuleKey, Rule> = HashMap::with_max_entries(MAX_RULES, 0);

/// Daemon → `snir_lookup`. Fixed size.
#[map(name = "SNI_LISTEN")]
pub static LISTEN: SockMap = SockMap::with_max_entries(LISTEN_ENTRIES, 0);

/// Daemon → `snir_verdict`. Full: the connection takes the userspace datapath.
#[map(name = "SNI_SOCKS")]
pub static SOCKS: SockHash<u32> = SockHash::with_max_entries(MAX_SLOTS, 0);

/// Daemon → `snir_verdict`. Full: the connection takes the userspace datapath.
#[map(name = "SNI_SLOTS")]
pub static SLOTS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_SLOTS, 0);

/// `snir_verdict` ↔ daemon, which has it mapped. Fixed size.
#[map(name = "SNI_STREAMS")]
pub static STREAMS: Array<Stream> = Array::with_max_entries(MAX_SLOTS, BPF_F_MMAPABLE);

/// `snir_verdict` → daemon. Full: counted, and the daemon looks at every slot.
#[map(name = "SNI_EVENTS")]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);

/// Programs → daemon. Fixed size.
#[map(name = "SNI_COUNT")]
pub static COUNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// include/uapi/linux/bpf.h
const BPF_F_MMAPABLE: u32 = 1 << 10;
