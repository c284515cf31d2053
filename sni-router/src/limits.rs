//! Limits of the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Raises the number of descriptors to what the system allows. A connection takes two, three where
/// a pipe is used; shells and service managers start programs with 1,024.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => info!(descriptors = limit.maximum, "limits"),
        Err(error) => {
            warn!(%error, descriptors = limit.current, "cannot raise the limit of descriptors");
        }
    }
}
