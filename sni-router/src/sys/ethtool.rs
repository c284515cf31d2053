//! Settings of network interfaces.

use std::io;
use std::os::fd::AsRawFd as _;

use libc::{c_char, ifreq};
use socket2::{Domain, Socket, Type};

/// Whether the interface merges packets so that they cannot be taken apart again: large receive
/// offload. What it calls `rx-gro-hw` keeps what is needed for that, and is another feature.
pub fn has_lro(interface: &str) -> io::Result<bool> {
    Ok(flags(interface, ETHTOOL_GFLAGS, 0)? & ETH_FLAG_LRO != 0)
}

/// Whether the interface merges packets so that they can be taken apart again: generic receive
/// offload.
pub fn has_gro(interface: &str) -> io::Result<bool> {
    Ok(flags(interface, ETHTOOL_GGRO, 0)? != 0)
}

/// Turns large receive offload off. True if it was on. Needs CAP_NET_ADMIN if it is.
pub fn disable_lro(interface: &str) -> io::Result<bool> {
    disable(|command, value| flags(interface, command, value))
}

/// The same for what `flags` reads and writes.
fn disable(mut flags: impl FnMut(u32, u32) -> io::Result<u32>) -> io::Result<bool> {
    let has = flags(ETHTOOL_GFLAGS, 0)?;
    if has & ETH_FLAG_LRO == 0 {
        return Ok(false);
    }
    flags(ETHTOOL_SFLAGS, has & !ETH_FLAG_LRO)?;
    // A driver may want it nonetheless, and then the kernel does not say no.
    if flags(ETHTOOL_GFLAGS, 0)? & ETH_FLAG_LRO != 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(true)
}

/// Reads or writes the flags.
fn flags(interface: &str, command: u32, value: u32) -> io::Result<u32> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = Value {
        command,
        data: value,
    };
    let mut name = [0; libc::IFNAMSIZ];
    // The last byte stays zero.
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from as c_char;
    }
    let mut request = ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    // SAFETY: SIOCETHTOOL reads the request, and with these commands reads or writes a `Value` at
    // the address in it. Both outlive the call.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if rc == 0 {
        Ok(value.data)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct ethtool_value` of include/uapi/linux/ethtool.h.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

// include/uapi/linux/ethtool.h
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETH_FLAG_LRO: u32 = 1 << 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_no_lro_to_turn_off() {
        assert!(!has_lro("lo").unwrap());
        assert!(!disable_lro("lo").unwrap());
    }

    /// Disables it on an interface with these flags, whose driver makes those that are written into
    /// what it likes. What the interface has in the end comes back, too.
    fn disabled(has: u32, driver: impl Fn(u32) -> io::Result<u32>) -> (io::Result<bool>, u32) {
        let mut now = has;
        let result = disable(|command, value| {
            if command == ETHTOOL_SFLAGS {
                now = driver(value)?;
            }
            Ok(now)
        });
        (result, now)
    }

    /// No device that a test can make has LRO.
    #[test]
    fn lro_is_off_in_the_end_or_that_is_an_error() {
        const OTHERS: u32 = 0x180;
        const ON: u32 = OTHERS | ETH_FLAG_LRO;
        let (off, has) = disabled(OTHERS, |_| panic!("nothing to write"));
        assert_eq!((off.unwrap(), has), (false, OTHERS));
        let (obeyed, has) = disabled(ON, Ok);
        assert_eq!((obeyed.unwrap(), has), (true, OTHERS));
        let (ignored, _) = disabled(ON, |value| Ok(value | ETH_FLAG_LRO));
        assert_eq!(ignored.unwrap_err().kind(), io::ErrorKind::Unsupported);
        let refuses = |_| Err(io::Error::from_raw_os_error(libc::EPERM));
        let (refused, has) = disabled(ON, refuses);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(has, ON);
    }

    #[test]
    fn the_loopback_interface_merges_what_can_be_taken_apart() {
        assert!(has_gro("lo").unwrap());
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let error = disable_lro("snir-not-here").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        let error = disable_lro("a-name-that-is-too-long").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
