//! The last good state of a cluster on disk, for a start without its API server.
//!
//! One file a cluster: a line that says what it is, then a line for every object. A file is
//! written aside and put in place when it is on the disk, so it is whole or not there. Private keys
//! are in no text, and so in no file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::Hasher as _;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use sni_router_core::model::Cluster;
use thiserror::Error;

/// What is kept of a cluster: a path and a text for every object.
pub type Files = Vec<(String, Arc<str>)>;

/// Where the state of one cluster is kept.
#[derive(Clone, Debug)]
pub struct Cache {
    path: PathBuf,
    /// Of what is watched.
    scope: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    /// What was watched.
    #[serde(default)]
    scope: u64,
    objects: usize,
    checksum: u64,
}

impl Cache {
    /// In `directory`, which need not be there yet; `scope` says in any words what is watched.
    pub fn new(directory: &Path, cluster: &Cluster, scope: &str) -> Self {
        let name = match cluster.as_str() {
            "" => "cluster.cache".to_owned(),
            name => format!("cluster-{name}.cache"),
        };
        Self {
            path: directory.join(name),
            scope: checksum(scope.as_bytes()),
        }
    }

    /// What was kept last; `None` if nothing was. Blocks.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is not what was written.
    pub fn load(&self) -> Result<Option<Files>, CacheError> {
        match fs::read(&self.path) {
            Ok(bytes) => self.parse(&bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.io(source)),
        }
    }

    /// Keeps `files`. Blocks.
    pub fn save(&self, files: &Files) -> Result<(), CacheError> {
        self.write(files).map_err(|source| self.io(source))
    }

    /// Forgets what was kept.
    pub fn remove(&self) -> Result<(), CacheError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io(error)),
            _ => Ok(()),
        }
    }

    fn parse(&self, bytes: &[u8]) -> Result<Files, CacheError> {
        let wrong = |why| CacheError::Wrong {
            path: self.path.clone(),
            why,
        };
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (head, body) = bytes.split_at(end.ok_or_else(|| wrong("is cut off"))? + 1);
        let head: Head = serde_json::from_slice(head).map_err(|_| wrong("has no head"))?;
        if head.format != FORMAT || head.version != VERSION {
            return Err(wrong("is of another version"));
        }
        if head.scope != self.scope {
            return Err(wrong("is of other namespaces, labels or kinds"));
        }
        if head.checksum != checksum(body) {
            return Err(wrong("is damaged"));
        }
        let files: Files = serde_json::Deserializer::from_slice(body)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|_| wrong("is damaged"))?;
        match files.len() == head.objects {
            true => Ok(files),
            false => Err(wrong("is cut off")),
        }
    }

    fn write(&self, files: &Files) -> io::Result<()> {
        let mut body = Vec::new();
        for file in files {
            serde_json::to_writer(&mut body, file)?;
            body.push(b'\n');
        }
        let head = Head {
            format: FORMAT.into(),
            version: VERSION,
            scope: self.scope,
            objects: files.len(),
            checksum: checksum(&body),
        };
        let directory = self.path.parent().unwrap_or(Path::new("."));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let directory = File::open(directory)?;
        // Whoever else writes here waits: this process, or one that takes over. Not every file system
        // has locks.
        let _ = directory.lock();
        let aside = self.path.with_extension("new");
        // What is left of an earlier attempt may have other rights.
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)?;
        serde_json::to_writer(&mut file, &head)?;
        file.write_all(b"\n")?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        directory.sync_all()
    }

    fn io(&self, source: io::Error) -> CacheError {
        CacheError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// Why there is no state to begin with, or none was kept.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The system says no.
    #[error("{}: {source} (--cache-dir names another directory)", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// Not what was written.
    #[error("{} {why}, and is ignored", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Against a disk that forgets, not against an attacker, who would have the key as well.
fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

const FORMAT: &str = "sni-router cluster";
/// 2: certificates are without the keys that stood beside them.
const VERSION: u32 = 2;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn files() -> Files {
        vec![
            ("ingress/a/b.json".into(), "{\"a\":\n1}".into()),
            ("ingress/a/c.json".into(), "{}".into()),
        ]
    }

    #[test]
    fn what_was_kept_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er");
        let cache = Cache::new(&path, &"east".parse().unwrap(), "all");
        assert!(cache.load().unwrap().is_none());
        cache.save(&files()).unwrap();
        assert_eq!(cache.load().unwrap().unwrap(), files());
        let other = Cache::new(&path, &"east".parse().unwrap(), "some");
        assert!(matches!(other.load(), Err(CacheError::Wrong { .. })));
        let mode = fs::metadata(&cache.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        cache.save(&Files::new()).unwrap();
        assert_eq!(cache.load().unwrap().unwrap(), Files::new());
        cache.remove().unwrap();
        cache.remove().unwrap();
        assert!(cache.load().unwrap().is_none());
    }

    #[test]
    fn file_that_is_not_what_was_written_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), &Cluster::default(), "");
        cache.save(&files()).unwrap();
        let good = fs::read(&cache.path).unwrap();
        for cut in 0..good.len() {
            fs::write(&cache.path, &good[..cut]).unwrap();
            assert!(cache.load().is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&cache.path, &bad).unwrap();
            match cache.load() {
                Err(CacheError::Wrong { .. }) => {}
                // A name in the head that means nothing.
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
}
