//! Somebody on a link of the router's who sends packets with any addresses in them.

use std::fs::File;
use std::io::Write as _;

use crate::packet::{ether_between, tagged};
use crate::topology::Topology;
use crate::wire::Layer;
use crate::wire::device;

/// A device of the router, and who is at its other end; gone on drop.
#[derive(Debug)]
pub struct Intruder(File);

impl Intruder {
    /// Makes the device. To be called before the router starts, so that it finds it there.
    pub fn join(net: &Topology) -> Self {
        let device = device::create(&net.router, DEVICE, Layer::Ether);
        let [a, b, c, d, e, f] = ROUTER;
        net.router.batch(&format!(
            "link set {DEVICE} address {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}\n\
             link set {DEVICE} up\n"
        ));
        // Or the kernel would not forward what comes by another way than answers go.
        for scope in ["all", DEVICE] {
            let filter = format!("ipv4/conf/{scope}/rp_filter");
            net.router.sysctl(&filter, "0");
        }
        Self(device)
    }

    /// Sends an IP packet. The kernel has received it, and done with it whatever it does, when this
    /// returns.
    #[track_caller]
    pub fn send(&self, packet: &[u8]) {
        self.send_frame(&ether_between(OWN, ROUTER, packet));
    }

    /// The same in a frame with an 802.1Q tag.
    #[track_caller]
    pub fn send_tagged(&self, packet: &[u8], control: u16) {
        let frame = ether_between(OWN, ROUTER, packet);
        self.send_frame(&tagged(&frame, control));
    }

    #[track_caller]
    fn send_frame(&self, frame: &[u8]) {
        let sent = (&self.0).write(frame).expect("send a packet");
        assert_eq!(sent, frame.len(), "a packet was cut");
    }
}

const DEVICE: &str = "intruder";

/// Locally administered addresses.
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
