//! Snapshots of a directory of manifests, or of another file.
//!
//! A change only marks the directory dirty; a moment later the whole of it is read again, and
//! published if it says something else. What cannot be read changes nothing: the last snapshot
//! stays.

use std::error::Error;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};

use super::fingerprint::{Fingerprint, UNWRITTEN};
use super::watcher::Watcher;

/// A directory that is watched as long as this lives.
pub struct Directory<S> {
    snapshots: watch::Receiver<Arc<S>>,
    reload: Reader,
    unread: Arc<Unread>,
    task: JoinHandle<()>,
}

/// Has the directory read.
#[derive(Clone)]
pub struct Reader(mpsc::UnboundedSender<Asked>);

impl Reader {
    /// Now, whether or not it seems changed. The answer ends when that is done.
    pub fn ask(&self) -> oneshot::Receiver<()> {
        let (asked, done) = oneshot::channel();
        // Fails where nobody reads any more; then the answer has ended.
        let _ = self.0.send(asked);
        done
    }
}

/// Why the directory cannot be read, while that is so: what it said last stays in force.
pub type Unread = ArcSwapOption<String>;

impl<S: PartialEq + Send + Sync + 'static> Directory<S> {
    /// Reads `path` with `read` and begins to watch it.
    ///
    /// `read` runs where blocking is allowed. Needs a tokio runtime with time.
    pub async fn open(
        path: PathBuf,
        read: impl Fn(&Path) -> io::Result<S> + Send + Sync + 'static,
    ) -> Result<Self, DirectoryError> {
        let source = Arc::new(Source {
            path,
            read: Box::new(read),
            changed: Arc::default(),
        });
        let look = source.look().await?;
        let (publish, snapshots) = watch::channel(Arc::new(source.understood(look.snapshot)?));
        let (reload, asked) = mpsc::unbounded_channel();
        let mut follower = Follower {
            source,
            asked,
            publish,
            fingerprint: look.fingerprint,
            held_since: None,
            watcher: None,
            read_error: Arc::default(),
            watch_error: None,
        };
        let unread = Arc::clone(&follower.read_error);
        follower.keep(look.watcher);
        Ok(Self {
            snapshots,
            reload: Reader(reload),
            unread,
            task: tokio::spawn(follower.run()),
        })
    }

    /// The last snapshot that could be read, and those to come.
    pub fn snapshots(&self) -> watch::Receiver<Arc<S>> {
        self.snapshots.clone()
    }

    /// Why it cannot be read, from now on.
    pub fn unread(&self) -> Arc<Unread> {
        Arc::clone(&self.unread)
    }

    /// Whom to ask to read it again.
    pub fn reader(&self) -> Reader {
        self.reload.clone()
    }
}

impl<S> Drop for Directory<S> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why there is no new snapshot.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The system does not let us read it.
    #[error("cannot read {}: {source} ({})", path.display(), remedy(source))]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A bug.
    #[error("reading {} panicked (please report this)", .0.display())]
    Panicked(PathBuf),
}

impl DirectoryError {
    /// What the system says, where it is that.
    pub fn cause(&self) -> &(dyn Error + 'static) {
        match self {
            Self::Unreadable { source, .. } => source,
            Self::Panicked(_) => self,
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "create it, or name another one",
        io::ErrorKind::NotADirectory => "name a directory, not a file",
        io::ErrorKind::PermissionDenied => "let the user the router runs as read it",
        _ => "check the file system it is on",
    }
}

/// What is looked at, and how.
struct Source<S> {
    path: PathBuf,
    read: Box<Read<S>>,
    /// Woken by the watcher.
    changed: Arc<Notify>,
}

type Read<S> = dyn Fn(&Path) -> io::Result<S> + Send + Sync;

/// The directory at one moment.
struct Look<S> {
    watcher: notify::Result<Watcher>,
    fingerprint: Option<Fingerprint>,
    snapshot: io::Result<S>,
}

impl<S: Send + Sync + 'static> Source<S> {
    async fn look(self: &Arc<Self>) -> Result<Look<S>, DirectoryError> {
        let source = Arc::clone(self);
        // This order: what changes while we read is seen by the new watcher or fingerprint.
        let look = spawn_blocking(move || Look {
            watcher: Watcher::new(&source.path, Arc::clone(&source.changed)),
            fingerprint: Fingerprint::of(&source.path).ok(),
            snapshot: (source.read)(&source.path),
        });
        look.await
            .map_err(|_| DirectoryError::Panicked(self.path.clone()))
    }

    fn understood(&self, snapshot: io::Result<S>) -> Result<S, DirectoryError> {
        snapshot.map_err(|source| DirectoryError::Unreadable {
            path: self.path.clone(),
            source,
        })
    }
}

/// A wish to have it read again; dropped when it has been.
type Asked = oneshot::Sender<()>;

