//! A directory of manifests as a snapshot.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sni_router_core::manifest::{Snapshot, SourceFile, UnreadableFile};
use sni_router_core::model::Cluster;

/// Reads every `*.yaml`, `*.yml` and `*.json` of `directory` and its subdirectories, in the order
/// of their paths. `directory` may also be a single file, whatever its name.
///
/// What is below `clusters/NAME/` is of the cluster of that name, the rest of the one without a
/// name.
///
/// Symbolic links are followed. Names that begin with a dot are passed over; among them is all
/// that Kubernetes puts beside the links of a ConfigMap or Secret volume (`..data` and the
/// directory with a time in its name), so nothing is read twice. Where such a volume is switched
/// to new contents while it is read, it is read again: a snapshot is of one moment.
///
/// # Errors
///
/// A directory that cannot be listed, at any depth: nobody knows what is missing then. A file that
/// cannot be read is no error but part of the snapshot, as [`UnreadableFile`].
pub fn read_dir(directory: &Path) -> io::Result<Snapshot> {
    for _ in 1..ATTEMPTS {
        let mut walk = Walk::default();
        let outcome = walk.start(directory);
        if !walk.changed() {
            return outcome.map(|()| walk.snapshot);
        }
    }
    let mut walk = Walk::default();
    walk.start(directory).map(|()| walk.snapshot)
}

#[derive(Default)]
struct Walk {
    snapshot: Snapshot,
    /// The cluster that is read.
    cluster: Cluster,
    /// Directories seen, by device and inode: symbolic links can make a circle. Two clusters may
    /// be one directory.
    seen: HashSet<(Cluster, u64, u64)>,
    /// Every directory's `..data` link, as it was before the directory was read.
    links: Vec<(PathBuf, Option<PathBuf>)>,
    /// Whether a file was gone between being listed and being opened.
    vanished: bool,
}

impl Walk {
    fn start(&mut self, path: &Path) -> io::Result<()> {
        if fs::metadata(path)?.is_file() {
            self.file(path);
            return Ok(());
        }
        self.directory(path, Level::Top)
    }

    fn directory(&mut self, path: &Path, level: Level) -> io::Result<()> {
        let meta = fs::metadata(path)?;
        let seen = (self.cluster.clone(), meta.dev(), meta.ino());
        if !self.seen.insert(seen) {
            return Ok(());
        }
        let link = path.join("..data");
        let target = fs::read_link(&link).ok();
        self.links.push((link, target));
        let mut paths = fs::read_dir(path)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.path()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .map_err(|error| named(error, path))?;
        paths.sort();
        for path in paths.into_iter().filter(|path| !is_hidden(path)) {
            match fs::metadata(&path) {
                Ok(meta) if meta.is_dir() => self.below(&path, level)?,
                _ if is_manifest(&path) => self.file(&path),
                _ => {}
            }
        }
        Ok(())
    }

    /// A subdirectory of a directory at `level`.
    fn below(&mut self, path: &Path, level: Level) -> io::Result<()> {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        match level {
            Level::Top if name == CLUSTERS => self.directory(path, Level::Clusters),
            Level::Top | Level::Deeper => self.directory(path, Level::Deeper),
            Level::Clusters => {
                match name.parse() {
                    Ok(cluster) => {
                        self.cluster = cluster;
                        self.directory(path, Level::Deeper)?;
                    }
                    Err(error) => self.snapshot.unreadable.push(UnreadableFile {
                        path: path.display().to_string(),
                        why: format!("is skipped: {name:?} {error}"),
                        ..UnreadableFile::default()
                    }),
                }
                self.cluster = Cluster::default();
                Ok(())
            }
        }
    }

    fn file(&mut self, path: &Path) {
        let cluster = self.cluster.clone();
        let name = path.display().to_string();
        match read_text(path) {
            Ok(text) => self.snapshot.files.push(SourceFile {
                cluster,
                path: name,
                text: text.into(),
            }),
            Err(why) => {
                self.vanished |= matches!(&why, Why::Io(e) if e.kind() == io::ErrorKind::NotFound);
                let why = why.to_string();
                self.snapshot.unreadable.push(UnreadableFile {
                    cluster,
                    path: name,
                    why,
                });
            }
        }
    }

    /// Whether what was read may be of two moments.
    fn changed(&self) -> bool {
        self.vanished
            || self
                .links
                .iter()
                .any(|(link, target)| fs::read_link(link).ok() != *target)
    }
}

