//! Events of a directory, as far as the kernel gives any.

use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Wakes somebody at every change in a directory while it lives.
///
/// What exists below the directory is looked up once, so a watcher is made anew after a change:
/// the old one knows nothing of what is behind a symbolic link that was swapped.
pub(super) struct Watcher {
    /// Ends with its drop.
    _events: RecommendedWatcher,
}

impl Watcher {
    /// Watches `directory` and all below it.
    pub(super) fn new(directory: &Path, changed: Arc<Notify>) -> notify::Result<Self> {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error may be the loss of events: look.
            if event.map_or(true, |event| is_change(&event)) {
                changed.notify_one();
            }
        })?;
        watcher.watch(directory, RecursiveMode::Recursive)?;
        Ok(Self { _events: watcher })
    }
}

/// Everything but reading, which we do ourselves and would answer by reading again.
fn is_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => event.need_rescan(),
        _ => true,
    }
}
