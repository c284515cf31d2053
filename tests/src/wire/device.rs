//! TUN and TAP devices (Documentation/networking/tuntap.rst of the kernel).

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::netns::Namespace;

/// Where the packets of a device start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// With an Ethernet header: TAP.
    Ether,
    /// With the IP header: TUN.
    Ip,
}

impl Layer {
    /// Bytes in front of the IP header.
    pub(super) fn header(self) -> usize {
        match self {
            Self::Ether => 14,
            Self::Ip => 0,
        }
    }
}

/// Makes a device in a namespace. It is there as long as the file is open, which gives the packets
/// that the kernel sends by it, and takes those that the kernel is to receive, one a call.
///
/// Without IFF_VNET_HDR the kernel completes checksums and cuts segments before it hands packets
/// out.
pub(crate) fn create(ns: &Namespace, name: &str, layer: Layer) -> File {
    let kind = match layer {
        Layer::Ether => IFF_TAP,
        Layer::Ip => IFF_TUN,
    };
    let mut request = Request {
        name: [0; 16],
        flags: kind | IFF_NO_PI,
        _rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // A device is made where the file was opened.
    let opened = ns.run(|| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open("/dev/net/tun")
    });
    let file = opened.unwrap_or_else(|e| panic!("/dev/net/tun: {e}"));
    // SAFETY: TUNSETIFF reads and writes a struct ifreq.
    #[allow(unsafe_code, reason = "there is no safe wrapper")]
    let update = unsafe { Updater::<TUNSETIFF, Request>::new(&mut request) };
    // SAFETY: as above; it changes nothing but this new file.
    #[allow(unsafe_code, reason = "there is no safe wrapper")]
    let made = unsafe { ioctl(&file, update) };
    made.unwrap_or_else(|e| panic!("make device {name} in {}: {e}", ns.name()));
    file
}

/// `struct ifreq` of include/uapi/linux/if.h, with flags.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    _rest: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == 40);

// include/uapi/linux/if_tun.h
const TUNSETIFF: Opcode = opcode::write::<c_int>(b'T', 202);
const IFF_TUN: u16 = 1;
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
