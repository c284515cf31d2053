//! Names of Kubernetes objects and fields.

use std::str::FromStr;

/// A Listener by namespace and name, in whatever cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerName {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl FromStr for ListenerName {
    type Err = ListenerNameError;

    fn from_str(text: &str) -> Result<Self, ListenerNameError> {
        let (namespace, name) = text.split_once('/').ok_or(ListenerNameError)?;
        let names = is_object_name(namespace) && is_object_name(name);
        names
            .then(|| Self {
                namespace: namespace.into(),
                name: name.into(),
            })
            .ok_or(ListenerNameError)
    }
}

/// A text that names no Listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not the name of a Listener, as NAMESPACE/NAME")]
pub struct ListenerNameError;

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
