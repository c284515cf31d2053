//! The programs' debug logs.

use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};

use super::{Kernel, lock};
use crate::sys::readable::readable;

/// Forwards the programs' log records to `tracing` until the task is dropped. Does nothing where
/// debug logs are off: the programs then write none.
pub fn forward(kernel: &Kernel) {
    let ebpf = &mut *lock(&kernel.ebpf);
    if ebpf.map("AYA_LOGS").is_none() {
        return;
    }
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return warn!(%error, "no logs of the kernel programs"),
    };
    match readable(logger) {
        Ok(logger) => {
            tokio::spawn(run(logger));
        }
        Err(error) => warn!(%error, "no logs of the kernel programs"),
    }
}

async fn run(mut logger: AsyncFd<EbpfLogger<&'static dyn log::Log>>) {
    loop {
        match logger.readable_mut().await {
            Ok(mut ready) => {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
            Err(error) => return debug!(%error, "the logs of the kernel programs have ended"),
        }
    }
}
