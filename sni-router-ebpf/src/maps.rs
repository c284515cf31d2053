//! Every map: who writes it, who reads it, what happens when it is full.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf, SockHash, SockMap};
use sni_router_common::counter::Counts;
use sni_router_common::flow::{Flow, FlowKey};
use sni_router_common::handshake::{ENTRIES, Slot};
use sni_router_common::names::{
    ENDED_RING_BYTES, EVENT_RING_BYTES, LISTEN_ENTRIES, MAX_FLOWS, MAX_RULES, MAX_SLOTS,
    PORT_WORDS, TAKEN_RING_BYTES,
};
use sni_router_common::options::Options;
use sni_router_common::rule::{Rule, RuleKey};
use sni_router_common::stream::Stream;
use sni_router_common::taken::{Buffer, until};

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

/// Daemon → `snir_tc`. Fixed size.
#[map(name = "SNI_PORTS")]
pub static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, BPF_F_MMAPABLE);

/// `snir_tc` → daemon, which has it mapped. Full: old handshakes are forgotten, and their connections
/// take another datapath. The first set has the secret of tags, which the daemon puts in.
#[map(name = "SNI_SEEN")]
pub static SEEN: Array<Slot> = Array::with_max_entries(ENTRIES, BPF_F_MMAPABLE);

/// Daemon ↔ `snir_tc`. Full: the connection takes another datapath.
#[map(name = "SNI_FLOWS")]
pub static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);

/// `snir_tc` → daemon. Full: counted, and the daemon looks at every flow.
#[map(name = "SNI_ENDED")]
pub static ENDED: RingBuf = RingBuf::with_byte_size(ENDED_RING_BYTES, 0);

/// Daemon → `snir_tc`, mapped by the daemon. Fixed size.
#[map(name = "SNI_UNTIL")]
pub static UNTIL: Array<u64> = Array::with_max_entries(until::WORDS, BPF_F_MMAPABLE);

/// `snir_tc` → daemon. Full: the connection gets a socket, as if nobody took any.
#[map(name = "SNI_TAKEN")]
pub static TAKEN: RingBuf = RingBuf::with_byte_size(TAKEN_RING_BYTES, 0);

/// `snir_tc`'s own: where a CPU makes what goes into that ring.
#[map(name = "SNI_BUFFER")]
pub static BUFFER: PerCpuArray<Buffer> = PerCpuArray::with_max_entries(1, 0);

/// `snir_tc`'s own: where a CPU walks a packet's options.
#[map(name = "SNI_OPTIONS")]
pub static OPTIONS: PerCpuArray<Options> = PerCpuArray::with_max_entries(1, 0);

/// `snir_tc`'s own: where a CPU adds up a packet's bytes.
#[map(name = "SNI_CHUNK")]
pub static CHUNK: PerCpuArray<[u32; CHUNK_BYTES as usize / 4]> =
    PerCpuArray::with_max_entries(1, 0);

/// `snir_tc`'s own: when a CPU may make the next ICMP error, in ns; of packets that have come too far, and that are too large.
#[map(name = "SNI_BUDGET")]
pub static BUDGET: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Programs → daemon. Fixed size.
#[map(name = "SNI_COUNT")]
pub static COUNT: PerCpuArray<Counts> = PerCpuArray::with_max_entries(1, 0);

/// Bytes that are added up at once.
pub const CHUNK_BYTES: u32 = 512;

// include/uapi/linux/bpf.h
const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_F_MMAPABLE: u32 = 1 << 10;
