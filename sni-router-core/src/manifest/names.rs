//! Names of Kubernetes objects and fields.

/// Whether a name can be the name of an object: lower-case letters, digits, `-` and `.`, starting
/// and ending with a letter or digit, at most 253 bytes (RFC 1123 subdomain, as Kubernetes
/// defines it).
pub(super) fn is_object_name(name: &str) -> bool {
    let edge =
        |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= 253
        && edge(name.bytes().next())
        && edge(name.bytes().next_back())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

/// Whether a field's name can stand in a path without brackets.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'$')
}
