//! What an operator sees: log lines, metrics, and the admin API.

pub mod admin;
mod cells;
pub mod clusters;
mod listeners;
pub mod log;
pub mod metrics;
pub mod readiness;
mod unix_socket;
