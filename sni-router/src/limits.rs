//! What the system lets this process have: descriptors and CPUs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
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

/// The CPUs this process may run on, in the order of their numbers.
pub fn allowed_cpus() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU)
            .filter(|cpu| set.is_set(*cpu))
            .collect(),
        Err(_) => Vec::new(),
    }
}

/// Keeps the calling thread on one CPU.
pub fn pin_thread(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        warn!(%error, cpu, "a worker thread is not kept on its CPU");
    }
}
