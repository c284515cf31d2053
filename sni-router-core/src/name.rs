//! Host names and host patterns: values that exist only if they parsed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// A DNS host name in canonical form: lower case, no trailing dot, 1–253 bytes, labels of 1–63
/// bytes of letters, digits, `-` and `_`, and not an IP address.
///
/// Underscores are not host-name characters (RFC 952), but clients send them and certificates
/// carry them, so they are let through.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Arc<str>);

impl Host {
    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Everything after the first label, or `None` for a name of one label.
    ///
    /// This is what a wildcard's suffix is compared with.
    pub fn parent(&self) -> Option<&str> {
        self.0.split_once('.').map(|(_, parent)| parent)
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(HostError::TooLong(name.len()));
        }
        if looks_like_ip(name) {
            return Err(HostError::IpAddress);
        }
        for label in name.split('.') {
            check_label(label)?;
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a route matches: one name, all names one label below a suffix, or whatever is left.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Exactly this name.
    Exact(Host),
    /// `*.suffix`: exactly one label in front of the suffix, as Ingress defines it.
    Wildcard(Host),
    /// What no other pattern of the listener matches, also a hello without a server name.
    Any,
}

impl HostPattern {
    /// The patterns that stand for `host`, or for no name at all, in the order of their precedence.
    pub fn candidates(host: Option<&Host>) -> Vec<Self> {
        let mut patterns = Vec::new();
        if let Some(host) = host {
            patterns.push(Self::Exact(host.clone()));
            let parent = host.parent().and_then(|parent| parent.parse().ok());
            patterns.extend(parent.map(Self::Wildcard));
        }
        patterns.push(Self::Any);
        patterns
    }

    /// Whether `host` is one of the names this pattern stands for.
    pub fn matches(&self, host: &Host) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => host.parent() == Some(suffix.as_str()),
            Self::Any => true,
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostError;

    /// Parses an Ingress rule's host: empty is [`HostPattern::Any`], `*.` starts a wildcard.
    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        match text.strip_prefix("*.") {
            Some(suffix) => suffix.parse().map(Self::Wildcard),
            None if text.contains('*') => Err(HostError::Wildcard),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// Why a text is not a host name or host pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    /// No text, or only a dot.
    #[error("the host name is empty")]
    Empty,
    /// Longer than the 253 bytes DNS can carry (RFC 1035, 2.3.4).
    #[error("the host name has {0} bytes, at most 253 are possible")]
    TooLong(usize),
    /// Two dots in a row, or a dot in front.
    #[error("the host name has an empty label")]
    EmptyLabel,
    /// A label longer than 63 bytes (RFC 1035, 2.3.4).
    #[error("the label {0:?} has more than 63 bytes")]
    LabelTooLong(String),
    /// A byte that is no letter, digit, `-` or `_`.
    #[error("the label {0:?} has a character that host names cannot have")]
    BadCharacter(String),
    /// A label that starts or ends with `-`.
    #[error("the label {0:?} starts or ends with a hyphen")]
    Hyphen(String),
    /// SNI carries names, never addresses (RFC 6066, 3).
    #[error("an IP address is not a host name")]
    IpAddress,
    /// `*` anywhere but as the whole first label.
    #[error("a wildcard is only possible as the whole first label, as in *.example.com")]
    Wildcard,
}

fn check_label(label: &str) -> Result<(), HostError> {
    if label.is_empty() {
        return Err(HostError::EmptyLabel);
    }
    if label.len() > MAX_LABEL {
        return Err(HostError::LabelTooLong(label.into()));
    }
    if !label
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    {
        return Err(HostError::BadCharacter(label.into()));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(HostError::Hyphen(label.into()));
    }
    Ok(())
}

/// Names whose last label is all digits are addresses or typing errors of addresses; no top-level
/// domain is numeric (RFC 3696, 2).
fn looks_like_ip(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    name.contains(':')
        || name.parse::<IpAddr>().is_ok()
        || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()))
}

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_canonical_when_parsed() {
        let host: Host = "WWW.Example.COM.".parse().unwrap();
        assert_eq!(host.as_str(), "www.example.com");
        assert_eq!(host.parent(), Some("example.com"));
    }

    #[test]
    fn host_is_refused_when_not_a_name() {
        for (text, error) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            ("a..b", HostError::EmptyLabel),
            (".a", HostError::EmptyLabel),
            ("10.0.0.1", HostError::IpAddress),
            ("::1", HostError::IpAddress),
            ("example.123", HostError::IpAddress),
            ("-a.b", HostError::Hyphen("-a".into())),
            ("a b", HostError::BadCharacter("a b".into())),
        ] {
            assert_eq!(text.parse::<Host>(), Err(error), "{text:?}");
        }
        assert_eq!(
            "a".repeat(64).parse::<Host>(),
            Err(HostError::LabelTooLong("a".repeat(64)))
        );
        assert_eq!(
            "a.".repeat(127).parse::<Host>().map(|h| h.as_str().len()),
            Ok(253)
        );
        assert_eq!(
            "a.".repeat(128).parse::<Host>(),
            Err(HostError::TooLong(255))
        );
    }

    #[test]
    fn wildcard_matches_exactly_one_label() {
        let pattern: HostPattern = "*.Example.com".parse().unwrap();
        assert!(pattern.matches(&"a.example.com".parse().unwrap()));
        for other in [
            "example.com",
            "a.b.example.com",
            "aexample.com",
            "a.example.com.evil.test",
        ] {
            assert!(!pattern.matches(&other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn wildcard_is_refused_when_not_the_first_label() {
        for text in ["*", "a.*.com", "*a.com", "*.*.com"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
