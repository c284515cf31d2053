//! The `tc` program itself, fed with packets one by one (BPF_PROG_TEST_RUN): what becomes of each,
//! which counter says so, and that no packet is too strange for it.

mod answers;
mod between;
mod bytes;
mod clock;
mod damaged;
mod ecn;
mod errors;
mod guard;
mod handshakes;
mod leading;
mod malformed;
mod odd;
mod rewriting;
mod tags;
mod taking;

/// The router's own: what is tested is what it loads.
#[path = "../../../../sni-router/src/datapath/bpf"]
#[allow(dead_code, reason = "the router uses the rest")]
mod loader {
    mod inline;
    pub mod running;
    mod types;
    mod untyped;
    mod verified;
}

/// The same of what it shares with it.
#[path = "../../../../sni-router/src/sys/shared.rs"]
#[allow(dead_code, unsafe_code, reason = "as there")]
mod shared;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use sni_router_common::counter::{Counter, Counts};
use sni_router_common::flow::{Addr, Flow, FlowKey, option, ports, v6};
use sni_router_common::names;
use sni_router_tests::linux::version;
use sni_router_tests::object::object;
use sni_router_tests::packet::{Segment, ether};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use loader::running::Running;

/// The program, with one flow in its table.
struct Program {
    ebpf: Ebpf,
    flows: HashMap<MapData, FlowKey, Flow>,
    counts: PerCpuArray<MapData, Counts>,
    sides: Sides,
}

/// The addresses of the flow.
#[derive(Clone, Copy, Debug)]
struct Sides {
    client: SocketAddr,
    vip: SocketAddr,
    source: SocketAddr,
    endpoint: SocketAddr,
}

/// What became of a packet.
#[derive(Debug)]
struct Ran {
    verdict: i32,
    packet: Vec<u8>,
    /// What was counted meanwhile, but for bytes.
    counted: BTreeMap<&'static str, u64>,
    /// Bytes that were counted, up and down.
    bytes: [u64; 2],
}

/// Has the kernel take a program.
fn load(ebpf: &mut Ebpf, name: &str) {
    let program = ebpf.program_mut(name).expect("the program");
    let program: &mut SchedClassifier = program.try_into().expect("a classifier");
    // The verifier gives up when a signal is pending: a child of another test has ended.
    until(
        "no signal interrupts the verifier",
        SOON,
        || match program.load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == ErrorKind::WouldBlock =>
            {
                false
            }
            other => {
                other.expect("the verifier takes it");
                true
            }
        },
    );
}

impl Program {
    /// Loads it as the router does. Nothing is attached anywhere.
    fn load(family: Family) -> Self {
        Self::load_as(family, true)
    }

    /// The same; with `is_told` false on a kernel of which nothing is known.
    fn load_as(family: Family, is_told: bool) -> Self {
        Self::load_on(family, is_told.then(Running::find))
    }

    /// The same on a kernel of which this is known, and told.
    fn load_on(family: Family, mut running: Option<Running>) -> Self {
        let object = object();
        let mut loader = EbpfLoader::new();
        let object = match &mut running {
            Some(running) => running.tell(&mut loader, object),
            None => Cow::Borrowed(object),
        };
        loader.map_max_entries(names::MAP_ENDED, ENDED_RING_BYTES);
        // Large maps take long to make.
        for map in LARGE {
            loader.map_max_entries(map, ENTRIES);
        }
        let mut ebpf = loader
            .load(&object)
            .expect("load the object: this needs root and BPF");
        load(&mut ebpf, names::PROG_TC_ETHER);
        load(&mut ebpf, names::PROG_LEAD);
        let mut take = |name| ebpf.take_map(name).expect("the map");
        let flows = HashMap::try_from(take(names::MAP_FLOWS)).expect("a hash");
        let counts = PerCpuArray::try_from(take(names::MAP_COUNT)).expect("an array");
        let mut watched: Array<_, u64> = take(names::MAP_PORTS).try_into().expect("an array");
        let sides = Sides::of(family);
        for port in [sides.vip.port(), sides.source.port()] {
            let index = u32::from(port >> 6);
            let word = watched.get(&index, 0).expect("a word");
            let word = word | 1 << (port & 63);
            watched.set(index, word, 0).expect("watch the port");
        }
        let mut program = Self {
            ebpf,
            flows,
            counts,
            sides,
        };
        program.insert(&up(sides), &down(sides));
        program
    }

    /// Puts both directions into the table.
    fn insert(&mut self, up: &Flow, down: &Flow) {
        let keys = self.sides;
        let entries = [(keys.up(), up), (keys.down(), down)];
        for (key, flow) in entries {
            self.flows.insert(key, flow, 0).expect("insert a flow");
        }
    }

    /// Takes both out of it.
    fn remove(&mut self) {
        for key in [self.sides.up(), self.sides.down()] {
            self.flows.remove(&key).expect("there was a flow");
        }
    }

