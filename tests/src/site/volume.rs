//! A directory that changes the way a mounted ConfigMap does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Site;

/// A directory laid out by kubelet's atomic writer: the files are symlinks through `..data`, itself
/// a symlink to a directory of the current version, and a new version appears by renaming a new
/// `..data` over the old one. The visible names never change.
///
/// Source: kubernetes `pkg/volume/util/atomic_writer.go`.
#[derive(Debug)]
pub struct KubernetesVolume {
    dir: PathBuf,
    version: u32,
}

impl KubernetesVolume {
    /// Makes the volume with a first version of the manifests.
    pub fn new(dir: &Path, site: &Site) -> Self {
        fs::create_dir_all(dir).expect("make the volume");
        let mut this = Self {
            dir: dir.to_owned(),
            version: 0,
        };
        this.publish(site);
        this
    }

    /// Swaps in the next version and removes the one before, as kubelet does. No file of the first
    /// version may be missing in it.
    pub fn publish(&mut self, site: &Site) {
        let old = self.version_dir();
        self.version += 1;
        let new = self.version_dir();
        site.write_to(&self.dir.join(&new));

        let swap = self.dir.join("..data_tmp");
        symlink(&new, &swap).expect("make ..data_tmp");
        fs::rename(&swap, self.dir.join("..data")).expect("swap ..data");
        for (file, _) in site.files() {
            let visible = self.dir.join(&file);
            if !visible.exists() {
                symlink(Path::new("..data").join(&file), visible).expect("link a visible name");
            }
        }
        if self.version > 1 {
            fs::remove_dir_all(self.dir.join(old)).expect("remove the old version");
        }
    }

    /// The name of the current version's directory; kubelet takes a time stamp.
    fn version_dir(&self) -> String {
        format!("..2026_01_01_00_00_{:02}.1", self.version)
    }
}
