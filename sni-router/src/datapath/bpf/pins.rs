//! What outlives the process: maps and links of the `tc` datapath, pinned in a BPF file system.
//!
//! ```text
//! DIR/<network namespace's cookie>/        locked by the router that owns it
//!     owner → <process id>
//!     before → <process id>                who owned it before, and was not told to end
//!     v<ABI>/SNI_FLOWS, …                  maps
//!     v<ABI>/link-<interface>              `snir_tc` on an interface
//! ```
//!
//! The links hold the programs, and those hold the maps that only they use.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Access, FlockOperation, access, flock, statfs};
use rustix::io::Errno;
use sni_router_common::names::{ABI, MAP_ENDED, MAP_FLOWS, MAP_PORTS, MAP_SEEN};
use thiserror::Error;

use crate::sys::sockopt::netns_cookie;

/// The maps that are pinned.
pub(super) const MAPS: [&str; 4] = [MAP_FLOWS, MAP_SEEN, MAP_PORTS, MAP_ENDED];

/// The directory of this network namespace's router, owned by this process.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    /// `None` once another process may have it.
    lock: Mutex<Option<File>>,
    /// Since when nobody else has it.
    since: Instant,
}

/// Why nothing can be pinned.
#[derive(Debug, Error)]
pub enum PinError {
    /// The directory is in another kind of file system.
    #[error("{0} is not in a BPF file system (mount one: mount -t bpf bpf /sys/fs/bpf)")]
    NotBpf(PathBuf),
    /// It cannot be used.
    #[error("cannot use {0}")]
    Directory(PathBuf, #[source] io::Error),
    /// Another process has it; 0 is one that has not said yet which it is.
    #[error("another sni-router (process {0}) runs in this network namespace")]
    Owned(u32),
}

impl Pins {
    /// The directory below `dir` for the network namespace of this process, made if need be.
    ///
    /// # Errors
    /// [`PinError::Owned`] where another process has it.
    pub fn own(dir: &Path) -> Result<Self, PinError> {
        let failed = |error| PinError::Directory(dir.to_owned(), error);
        check_file_system(dir)?;
        let root = of_namespace(dir).map_err(failed)?;
        fs::create_dir_all(&root).map_err(failed)?;
        let lock = File::open(&root).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            // Without a name where it has just become the owner.
            Err(Errno::WOULDBLOCK) => return Err(PinError::Owned(owner(&root).unwrap_or(0))),
            Err(error) => return Err(failed(error.into())),
        }
        let owner = root.join(OWNER);
        // Of a process that was killed.
        let _ = fs::remove_file(&owner);
        symlink(std::process::id().to_string(), &owner).map_err(failed)?;
        let lock = Mutex::new(Some(lock));
        let since = Instant::now();
        let this = Self { root, lock, since };
        fs::create_dir_all(this.dir()).map_err(failed)?;
        Ok(this)
    }

    /// For how long no other process has owned it.
    pub fn owned_for(&self) -> Duration {
        self.since.elapsed()
    }

    /// Where this version's maps and links are.
    pub fn dir(&self) -> PathBuf {
        own_version(&self.root)
    }

    /// The directories that other versions have left.
    pub fn foreign(&self) -> Vec<PathBuf> {
        foreign(&self.root)
    }

    /// The directories in which flows are, whoever's version they are of.
    pub fn tables(&self) -> Vec<PathBuf> {
        let mut dirs = self.foreign();
        dirs.extend(Some(self.dir()).filter(|dir| dir.join(MAP_FLOWS).exists()));
        dirs
    }

    /// Another process may own it from now on.
    pub fn release(&self) {
        *self.lock() = None;
    }

    /// Whether this process owns it.
    pub fn is_owned(&self) -> bool {
        self.lock().is_some()
    }

    /// Notes who let go of it for this process, in case this one does not live to tell that one to end.
    pub fn note_before(&self, process: u32) -> io::Result<()> {
        self.forget_before();
        symlink(process.to_string(), self.root.join(BEFORE))
    }