    /// Feeds it with an IP packet.
    fn run(&self, packet: &[u8]) -> Ran {
        self.run_raw(&ether(packet), 0)
    }

    /// Feeds it with a packet that has an Ethernet header; `segment` is the payload of each packet
    /// that it becomes, where it is one for GSO.
    fn run_raw(&self, packet: &[u8], segment: u32) -> Ran {
        let before = self.counters();
        let mut out = vec![0; packet.len() + 256];
        let mut context = [0; SK_BUFF];
        context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&segment.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let result = self.loaded().test_run(options).expect("run the program");
        out.truncate(result.data_size_out as usize);
        let after = self.counters();
        let count = |counter: Counter| after[counter.as_str()] - before[counter.as_str()];
        let counted = Counter::ALL
            .into_iter()
            .filter(|&counter| !counter.is_bytes() && count(counter) > 0)
            .map(|counter| (counter.as_str(), count(counter)))
            .collect();
        Ran {
            verdict: result.return_value as i32,
            packet: out,
            counted,
            bytes: [Counter::TcBytesUp, Counter::TcBytesDown].map(count),
        }
    }

    fn counters(&self) -> BTreeMap<&'static str, u64> {
        let cpus = self.counts.get(&0, 0).expect("the counters");
        let sum = |counter| {
            cpus.iter()
                .map(|counts: &Counts| counts[counter as usize])
                .sum()
        };
        Counter::ALL
            .into_iter()
            .map(|counter| (counter.as_str(), sum(counter)))
            .collect()
    }

    /// How many instructions the verifier has followed. Kernels before 5.16 do not tell.
    fn followed(&self) -> Option<u32> {
        let info = self.loaded().info().expect("it is loaded");
        info.verified_instruction_count()
    }

    /// The same program, for another thread.
    fn again(&self) -> SchedClassifier {
        let info = self.loaded().info().expect("it is loaded");
        let name = names::PROG_TC_ETHER.into();
        SchedClassifier::from_program_info(info, name).expect("a classifier")
    }

    fn loaded(&self) -> &SchedClassifier {
        let program = self.ebpf.program(names::PROG_TC_ETHER);
        program.expect("it").try_into().expect("a classifier")
    }

    /// A direction as it is now.
    fn flow(&self, key: &FlowKey) -> Flow {
        self.flows.get(key, 0).expect("the flow is there")
    }
}

/// A router serves nobody before the verifier is through, 2 ms for each 1,000 instructions; at a million it gives up.
#[test]
fn verifier_is_soon_through() {
    let followed = Program::load(Family::V4).followed().unwrap_or(0);
    println!("{followed} instructions");
    assert!(followed < 100_000, "{followed} instructions");
}

/// It needs a second then, but the programs are the same. To 5.13 they are more than the million that it follows.
#[test]
fn kernel_without_types_takes_the_programs_and_follows_each_way() {
    if version() < (6, 1) {
        return println!("not on {:?}", version());
    }
    let program = Program::load_on(Family::V4, Some(Running::default()));
    let followed = program.followed();
    assert!(
        followed.is_none_or(|followed| followed > 100_000),
        "{followed:?}"
    );
    let packet = program.sides.client_sends();
    assert_eq!(program.run(&packet.ip()).verdict, REDIRECT);
}

impl Ran {
    /// Checks that the packet went to the stack, as it was.
    #[track_caller]
    fn assert_passed(&self, packet: &[u8], counter: Option<Counter>) {
        assert_eq!(self.verdict, UNSPEC, "{:?}", self.counted);
        assert!(self.packet == ether(packet), "a packet was changed");
        self.assert_counted(counter);
    }

    /// Checks that the packet was dropped.
    #[track_caller]
    fn assert_dropped(&self, counter: Counter) {
        assert_eq!(self.verdict, SHOT, "{:?}", self.counted);
        self.assert_counted(Some(counter));
    }

    /// Checks that it was sent somewhere as this IP packet.
    #[track_caller]
    fn assert_sent(&self, expected: &[u8], counters: &[Counter]) {
        assert_eq!(self.verdict, REDIRECT, "{:?}", self.counted);
        assert_eq!(self.packet[ETHER..], *expected);
        self.assert_counted(counters.iter().copied());
    }

    #[track_caller]
    fn assert_counted(&self, counters: impl IntoIterator<Item = Counter>) {
        let expected: BTreeMap<_, _> = counters
            .into_iter()
            .map(|counter| (counter.as_str(), 1))
            .collect();
        assert_eq!(self.counted, expected);
    }
}

impl Sides {
    fn of(family: Family) -> Self {
        let addr = |v4: &str, v6: &str, port| {
            let ip: IpAddr = match family {
                Family::V4 => v4.parse(),
                Family::V6 => v6.parse(),
            }
            .expect("an address");
            SocketAddr::new(ip, port)
        };
        Self {
            client: addr("192.0.2.1", "2001:db8:1::1", 41_000),
            vip: addr("198.51.100.4", "2001:db8:2::4", 443),
            source: addr("203.0.113.1", "2001:db8:3::1", 21_000),
            endpoint: addr("203.0.113.9", "2001:db8:3::9", 8443),
        }
    }

