//! Where the API server's verdict on a manifest and ours differ, and why.

/// The server has them stored: an object is right by itself, or the schema is NetScaler's, which
/// says less than we need.
pub const ONLY_WE_REFUSE: [(&str, &str); 0] = [];

/// Nobody can have them in a cluster.
pub const ONLY_THE_SERVER_REFUSES: [(&str, &str); 0] = [];