    /// Who was noted, by this process or by one that is gone.
    pub fn before(&self) -> Option<u32> {
        number(&self.root.join(BEFORE))
    }

    /// Nobody was before.
    pub fn forget_before(&self) {
        // Fails where nobody was noted.
        let _ = fs::remove_file(self.root.join(BEFORE));
    }

    /// Lets go of everything, other versions' too: programs are detached, maps freed, once nobody has
    /// them open.
    pub fn remove(&self) -> io::Result<()> {
        remove_all(&self.root)
    }

    /// Lets go of what is this version's, and of everything where no other version has left anything, nor somebody has to
    /// be told to end.
    pub fn remove_own(&self) -> io::Result<()> {
        match self.foreign().is_empty() && self.before().is_none() {
            true => self.remove(),
            false => remove_all(&self.dir()),
        }
    }

    /// A thread that panicked while holding it leaves it as good as it was.
    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(super) fn link(&self, interface: u32) -> PathBuf {
        self.dir().join(format!("{LINK}{interface}"))
    }
}

/// What is below a directory of pins for the network namespace of this process, whoever's it is.
#[derive(Debug)]
pub struct Survey {
    /// Whether something can be pinned there.
    pub is_writable: bool,
    /// The process that owns it, or owned it when it ended.
    pub owner: Option<u32>,
    /// On how many interfaces a pinned link has `snir_tc` run.
    pub links: usize,
    /// The directories of other versions.
    pub foreign: Vec<PathBuf>,
}

/// Looks, and touches nothing.
pub fn survey(dir: &Path) -> Result<Survey, PinError> {
    let there = check_file_system(dir)?;
    let root = of_namespace(dir).map_err(|error| PinError::Directory(dir.to_owned(), error))?;
    let links = fs::read_dir(own_version(&root)).into_iter().flatten();
    let is_link = |name: &str| name.starts_with(LINK);
    Ok(Survey {
        is_writable: access(there, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
        owner: owner(&root),
        links: links
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(is_link))
            .count(),
        foreign: foreign(&root),
    })
}

/// Removes a directory of pins of another version.
pub fn remove_all(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            remove_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    fs::remove_dir(dir)
}

fn of_namespace(dir: &Path) -> io::Result<PathBuf> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    Ok(dir.join(netns_cookie(&socket)?.to_string()))
}

fn own_version(root: &Path) -> PathBuf {
    root.join(format!("v{ABI}"))
}

/// The version whose directory of pins this is.
pub fn version_of(dir: &Path) -> Option<u32> {
    dir.file_name()?.to_str()?.strip_prefix('v')?.parse().ok()
}

fn foreign(root: &Path) -> Vec<PathBuf> {
    let own = own_version(root);
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let dirs = entries.map(|entry| entry.path());
    dirs.filter(|dir| *dir != own && dir.join(MAP_FLOWS).exists())
        .collect()
}

/// Of `dir`, or of what of it is there already, which is the answer.
fn check_file_system(dir: &Path) -> Result<&Path, PinError> {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    match statfs(there) {
        Ok(info) if info.f_type == BPF_FS_MAGIC => Ok(there),
        Ok(_) => Err(PinError::NotBpf(dir.to_owned())),
        Err(error) => Err(PinError::Directory(dir.to_owned(), error.into())),
    }
}

fn owner(root: &Path) -> Option<u32> {
    number(&root.join(OWNER))
}

fn number(link: &Path) -> Option<u32> {
    fs::read_link(link).ok()?.to_str()?.parse().ok()
}

/// Symbolic links, since a BPF file system has no files with contents.
const OWNER: &str = "owner";
const BEFORE: &str = "before";

/// What the names of links begin with; the number of the interface follows.
const LINK: &str = "link-";

// include/uapi/linux/magic.h
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;
