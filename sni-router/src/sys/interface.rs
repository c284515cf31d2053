//! What the kernel says of an interface.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd as _;

use libc::{c_char, ifreq};
use socket2::{Domain, Socket, Type};

/// Bytes that an IP packet may have on it.
pub fn mtu(ifindex: u32) -> io::Result<u16> {
    let answer = ask(ifindex, libc::SIOCGIFMTU)?;
    // SAFETY: the kernel has written it.
    let mtu = unsafe { answer.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// Whether it is up and has a carrier.
pub fn is_running(ifindex: u32) -> io::Result<bool> {
    let answer = ask(ifindex, libc::SIOCGIFFLAGS)?;
    // SAFETY: as above.
    let flags = i32::from(unsafe { answer.ifru_flags });
    Ok(flags & libc::IFF_RUNNING != 0)
}

fn ask(ifindex: u32, what: libc::c_ulong) -> io::Result<libc::__c_anonymous_ifr_ifru> {
    let mut request = ifreq {
        ifr_name: name(ifindex)?,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 },
    };
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: these requests read the name and write a number, of a request that outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), what as _, &raw mut request) } {
        0 => Ok(request.ifr_ifru),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether there is none any more; false also where that cannot be told.
pub fn has_gone(ifindex: u32) -> bool {
    name(ifindex).is_err_and(|error| error.raw_os_error() == Some(libc::ENXIO))
}

/// The number of the interface that has this name.
pub fn number(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero byte.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        ifindex => Some(ifindex),
    }
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
        assert_eq!((number("lo"), number("no such one")), (Some(1), None));
        let error = is_running(u32::MAX).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
    }
}
