//! What the stack knows of a client whose SYN it has answered: its request (`struct tcp_request_sock`).

use aya_ebpf::Global;
use aya_ebpf::bindings::{bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1};
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::programs::TcContext;
use sni_router_common::flow::FlowKey;
use sni_router_common::taken::{Buffer, REQUEST_BYTES, Request};

use super::packet::Packet;
use crate::maps::BUFFER;

/// By how many bits this host's windows are scaled to a client whose SYN the stack has answered, and which has
/// acknowledged that: nobody else knows the number. `None` where the stack waits for no such packet, as where
/// it answers by cookies, or where the packet is for another host.
#[inline(always)] // returns more than fits into a register
#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "helpers are unsafe"
)]
pub fn own_scale(ctx: &TcContext, key: &FlowKey, packet: &Packet) -> Option<u8> {
    let request = SNI_REQUEST.load();
    if request.sent == 0 {
        return None;
    }
    let buffer = BUFFER.get_ptr_mut(0)?;
    let skb = ctx.skb.skb.cast();
    let [s0, s1, d0, d1] = key.ports.to_ne_bytes();
    // SAFETY: tuples are read only, and a key is one of IPv6 (`struct bpf_sock_tuple`,
    // include/uapi/linux/bpf.h). The socket is released before anything else is done. The buffer belongs
    // to this CPU, and has room.
    let read = unsafe {
        let sock = if packet.is_v6 {
            let tuple = core::ptr::from_ref(key).cast_mut().cast();
            bpf_skc_lookup_tcp(skb, tuple, size_of::<FlowKey>() as u32, CURRENT_NETNS, 0)
        } else {
            let mut tuple = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: key.src[3],
                daddr: key.dst[3],
                sport: u16::from_ne_bytes([s0, s1]),
                dport: u16::from_ne_bytes([d0, d1]),
            };
            let tuple: *mut bpf_sock_tuple = (&raw mut tuple).cast();
            bpf_skc_lookup_tcp(skb, tuple, 12, CURRENT_NETNS, 0)
        };
        if sock.is_null() {
            return None;
        }
        let is_request = (&raw const (*sock).state).read_volatile() == NEW_SYN_RECV;
        let bytes = (&raw mut (*buffer).payload).cast();
        let read = match is_request {
            true => bpf_probe_read_kernel(bytes, REQUEST_BYTES, sock.cast()),
            false => -1,
        };
        bpf_sk_release(sock.cast());
        read
    };
    let received: u32 = field(buffer, request.received)?;
    let sent: u32 = field(buffer, request.sent)?;
    let scale: u8 = field(buffer, request.scale)?;
    let is_known =
        read == 0 && received == packet.seq.wrapping_sub(1) && sent == packet.ack.wrapping_sub(1);
    is_known.then_some(scale >> (request.shift & 7) & 15)
}

/// What was read at an offset into the buffer.
#[inline(always)] // as above
#[allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "map values are raw pointers"
)]
fn field<T>(buffer: *mut Buffer, at: u32) -> Option<T> {
    let at = core::hint::black_box(at as usize);
    if at > REQUEST_BYTES as usize - size_of::<T>() {
        return None;
    }
    // SAFETY: it is in the buffer, whose bytes are numbers.
    let value = unsafe {
        let bytes = &raw const (*buffer).payload;
        bytes.byte_add(at).cast::<T>().read_unaligned()
    };
    Some(value)
}

/// Where the kernel that runs has what is read of a request. The loader fills it in; zero, and nothing is taken.
#[allow(unsafe_code, reason = "the loader finds it by its name")]
#[unsafe(no_mangle)]
static SNI_REQUEST: Global<Request> = Global::new(Request {
    received: 0,
    sent: 0,
    scale: 0,
    shift: 0,
});

// include/uapi/linux/bpf.h
const CURRENT_NETNS: u64 = u64::MAX;
// include/net/tcp_states.h
const NEW_SYN_RECV: u32 = 12;
