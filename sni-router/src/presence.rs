//! By what routers of one network namespace know of each other, whether they pin anything or not.
//!
//! ```text
//! @sni-router/tc                  the one that carries by `tc`
//! @sni-router/tc/PID/COOKIE       which process that is
//! @sni-router/vips/PID/COOKIE     each one that claims VIPs
//! ```
//!
//! These are names of Unix sockets to which nobody connects. Names without a file belong to the network namespace
//! (network_namespaces(7)), only one socket can have each, and the kernel takes them back when the process ends, by
//! whatever means (unix(7)).
//!
//! Any user there can have any of them. So they say something only of sockets that root has made, or the user that this
//! process runs as: nobody else's keep a router from starting, or from giving up VIPs.

mod names;

use std::collections::BTreeSet;
use std::io;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::warn;

use self::names::Name;
use crate::sys::sockopt::cookie;

/// What this process says of itself to the others, as long as this lives.
#[derive(Debug, Default)]
pub struct Presence(Mutex<Signs>);

#[derive(Debug, Default)]
struct Signs {
    flows: Vec<Sign>,
    vips: Option<Sign>,
    /// Users of whose names was told; `None`: of one that may be anybody's.
    told: BTreeSet<Option<u32>>,
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
        let mut signs = self.signs();
        let only = match Sign::put(FLOWS.to_owned()) {
            Ok(only) => Some(only),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let names = names::all().unwrap_or_default();
                let mut holders = names.iter().filter(|name| name.text == FLOWS);
                if !holders.any(|name| !signs.believe(name)) {
                    let mut which = names.iter().filter(|name| name.is_below(FLOWS));
                    let by =
                        which.find_map(|name| process_of(name).filter(|_| signs.believe(name)));
                    return Err(Occupied { by });
                }
                None
            }
            Err(error) => {
                warn!(%error, "not known: whether another router runs here");
                return Ok(());
            }
        };
        let which = Sign::put_one_of_many(FLOWS)
            .inspect_err(|error| warn!(%error, "other routers do not know of this one"))
            .ok();
        // Another router may have only such a name, too, for the same reason. Of two that come here at once, one at
        // least sees the other.
        let own = which.as_ref().map(|sign| sign.name.as_str());
        for name in names::all().unwrap_or_default() {
            let is_anothers = name.is_below(FLOWS) && Some(name.text.as_str()) != own;
            if is_anothers && name.owner.is_some() && signs.believe(&name) {
                let by = process_of(&name);
                return Err(Occupied { by });
            }
        }
        signs.flows = which.into_iter().chain(only).collect();
        Ok(())
    }

    /// It does not after all, or leaves that to another one.
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
        let mut signs = self.signs();
        let own = signs.vips.as_ref().map(|sign| sign.name.clone());
        names::all().unwrap_or_default().iter().any(|name| {
            name.is_below(VIPS) && Some(&name.text) != own.as_ref() && signs.believe(name)
        })
    }

    /// A thread that panicked while holding it leaves it as good as it was.
    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signs {
    /// Whether a name with a meaning has been given to a socket by who may run routers here, or might have been.
    fn believe(&mut self, Name { text, owner }: &Name) -> bool {
        let is_new = self.told.insert(*owner);
        match *owner {
            Some(0) => true,
            Some(uid) if uid == geteuid().as_raw() => true,
            Some(uid) => {
                if is_new {
                    warn!(uid, name = ?text, "another user, not root, has a name by which routers know of each other: ignored");
                }
                false
            }
            None => {
                if is_new {
                    warn!(name = ?text, "this kernel does not tell whose names of sockets are: taken for a router's");
                }
                true
            }
        }
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

impl Name {
    fn is_below(&self, kind: &str) -> bool {
        let rest = self.text.strip_prefix(kind);
        rest.is_some_and(|rest| rest.starts_with('/'))
    }
}

/// The process of which a name of the one that carries by `tc` speaks.
fn process_of(name: &Name) -> Option<u32> {
    let which = name.text.strip_prefix(FLOWS)?.strip_prefix('/')?;
    which.split('/').next()?.parse().ok()
}

const FLOWS: &str = "sni-router/tc";
const VIPS: &str = "sni-router/vips";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_told_by_a_name_below() {
        let name = |text: &str| Name {
            text: text.into(),
            owner: None,
        };
        assert_eq!(process_of(&name("sni-router/tc/42/7")), Some(42));
        assert_eq!(process_of(&name("sni-router/tc")), None);
        for (text, is_below) in [("tc/42/7", true), ("tc", false), ("tcp/43/7", false)] {
            assert_eq!(
                name(&format!("sni-router/{text}")).is_below(FLOWS),
                is_below
            );
        }
    }

    #[test]
    fn only_users_who_may_run_routers_are_believed() {
        let mut signs = Signs::default();
        let mut believed = |owner| {
            let text = FLOWS.into();
            signs.believe(&Name { text, owner })
        };
        let own = geteuid().as_raw();
        for owner in [Some(0), Some(own), None] {
            assert!(believed(owner), "{owner:?}");
        }
        for _ in 0..2 {
            assert!(!believed(Some(own + 1)));
        }
    }

    #[test]
    fn name_is_had_by_one_and_free_again_once_that_is_gone() {
        let name = format!("sni-router/tests/{}", process::id());
        let sign = Sign::put(name.clone()).unwrap();
        let taken = Sign::put(name.clone()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let others = |own: &Sign| {
            let names = names::all().unwrap();
            let is_other = |it: &&Name| it.is_below(&name) && it.text != own.name;
            names.iter().filter(is_other).count()
        };
        let one = Sign::put_one_of_many(&name).unwrap();
        let other = Sign::put_one_of_many(&name).unwrap();
        assert_eq!((others(&one), others(&other)), (1, 1));
        drop((sign, other));
        assert_eq!(others(&one), 0);
        Sign::put(name.clone()).unwrap();
    }
}
