//! A cheap way to see that a directory has changed, where no event says so.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What the file system says of a file, or of a directory and all below it, as one number; no
/// file is opened.
///
/// Two fingerprints differ when a file was added, removed, renamed, replaced or written, also
/// behind a symbolic link. That they are equal is no proof: a write within the file system's
/// time stamp granularity that keeps the size goes unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    hash: u64,
    /// Whether a file was emptied a moment ago: somebody is about to write it (`helm template … > all.yaml`).
    pub(super) is_unwritten: bool,
}

impl Fingerprint {
    /// Fails only if `path` itself cannot be looked at; what cannot be below it counts as a fact
    /// like any other.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        let mut walk = Walk {
            now: SystemTime::now(),
            hash: 0,
            is_unwritten: false,
            seen: HashSet::new(),
        };
        if meta.is_dir() {
            walk.directory(path, &meta)?;
        } else {
            walk.add(path, Ok(&meta));
        }
        Ok(Self {
            hash: walk.hash,
            is_unwritten: walk.is_unwritten,
        })
    }
}

struct Walk {
    now: SystemTime,
    is_unwritten: bool,
    /// Sum of the entries' hashes, since a directory lists them in any order.
    hash: u64,
    /// Directories seen, by device and inode: symbolic links can make a circle.
    seen: HashSet<(u64, u64)>,
}

impl Walk {
    fn directory(&mut self, path: &Path, meta: &Metadata) -> io::Result<()> {
        self.add(path, Ok(meta));
        if !self.seen.insert((meta.dev(), meta.ino())) {
            return Ok(());
        }
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            match fs::metadata(&path) {
                Ok(meta) if meta.is_dir() => {
                    if let Err(error) = self.directory(&path, &meta) {
                        self.add(&path, Err(error.kind()));
                    }
                }
                Ok(meta) => self.add(&path, Ok(&meta)),
                Err(error) => self.add(&path, Err(error.kind())),
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, fact: Result<&Metadata, io::ErrorKind>) {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        match fact {
            Ok(meta) => {
                self.is_unwritten |= !is_hidden(path) && self.was_just_emptied(meta);
                (meta.dev(), meta.ino(), meta.size(), meta.mode()).hash(&mut hasher);
                (
                    meta.mtime(),
                    meta.mtime_nsec(),
                    meta.ctime(),
                    meta.ctime_nsec(),
                )
                    .hash(&mut hasher);
            }
            Err(kind) => kind.hash(&mut hasher),
        }
        self.hash = self.hash.wrapping_add(hasher.finish());
    }

    fn was_just_emptied(&self, meta: &Metadata) -> bool {
        // Other machines may have other clocks; what is in the future is not waited for.
        let age = meta.modified().map(|at| self.now.duration_since(at));
        meta.is_file() && meta.len() == 0 && matches!(age, Ok(Ok(age)) if age < UNWRITTEN)
    }
}

/// What begins with a dot is nobody's manifest.
fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with('.'))
}

/// What a program may take from being started with its output going to a file to its first word.
pub(super) const UNWRITTEN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn fingerprint_differs_when_something_below_changed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("v1/sub")).unwrap();
        fs::create_dir(root.join("v2")).unwrap();
        fs::write(root.join("v1/sub/a.yaml"), "one").unwrap();
        symlink("v1", root.join("data")).unwrap();

        let mut last = Fingerprint::of(root).unwrap();
        assert_eq!(Fingerprint::of(root).unwrap(), last, "nothing changed");
        let changes: [(&str, &dyn Fn()); 5] = [
            ("written", &|| {
                fs::write(root.join("v1/sub/a.yaml"), "three").unwrap()
            }),
            ("added", &|| fs::write(root.join("b.yaml"), "").unwrap()),
            ("renamed", &|| {
                fs::rename(root.join("b.yaml"), root.join("c.yaml")).unwrap()
            }),
            ("link swapped", &|| {
                symlink("v2", root.join("tmp")).unwrap();
                fs::rename(root.join("tmp"), root.join("data")).unwrap();
            }),
            ("removed", &|| fs::remove_file(root.join("c.yaml")).unwrap()),
        ];
        for (what, change) in changes {
            change();
            let now = Fingerprint::of(root).unwrap();
            assert_ne!(now, last, "{what}");
            last = now;
        }
    }

    #[test]
    fn fingerprint_ends_when_links_make_a_circle() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        symlink("..", dir.path().join("sub/up")).unwrap();
        symlink("nowhere", dir.path().join("dangling")).unwrap();
        Fingerprint::of(dir.path()).unwrap();
    }

    #[test]
    fn file_is_unwritten_for_a_moment_after_it_was_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("all.yaml");
        let is_unwritten = || Fingerprint::of(dir.path()).unwrap().is_unwritten;
        fs::write(&path, "one").unwrap();
        assert!(!is_unwritten());
        let file = File::create(&path).unwrap();
        assert!(is_unwritten());
        let emptied = SystemTime::now();
        for (at, expected) in [
            (emptied - UNWRITTEN, false),
            (emptied + 2 * UNWRITTEN, false),
            (emptied - UNWRITTEN / 2, true),
        ] {
            file.set_modified(at).unwrap();
            assert_eq!(is_unwritten(), expected);
        }
        fs::write(&path, "two").unwrap();
        File::create(dir.path().join(".keep")).unwrap();
        assert!(!is_unwritten());
    }

    #[test]
    fn fingerprint_fails_when_there_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Fingerprint::of(&dir.path().join("none")).is_err());
    }
}
