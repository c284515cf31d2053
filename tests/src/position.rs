//! Where the streams of a connection are: asked of its socket, which is put into TCP_REPAIR for that
//! (needs CAP_NET_ADMIN).

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use libc::{IPPROTO_TCP, c_int, c_void, socklen_t};
use zerocopy::{FromBytes, IntoBytes};

/// The numbers that a packet of one side would have now, were it an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The sequence number of the next byte that is written.
    pub seq: u32,
    /// That of the next byte that is expected.
    pub ack: u32,
}

impl Position {
    /// Asks a socket, which neither sends nor receives meanwhile.
    #[track_caller]
    pub fn of(stream: &TcpStream) -> Self {
        set(stream, libc::TCP_REPAIR, REPAIR_ON).expect("TCP_REPAIR");
        let [seq, ack] = [SEND_QUEUE, RECEIVE_QUEUE].map(|queue| {
            set(stream, libc::TCP_REPAIR_QUEUE, queue).expect("TCP_REPAIR_QUEUE");
            get(stream, libc::TCP_QUEUE_SEQ).expect("TCP_QUEUE_SEQ")
        });
        set(stream, libc::TCP_REPAIR, REPAIR_OFF_NO_PROBE).expect("TCP_REPAIR");
        Self { seq, ack }
    }
}

/// What the sides of a connection are ready to receive.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes)]
pub struct Windows {
    _peers_as_of: u32,
    _peers: u32,
    /// The most that the peer has been ready for since its handshake.
    pub peers_most: u32,
    /// What this side has announced last.
    pub own: u32,
    _own_as_of: u32,
}

impl Windows {
    /// Asks a socket, which neither sends nor receives meanwhile.
    #[track_caller]
    pub fn of(stream: &TcpStream) -> Self {
        set(stream, libc::TCP_REPAIR, REPAIR_ON).expect("TCP_REPAIR");
        let windows = get(stream, libc::TCP_REPAIR_WINDOW).expect("TCP_REPAIR_WINDOW");
        set(stream, libc::TCP_REPAIR, REPAIR_OFF_NO_PROBE).expect("TCP_REPAIR");
        windows
    }
}

/// Takes a socket away without telling anybody, as a host does that loses its power.
#[track_caller]
pub fn vanish(stream: TcpStream) {
    set(&stream, libc::TCP_REPAIR, REPAIR_ON).expect("TCP_REPAIR");
}

fn set(stream: &TcpStream, option: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as socklen_t;
    let value: *const c_int = &value;
    // SAFETY: the kernel reads an int.
    #[allow(unsafe_code, reason = "there is no safe wrapper")]
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            IPPROTO_TCP,
            option,
            value.cast::<c_void>(),
            len,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A number, or the `tcp_repair_window` that [`Windows`] is.
fn get<T: FromBytes + IntoBytes>(stream: &TcpStream, option: c_int) -> io::Result<T> {
    let mut value = T::new_zeroed();
    let mut len = size_of::<T>() as socklen_t;
    let room: *mut T = &mut value;
    // SAFETY: the kernel writes no more than there is room for, and how much; any bytes make a T.
    #[allow(unsafe_code, reason = "there is no safe wrapper")]
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            IPPROTO_TCP,
            option,
            room.cast::<c_void>(),
            &mut len,
        )
    };
    if got == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

// include/uapi/linux/tcp.h
const REPAIR_ON: c_int = 1;
const REPAIR_OFF_NO_PROBE: c_int = -1;
const RECEIVE_QUEUE: c_int = 1;
const SEND_QUEUE: c_int = 2;
