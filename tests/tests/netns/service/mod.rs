//! The router as a service of systemd: what it tells its manager, what it may do, and the unit that is
//! installed. What systemd would do to the process is done to it by the test; only `booted` has one.

mod booted;
mod filter;
mod manager;
mod notification;
mod privileges;
mod sandbox;
mod threads;
mod unit;
mod user;
