//! What an operator sees: log lines, metrics, and the admin API.

pub mod admin;
mod cells;
pub mod clusters;
mod listeners;
pub mod log;
pub mod metrics;
mod process;
pub mod readiness;
pub mod samples;
mod unix_socket;
