//! By what routers of one network namespace know of each other, whether they pin anything or not.
//!
//! ```text
//! @sni-router/tc                  the one that carries by `tc`
//! @sni-router/tc/PID              which process that is
//! @sni-router/vips/PID/COOKIE     each one that claims VIPs
//! ```
//!
//! These are names of Unix sockets to which nobody connects. Names without a file belong to the network namespace
//! (network_namespaces(7)), only one socket can have each, and the kernel takes them back when the process ends, by
//! whatever means (unix(7)).

use std::fs;
use std::io;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::{Domain, SockAddr, Socket, Type};
use tracing::warn;

use crate::sys::sockopt::cookie;

/// What this process says of itself to the others, as long as this lives.
#[derive(Debug, Default)]
pub struct Presence(Mutex<Signs>);

#[derive(Debug, Default)]
struct Signs {
    flows: Vec<Sign>,
    vips: Option<Sign>,
}

/// Another process carries by `tc` in this network namespace.
#[derive(Debug)]
pub struct Occupied {
    /// Its number, in its own process namespace, unless that is not known.
    pub by: Option<u32>,
}

impl Presence {
    /// Says that this process carries by `tc`, which only one can.
    pub fn carry(&self) -> Result<(), Occupied> {
        let only = match Sign::put(FLOWS.to_owned()) {
            Ok(only) => only,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let by = table().and_then(|table| named(&table, FLOWS).find_map(process_of));
                return Err(Occupied { by });
            }
            Err(error) => {
                warn!(%error, "not known: whether another router runs here");
                return Ok(());
            }
        };
        let which = Sign::put(format!("{FLOWS}/{}", process::id())).ok();
        self.signs().flows = which.into_iter().chain([only]).collect();
        Ok(())
    }

    /// It does not after all.
    pub fn carry_nothing(&self) {
        self.signs().flows.clear();
    }

    /// Says that this process claims VIPs.
    pub fn claim(&self) {
        let sign = Sign::put_one_of_many(VIPS)
            .inspect_err(|error| warn!(%error, "other routers do not know of this one"));
        self.signs().vips = sign.ok();
    }

    /// It does not any more.
    pub fn claim_nothing(&self) {
        self.signs().vips = None;
    }

    /// Whether another process claims VIPs in this network namespace.
    pub fn is_claimed_by_others(&self) -> bool {
        let signs = self.signs();
        let own = signs.vips.as_ref().map(|sign| sign.name.as_str());
        table().is_some_and(|table| named(&table, VIPS).any(|name| Some(name) != own))
    }

    /// Says nothing any more: another router takes over.
    pub fn leave(&self) {
        *self.signs() = Signs::default();
    }

    /// A thread that panicked while holding it leaves it as good as it was.
    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that this process has.
#[derive(Debug)]
struct Sign {
    name: String,
    _socket: Socket,
}

impl Sign {
    fn put(name: String) -> io::Result<Self> {
        Self::on(socket()?, name)
    }

    /// One whose name nobody else can have, not even the process with this one's number in another process namespace.
    fn put_one_of_many(kind: &str) -> io::Result<Self> {
        let socket = socket()?;
        let name = format!("{kind}/{}/{}", process::id(), cookie(&socket)?);
        Self::on(socket, name)
    }

    fn on(socket: Socket, name: String) -> io::Result<Self> {
        socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
        Ok(Self {
            name,
            _socket: socket,
        })
    }
}

/// Nobody can connect to it, as it does not listen.
fn socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM, None)
}

/// The Unix sockets of this network namespace.
fn table() -> Option<String> {
    // Names of others need not be text.
    let table = fs::read("/proc/self/net/unix").ok()?;
    Some(String::from_utf8_lossy(&table).into_owned())
}

/// The names in the table that are below this one. What is `@` there is a zero byte.
fn named<'t>(table: &'t str, kind: &'t str) -> impl Iterator<Item = &'t str> {
    let names = table.lines().filter_map(|line| line.split_once(" @"));
    names.map(|(_, name)| name).filter(move |name| {
        name.strip_prefix(kind)
            .is_some_and(|it| it.starts_with('/'))
    })
}

/// The process of which a name of the one that carries by `tc` speaks.
fn process_of(name: &str) -> Option<u32> {
    name.rsplit('/').next()?.parse().ok()
}

const FLOWS: &str = "sni-router/tc";
const VIPS: &str = "sni-router/vips";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_among_other_sockets() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000003 00000000 00000000 0001 03  1148\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 10 /run/@sni-router/tc/1\n\
            0000000000000000: 00000002 00000000 00000000 0001 01 11 @sni-router/tc\n\
            0000000000000000: 00000002 00000000 00000000 0001 01 12 @sni-router/tc/42\n\
            0000000000000000: 00000002 00000000 00000000 0001 01 13 @sni-router/tcp/43\n\
            0000000000000000: 00000002 00000000 00000000 0001 01 14 @sni-router/vips/42/7\n";
        let found = |kind| named(table, kind).collect::<Vec<_>>();
        assert_eq!(found(FLOWS), ["sni-router/tc/42"]);
        assert_eq!(process_of("sni-router/tc/42"), Some(42));
        assert_eq!(found(VIPS), ["sni-router/vips/42/7"]);
    }

    #[test]
    fn name_is_had_by_one_and_free_again_once_that_is_gone() {
        let name = format!("sni-router/tests/{}", process::id());
        let sign = Sign::put(name.clone()).unwrap();
        let taken = Sign::put(name.clone()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let others = |own: &Sign| {
            let table = table().unwrap();
            named(&table, &name).filter(|it| *it != own.name).count()
        };
        let one = Sign::put_one_of_many(&name).unwrap();
        let other = Sign::put_one_of_many(&name).unwrap();
        assert_eq!((others(&one), others(&other)), (1, 1));
        drop((sign, other));
        assert_eq!(others(&one), 0);
        Sign::put(name.clone()).unwrap();
    }
}
