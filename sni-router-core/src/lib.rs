//! The pure half of sni-router: bytes and manifests in, decisions out.
//!
//! Nothing here opens a socket, reads a file, looks at a clock or knows tokio or aya, so every
//! part can be fuzzed, property-tested and measured on its own.
//!
//! - [`addresses`] is a set of addresses, as a list of networks.
//! - [`hello`] reads a ClientHello from bytes as they arrive.
//! - [`name`] holds host names and host patterns that can only be built by parsing.
//! - [`manifest`] turns texts of Kubernetes objects into typed objects, and those into a [`model`].
//! - [`model`] is what the manifests mean: listeners, routes, backends, endpoints.
//! - [`problem`] is how anything wrong in a manifest is told.
//! - [`status`] is what is written back to the objects.
//! - [`table`] is the model compiled for look-ups, [`balance`] picks an endpoint of a backend.
//! - [`plan`] is the table as the contents of the kernel's maps.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod addresses;
pub mod balance;
pub mod hello;
pub mod manifest;
pub mod model;
pub mod name;
pub mod plan;
pub mod problem;
pub mod status;
pub mod table;
