//! What must hold for host names and host patterns, whatever the text. The fuzz target and
//! `sni-router-core/tests/host_corpus.rs` both come in here.

use sni_router_core::name::{Host, HostPattern};

/// Panics where a name that parsed is not canonical, or a pattern does not mean what it shows.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let host = text.parse::<Host>();
    if let Ok(host) = &host {
        let name = host.as_str();
        assert!((1..=253).contains(&name.len()));
        assert!(name.split('.').all(|label| (1..=63).contains(&label.len())));
        assert!(
            name.bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
        );
        assert!(name.eq_ignore_ascii_case(text.strip_suffix('.').unwrap_or(text)));
        assert_eq!(
            name.parse().as_ref(),
            Ok(host),
            "the canonical form is its own"
        );
        assert!(name.parse::<std::net::IpAddr>().is_err());
        assert!(
            format!("{name}.")
                .parse::<HostPattern>()
                .is_ok_and(|p| p.matches(host))
        );
    }
    let Ok(pattern) = text.parse::<HostPattern>() else {
        assert!(host.is_err(), "every name is a pattern");
        return;
    };
    match &pattern {
        HostPattern::Any => assert!(text.is_empty()),
        HostPattern::Exact(name) => assert_eq!(host.as_ref(), Ok(name)),
        HostPattern::Wildcard(suffix) => {
            assert_eq!(
                pattern.to_string().parse(),
                Ok(pattern.clone()),
                "what it shows parses back"
            );
            assert!(!pattern.matches(suffix));
            if let Ok(one_below) = format!("a.{suffix}").parse() {
                assert!(pattern.matches(&one_below));
            }
            if let Ok(two_below) = format!("a.b.{suffix}").parse() {
                assert!(!pattern.matches(&two_below));
            }
        }
    }
}