/// Where in the tree a directory is.
#[derive(Clone, Copy)]
enum Level {
    Top,
    /// The directory of clusters.
    Clusters,
    Deeper,
}

/// Why a file's text cannot be had.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is not a regular file")]
    Special,
    #[error("is larger than {} MiB", MAX_SIZE >> 20)]
    TooLarge,
    #[error("is not UTF-8")]
    NotText,
}

fn read_text(path: &Path) -> Result<String, Why> {
    // Looked at before it is opened: opening a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(Why::Special);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_SIZE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(Why::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| Why::NotText)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    extension.is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"))
}

fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The directory whose subdirectories are clusters.
const CLUSTERS: &str = "clusters";

/// A directory that changes faster than it is read is taken as it was last found.
const ATTEMPTS: usize = 5;

/// Some hundred thousand objects; a ConfigMap holds 1 MiB at most.
const MAX_SIZE: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(snapshot: &Snapshot, root: &Path) -> Vec<String> {
        let prefix = format!("{}/", root.display());
        snapshot
            .files
            .iter()
            .map(|file| file.path.replace(&prefix, ""))
            .collect()
    }

    #[test]
    fn manifests_are_read_in_order_of_their_paths_when_in_subdirectories() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("b/deep")).unwrap();
        for name in [
            "c.yaml",
            "b/deep/z.yml",
            "a.json",
            "b/x.yaml",
            "notes.txt",
            ".hidden.yaml",
        ] {
            fs::write(root.join(name), name).unwrap();
        }
        let snapshot = read_dir(root).unwrap();
        assert_eq!(
            names(&snapshot, root),
            ["a.json", "b/deep/z.yml", "b/x.yaml", "c.yaml"]
        );
        assert_eq!(&*snapshot.files[0].text, "a.json");
    }

    #[test]
    fn volume_is_read_once_when_laid_out_by_kubernetes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("..2026_01_01")).unwrap();
        fs::write(root.join("..2026_01_01/a.yaml"), "first").unwrap();
        symlink("..2026_01_01", root.join("..data")).unwrap();
        symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
        let snapshot = read_dir(root).unwrap();
        assert_eq!(names(&snapshot, root), ["a.yaml"]);
        assert_eq!(&*snapshot.files[0].text, "first");
    }

    #[test]
    fn file_that_cannot_be_read_is_told_and_leaves_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::write(root.join("a.yaml"), "good").unwrap();
        fs::write(root.join("b.yaml"), [0xff, 0xfe]).unwrap();
        symlink("nowhere", root.join("c.yaml")).unwrap();
        let snapshot = read_dir(root).unwrap();
        assert_eq!(names(&snapshot, root), ["a.yaml"]);
        let why: Vec<_> = snapshot
            .unreadable
            .iter()
            .map(|file| file.why.as_str())
            .collect();
        assert_eq!(why.len(), 2);
        assert_eq!(why[0], "is not UTF-8");
        assert!(why[1].starts_with("cannot be read: "), "{why:?}");
    }

    #[test]
    fn circle_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/a.yaml"), "").unwrap();
        symlink("..", dir.path().join("sub/up")).unwrap();
        assert_eq!(read_dir(dir.path()).unwrap().files.len(), 1);
    }

    #[test]
    fn subdirectories_of_clusters_are_clusters() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for directory in ["clusters/east/deep", "clusters/Not_One", "other/clusters/x"] {
            fs::create_dir_all(root.join(directory)).unwrap();
            fs::write(root.join(directory).join("a.yaml"), "").unwrap();
        }
        fs::write(root.join("clusters/b.yaml"), "").unwrap();
        symlink("east", root.join("clusters/west")).unwrap();
        let snapshot = read_dir(root).unwrap();
        let found: Vec<_> = names(&snapshot, root)
            .into_iter()
            .zip(snapshot.files.iter().map(|file| file.cluster.as_str()))
            .collect();
        let expected = [
            ("clusters/b.yaml", ""),
            ("clusters/east/deep/a.yaml", "east"),
            ("clusters/west/deep/a.yaml", "west"),
            ("other/clusters/x/a.yaml", ""),
        ];
        assert_eq!(
            found,
            expected.map(|(path, cluster)| (path.to_owned(), cluster))
        );
        let [refused] = &snapshot.unreadable[..] else {
            panic!("{:?}", snapshot.unreadable);
        };
        assert!(refused.path.ends_with("clusters/Not_One"), "{refused:?}");
    }

    #[test]
    fn directory_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_dir(&dir.path().join("none")).is_err());
    }
}
