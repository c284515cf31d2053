use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

#[tokio::test]
async fn change_is_published_within_a_second_when_a_file_is_written() {
    let dir = directory(&[("a.yaml", "one")]);
    let mut watched = Watched::open(dir.path()).await;
    assert_eq!(watched.texts(), ["a.yaml=one"]);

    fs::write(dir.path().join("a.yaml"), "two").unwrap();
    assert_eq!(watched.next().await, ["a.yaml=two"]);
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/b.yaml"), "b").unwrap();
    assert_eq!(watched.next().await, ["a.yaml=two", "sub/b.yaml=b"]);
    fs::remove_dir_all(dir.path().join("sub")).unwrap();
    assert_eq!(watched.next().await, ["a.yaml=two"]);
}

/// As a shell does it: the file is empty until the program has something to say.
#[tokio::test]
async fn file_that_was_emptied_keeps_what_it_said_until_it_is_written_or_stays_empty() {
    let dir = directory(&[("a.yaml", "one"), ("b.yaml", "b")]);
    let path = dir.path().join("a.yaml");
    let mut watched = Watched::open(dir.path()).await;
    fs::write(&path, "").unwrap();
    let early = timeout(Duration::from_secs(1), watched.snapshots.changed()).await;
    assert!(early.is_err(), "{:?}", watched.texts());
    fs::write(&path, "two").unwrap();
    assert_eq!(watched.next().await, ["a.yaml=two", "b.yaml=b"]);

    fs::write(&path, "").unwrap();
    let late = timeout(Duration::from_secs(10), watched.snapshots.changed()).await;
    late.expect("it is over some time").unwrap();
    assert_eq!(watched.texts(), ["a.yaml=", "b.yaml=b"]);
    // Who asks does not wait.
    fs::write(&path, "three").unwrap();
    assert_eq!(watched.next().await, ["a.yaml=three", "b.yaml=b"]);
    fs::write(&path, "").unwrap();
    let _ = watched.directory.reader().ask().await;
    assert_eq!(watched.texts(), ["a.yaml=", "b.yaml=b"]);
}

#[tokio::test]
async fn change_is_published_when_kubernetes_swaps_its_volume() {
    // As the kubelet's atomic writer does: data directory, `..data` link, one link a file.
    let dir = directory(&[
        ("..v1/a.yaml", "one"),
        ("..v2/a.yaml", "two"),
        ("..v3/a.yaml", "3"),
    ]);
    symlink("..v1", dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let mut watched = Watched::open(dir.path()).await;
    assert_eq!(watched.texts(), ["a.yaml=one"]);
    for (version, text) in [("..v2", "a.yaml=two"), ("..v3", "a.yaml=3")] {
        symlink(version, dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        assert_eq!(watched.next().await, [text]);
    }
}

#[tokio::test]
async fn change_is_published_when_the_path_is_a_link_that_is_swapped() {
    let dir = directory(&[("v1/a.yaml", "one"), ("v2/a.yaml", "two")]);
    let current = dir.path().join("current");
    symlink("v1", &current).unwrap();
    let mut watched = Watched::open(&current).await;
    symlink("v2", dir.path().join("next")).unwrap();
    fs::rename(dir.path().join("next"), &current).unwrap();
    assert_eq!(watched.next().await, ["a.yaml=two"]);
    // The watcher has followed.
    fs::write(dir.path().join("v2/a.yaml"), "three").unwrap();
    assert_eq!(watched.next().await, ["a.yaml=three"]);
}

#[tokio::test]
async fn change_is_published_when_a_single_file_is_replaced() {
    let dir = directory(&[("a.yaml", "one")]);
    let path = dir.path().join("a.yaml");
    let source = Directory::open(path.clone(), |path| fs::read_to_string(path))
        .await
        .unwrap();
    let mut snapshots = source.snapshots();
    for text in ["two", "three"] {
        // As editors save: the file that was watched is gone afterwards.
        fs::write(dir.path().join("new"), text).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        timeout(Duration::from_secs(1), snapshots.changed())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(**snapshots.borrow_and_update(), text);
    }
}

#[tokio::test]
async fn nothing_is_published_when_the_texts_are_the_same() {
    let dir = directory(&[("a.yaml", "one")]);
    let mut watched = Watched::open(dir.path()).await;
    fs::write(dir.path().join("a.yaml"), "one").unwrap();
    // Ends with an error, since nobody answers more than that it is over.
    let _ = watched.directory.reader().ask().await;
    // Whatever was published for these would come before the next change.
    tokio::time::sleep(2 * SETTLE_MOST).await;
    assert!(!watched.snapshots.has_changed().unwrap());
    fs::write(dir.path().join("a.yaml"), "two").unwrap();
    assert_eq!(watched.next().await, ["a.yaml=two"]);
}

#[tokio::test]
async fn last_snapshot_stays_when_the_directory_goes_away() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("manifests");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), "one").unwrap();
    let mut watched = Watched::open(&path).await;

    fs::rename(&path, parent.path().join("away")).unwrap();
    tokio::time::sleep(2 * SETTLE_MOST).await;
    assert!(!watched.snapshots.has_changed().unwrap());
    assert_eq!(watched.texts(), ["a.yaml=one"]);
    let unread = watched.directory.unread();
    let why = unread.load_full().unwrap();
    assert!(
        why.contains("manifests") && why.contains("create it"),
        "{why}"
    );

    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), "back").unwrap();
    assert_eq!(watched.next().await, ["a.yaml=back"]);
    assert_eq!(unread.load_full(), None);
}

#[tokio::test]
async fn reading_is_not_taken_for_a_change() {
    let dir = directory(&[("a.yaml", "one")]);
    let reads = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&reads);
    let directory = Directory::open(dir.path().into(), move |path| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        read(path)
    });
    let directory = directory.await.unwrap();
    let done = directory.reader().ask();
    let _ = done.await;
    let count = || reads.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(count(), 2, "one at the start, one for reload()");
    tokio::time::sleep(3 * SETTLE_MOST).await;
    assert_eq!(count(), 2);
}

#[tokio::test]
async fn opening_fails_with_path_and_remedy_when_there_is_no_directory() {
    let error = Directory::open("/does/not/exist".into(), read)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("/does/not/exist"), "{error}");
    assert!(error.contains("create it"), "{error}");
}

struct Watched {
    directory: Directory<Texts>,
    snapshots: watch::Receiver<Arc<Texts>>,
}

impl Watched {
    async fn open(path: &Path) -> Self {
        let directory = Directory::open(path.into(), read).await.unwrap();
        let snapshots = directory.snapshots();
        Self {
            directory,
            snapshots,
        }
    }

    /// The next snapshot, which has to come within the second that users are promised.
    async fn next(&mut self) -> Vec<String> {
        let changed = timeout(Duration::from_secs(1), self.snapshots.changed()).await;
        changed
            .expect("a change is published within a second")
            .unwrap();
        self.texts()
    }

    fn texts(&mut self) -> Vec<String> {
        let texts = self.snapshots.borrow_and_update();
        texts
            .iter()
            .map(|(path, text)| format!("{path}={text}"))
            .collect()
    }
}

type Texts = BTreeMap<String, String>;

/// All files whose path has no part that begins with `..`.
fn read(root: &Path) -> io::Result<Texts> {
    fn walk(root: &Path, path: &Path, texts: &mut Texts) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with("..") {
                continue;
            } else if path.is_dir() {
                walk(root, &path, texts)?;
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                texts.insert(name, fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }
    let mut texts = Texts::new();
    walk(root, root, &mut texts)?;
    Ok(texts)
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}
