//! Learning of FIN and RST without being woken by every byte.
//!
//! A socket in a sock map still calls its old data-ready callback after each verdict, which wakes
//! whoever waits for `EPOLLIN` although there is nothing to read. So carried sockets leave tokio's
//! epoll and enter one of our own that asks for hang-ups only; that epoll is what tokio watches.

use std::cell::OnceCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio::io::unix::AsyncFd;
use tracing::error;

use super::slots::Slots;
use crate::sys::readable::readable;

/// Has `slot`'s connection woken on this thread when `socket` sees FIN, RST or an error, once for
/// each. Ends when the socket is closed.
pub(super) fn watch(slots: &Arc<Slots>, slot: u32, socket: impl AsFd) -> io::Result<()> {
    WATCHER.with(|cell| {
        let watcher = match cell.get() {
            Some(watcher) => watcher,
            None => {
                let started = start(Arc::clone(slots))?;
                cell.get_or_init(|| started)
            }
        };
        let flags = EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(
            &**watcher,
            socket,
            EventData::new_u64(slot.into()),
            flags,
        )?)
    })
}

/// Takes `socket` out again.
pub(super) fn forget(socket: impl AsFd) {
    WATCHER.with(|cell| {
        if let Some(watcher) = cell.get() {
            // Fails only if it is not in.
            let _ = epoll::delete(&**watcher, socket);
        }
    });
}

/// Makes the thread's watcher and starts its task on the thread's runtime.
fn start(slots: Arc<Slots>) -> io::Result<Rc<OwnedFd>> {
    let watcher = epoll::create(CreateFlags::CLOEXEC)?;
    let fd = readable(watcher.try_clone()?)?;
    tokio::spawn(async move {
        if let Err(error) = run(&fd, &slots).await {
            error!(%error, "hang-ups of carried connections are no longer seen");
        }
    });
    Ok(Rc::new(watcher))
}

async fn run(watcher: &AsyncFd<OwnedFd>, slots: &Slots) -> io::Result<()> {
    loop {
        let mut ready = watcher.readable().await?;
        while wake_some(watcher.get_ref(), slots)? == BATCH {}
        ready.clear_ready();
    }
}

/// Wakes whom the next events are about; answers how many there were.
fn wake_some(watcher: &OwnedFd, slots: &Slots) -> io::Result<usize> {
    let mut buffer = [MaybeUninit::uninit(); BATCH];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let (events, _) = epoll::wait(watcher, &mut buffer, Some(&at_once))?;
    for event in events.iter() {
        if let Ok(slot) = u32::try_from(event.data.u64()) {
            slots.wake(slot);
        }
    }
    Ok(events.len())
}

thread_local! {
    static WATCHER: OnceCell<Rc<OwnedFd>> = const { OnceCell::new() };
}

const BATCH: usize = 64;