    fn up(&self) -> FlowKey {
        key(self.client, self.vip)
    }

    fn down(&self) -> FlowKey {
        key(self.endpoint, self.source)
    }

    /// What the client sends.
    fn client_sends(&self) -> Segment {
        Segment {
            seq: CLIENT_AT,
            ack: ENDPOINT_AT.wrapping_add(DOWN_SEQ),
            ..Segment::new(self.client, self.vip)
        }
    }

    /// What the endpoint sends.
    fn endpoint_sends(&self) -> Segment {
        Segment {
            seq: ENDPOINT_AT,
            ack: CLIENT_AT.wrapping_add(UP_SEQ),
            ..Segment::new(self.endpoint, self.source)
        }
    }

    /// What a packet of the client becomes; its options stay.
    fn endpoint_gets(&self, sent: &Segment) -> Segment {
        Segment {
            src: self.source,
            dst: self.endpoint,
            ttl: sent.ttl - 1,
            seq: sent.seq.wrapping_add(UP_SEQ),
            ack: sent.ack.wrapping_sub(DOWN_SEQ),
            window: sent.window >> 1,
            ..sent.clone()
        }
    }

    /// What a packet of the endpoint becomes; its options stay.
    fn client_gets(&self, sent: &Segment) -> Segment {
        Segment {
            src: self.vip,
            dst: self.client,
            ttl: sent.ttl - 1,
            seq: sent.seq.wrapping_add(DOWN_SEQ),
            ack: sent.ack.wrapping_sub(UP_SEQ),
            window: sent.window << 1,
            ..sent.clone()
        }
    }
}

fn up(sides: Sides) -> Flow {
    Flow {
        src: words(sides.source.ip()),
        dst: words(sides.endpoint.ip()),
        ports: ports(sides.source.port(), sides.endpoint.port()),
        seq_add: UP_SEQ,
        ack_add: DOWN_SEQ.wrapping_neg(),
        ts_add: UP_CLOCK,
        ecr_add: DOWN_CLOCK.wrapping_neg(),
        ifindex: 1,
        end: CLIENT_AT.into(),
        ack: ENDPOINT_AT.wrapping_add(DOWN_SEQ),
        seen: 0,
        edge: ENDPOINT_AT.wrapping_add(DOWN_SEQ).wrapping_add(ROOM),
        id: 7,
        start: CLIENT_AT,
        since_or_held: 0,
        mtu: 1500,
        shift: -1,
        options: option::TIMESTAMPS | option::scale(2),
        own: 0,
        peer: 0,
        closed: 0,
        up: 1,
    }
}

fn down(sides: Sides) -> Flow {
    Flow {
        src: words(sides.vip.ip()),
        dst: words(sides.client.ip()),
        ports: ports(sides.vip.port(), sides.client.port()),
        seq_add: DOWN_SEQ,
        ack_add: UP_SEQ.wrapping_neg(),
        ts_add: DOWN_CLOCK,
        ecr_add: UP_CLOCK.wrapping_neg(),
        end: ENDPOINT_AT.into(),
        ack: CLIENT_AT.wrapping_add(UP_SEQ),
        edge: CLIENT_AT.wrapping_add(UP_SEQ).wrapping_add(ROOM),
        options: option::TIMESTAMPS | option::scale(3),
        shift: 1,
        up: 0,
        ..up(sides)
    }
}

fn key(src: SocketAddr, dst: SocketAddr) -> FlowKey {
    FlowKey {
        src: words(src.ip()),
        dst: words(dst.ip()),
        ports: ports(src.port(), dst.port()),
    }
}

fn words(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(ip) => v6(ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => v6(ip.octets()),
    }
}

/// Where the streams are, as their senders count. All of these wrap somewhere.
const CLIENT_AT: u32 = 0xffff_ff00;
const ENDPOINT_AT: u32 = 0x1000_0000;
const UP_SEQ: u32 = 0x8000_0001;
const DOWN_SEQ: u32 = 0xf000_1234;
/// How many bytes both are ready to receive.
const ROOM: u32 = 6000;
const UP_CLOCK: u32 = 0x0102_0304;
const DOWN_CLOCK: u32 = 0xfefd_fcfb;

/// Little, so that a test can fill it.
const ENDED_RING_BYTES: u32 = 4096;

const LARGE: [&str; 5] = [
    names::MAP_RULES,
    names::MAP_SOCKS,
    names::MAP_SLOTS,
    names::MAP_STREAMS,
    names::MAP_FLOWS,
];
const ENTRIES: u32 = 64;

// include/uapi/linux/pkt_cls.h
const UNSPEC: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// Bytes of an Ethernet header.
const ETHER: usize = 14;

/// Bytes of `struct __sk_buff`, and where its `gso_size` is (include/uapi/linux/bpf.h).
const SK_BUFF: usize = 192;
const GSO_SIZE: usize = 176;
