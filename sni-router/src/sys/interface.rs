//! What the kernel says of an interface.

use std::io;
use std::os::fd::AsRawFd as _;

use libc::{c_char, ifreq};
use socket2::{Domain, Socket, Type};

/// Bytes that an IP packet may have on it.
pub fn mtu(ifindex: u32) -> io::Result<u16> {
    let name = name(ifindex)?;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut request = ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 },
    };
    // SAFETY: SIOCGIFMTU reads the name and writes the number, of a request that outlives the call.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written it.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// Whether there is none any more; false also where that cannot be told.
pub fn has_gone(ifindex: u32) -> bool {
    name(ifindex).is_err_and(|error| error.raw_os_error() == Some(libc::ENXIO))
}

fn name(ifindex: u32) -> io::Result<[c_char; libc::IFNAMSIZ]> {
    let mut name = [0; libc::IFNAMSIZ];
    // SAFETY: the buffer has the size that the function asks for.
    match unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) }.is_null() {
        true => Err(io::Error::last_os_error()),
        false => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_takes_the_largest_packets() {
        assert_eq!(mtu(1).unwrap(), u16::MAX);
        let error = mtu(u32::MAX).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
        assert!(!has_gone(1) && has_gone(u32::MAX));
    }
}