/// The task that follows the directory.
struct Follower<S> {
    source: Arc<Source<S>>,
    asked: mpsc::UnboundedReceiver<Asked>,
    publish: watch::Sender<Arc<S>>,
    /// As of the last look; `None` where there was no directory.
    fingerprint: Option<Fingerprint>,
    /// Since when nothing is read, since a file seems about to be written.
    held_since: Option<Instant>,
    watcher: Option<Watcher>,
    /// What was logged last and still holds.
    read_error: Arc<Unread>,
    watch_error: Option<String>,
}

impl<S: PartialEq + Send + Sync + 'static> Follower<S> {
    async fn run(mut self) {
        let mut pause = POLL;
        loop {
            // Answered by being dropped, after the reading below.
            let mut asked = Vec::new();
            tokio::select! {
                () = self.source.changed.notified() => self.settle().await,
                Some(first) = self.asked.recv() => {
                    info!("reading {} again, as asked", self.source.path.display());
                    asked.push(first);
                    // One reading does for all who have asked before it.
                    asked.extend(iter::from_fn(|| self.asked.try_recv().ok()));
                }
                () = sleep(pause) => {
                    let began = Instant::now();
                    let dirty = self.looks_different().await;
                    pause = POLL.max(began.elapsed() * POLL_SHARE);
                    if !dirty {
                        continue;
                    }
                }
            }
            self.read(!asked.is_empty()).await;
        }
    }

    /// Waits until whoever is writing seems to have finished.
    async fn settle(&self) {
        let end = Instant::now() + SETTLE_MOST;
        while Instant::now() < end {
            let quiet = end.min(Instant::now() + SETTLE);
            if timeout_at(quiet, self.source.changed.notified())
                .await
                .is_err()
            {
                break;
            }
        }
    }

    async fn looks_different(&self) -> bool {
        let source = Arc::clone(&self.source);
        let now = spawn_blocking(move || Fingerprint::of(&source.path).ok())
            .await
            .ok()
            .flatten();
        // After a failure there is nothing to compare with: the cause need not be in the
        // directory.
        now != self.fingerprint || self.read_error.load().is_some()
    }

    /// Reads it. Unless somebody has asked for that, not while a file is being written anew: what it said stays until
    /// then, and should it stay empty, the fingerprint changes.
    async fn read(&mut self, is_asked: bool) {
        let snapshot = match self.source.look().await {
            Ok(look) => {
                self.fingerprint = look.fingerprint;
                self.keep(look.watcher);
                if !is_asked && look.fingerprint.is_some_and(|it| it.is_unwritten) {
                    let since = *self.held_since.get_or_insert_with(Instant::now);
                    // One that is emptied again and again keeps nothing else back.
                    if since.elapsed() < UNWRITTEN {
                        return;
                    }
                }
                self.held_since = None;
                self.source.understood(look.snapshot)
            }
            Err(error) => Err(error),
        };
        match snapshot {
            Ok(snapshot) => self.publish(snapshot),
            Err(error) => {
                let error = error.to_string();
                if self.read_error.load().as_deref() != Some(&error) {
                    error!("{error}; the last snapshot stays in force");
                    self.read_error.store(Some(Arc::new(error)));
                }
            }
        }
    }

    fn publish(&mut self, snapshot: S) {
        if self.read_error.swap(None).is_some() {
            info!("{} can be read again", self.source.path.display());
        }
        self.publish.send_if_modified(|last| {
            let differs = **last != snapshot;
            if differs {
                *last = Arc::new(snapshot);
            }
            differs
        });
    }

    /// Takes the new watcher in the place of the old one.
    fn keep(&mut self, watcher: notify::Result<Watcher>) {
        let error = watcher.as_ref().err().map(ToString::to_string);
        if let Some(error) = &error
            && self.watch_error.as_ref() != Some(error)
            && self.fingerprint.is_some()
        {
            warn!(
                "no events for {}: {error}; changes are found by looking every {POLL:?} (raise \
                 fs.inotify.max_user_watches or max_user_instances if the system ran out of them)",
                self.source.path.display(),
            );
        }
        self.watch_error = error;
        self.watcher = watcher.ok();
    }
}

/// A file written in several steps gives events all along; they are over when none came for so
/// long. A directory that never rests is read all the same, soon enough to have applied a change
/// within a second.
const SETTLE: Duration = Duration::from_millis(100);
const SETTLE_MOST: Duration = Duration::from_millis(500);

/// How often to look without an event: network file systems, some overlays, and a path that
/// itself is a symbolic link give none.
const POLL: Duration = Duration::from_millis(500);

/// Looking at a hundred thousand files takes a while. The pause between looks is at least so
/// many times as long, so that they never cost more than 5 % of a core.
const POLL_SHARE: u32 = 20;

#[cfg(test)]
mod tests;
