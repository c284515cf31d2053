//! Clients that are not served, as a file says.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sni_router_core::addresses::{AddressError, AddressSet};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::carry::End;
use crate::proxy::census::Census;
use crate::proxy::gate::Gate;
use crate::source::directory::Directory;

/// The addresses, and the lines that are none.
type List = (AddressSet, Vec<AddressError>);

/// A file of addresses and networks that is watched.
pub struct Denied {
    path: PathBuf,
    file: Directory<List>,
    gate: Arc<Gate>,
}

impl Denied {
    /// Reads the file. From now on, the gate is closed to its addresses.
    pub async fn open(path: PathBuf, gate: Arc<Gate>) -> Result<Self> {
        let file = Directory::open(path.clone(), read).await;
        let file = file.with_context(|| format!("--deny-file {}", path.display()))?;
        let denied = Self { path, file, gate };
        let list = Arc::clone(&denied.file.snapshots().borrow());
        denied.apply(&list);
        Ok(denied)
    }

    /// Follows the file for ever, and ends connections whose client comes to be denied.
    pub async fn follow(self, census: Arc<Census>) {
        let mut lists = self.file.snapshots();
        // The file may have changed since it was opened.
        let mut is_new = true;
        loop {
            let list = Arc::clone(&lists.borrow_and_update());
            if is_new {
                self.apply(&list);
            }
            let is_empty = list.0.is_empty();
            if !is_empty {
                let (list, census) = (Arc::clone(&list), Arc::clone(&census));
                // On a thread of its own: with a million connections, others would wait for it.
                if let Err(error) = spawn_blocking(move || end(&list.0, &census)).await {
                    warn!(%error, "connections of denied clients were not looked for");
                }
            }
            // Without a change, for those that another router has accepted and left.
            let tick = async {
                match is_empty {
                    true => std::future::pending().await,
                    false => sleep(LATE_TICK).await,
                }
            };
            is_new = tokio::select! {
                changed = lists.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = tick => false,
            };
        }
    }

    fn apply(&self, (denied, errors): &List) {
        for error in errors {
            error!(
                "{}: {error}; the other lines are in force",
                self.path.display()
            );
        }
        self.gate.deny(denied.clone());
    }
}

fn end(denied: &AddressSet, census: &Census) {
    // Who was let in before the gate was closed had been written down before.
    let found = census.of_clients(|client| denied.contains(client));
    for found in &found {
        census.end_found(found, End::Denied);
    }
    if !found.is_empty() {
        info!(
            connections = found.len(),
            "ended, since their clients are denied now"
        );
    }
}

fn read(path: &Path) -> io::Result<List> {
    std::fs::read_to_string(path).map(|text| AddressSet::read(&text))
}

const LATE_TICK: Duration = Duration::from_secs(30);
