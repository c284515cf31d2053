//! Making sure that the kernel gives no port of ours to somebody else.
//!
//! A flow has no socket, so the kernel would choose its port for another connection to the same
//! endpoint, whose packets would then be taken for the flow's.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

use thiserror::Error;

/// Why the range cannot be used.
#[derive(Debug, Error)]
pub enum ReserveError {
    /// The kernel's settings could not be read or written.
    #[error("{path}")]
    Setting {
        /// Which one.
        path: &'static str,
        /// What went wrong.
        #[source]
        error: io::Error,
    },
    /// The kernel may choose a port of the range for somebody else.
    #[error(
        "--tc-ports {first}-{last}: the kernel gives port {port} to other connections \
         (net.ipv4.ip_local_port_range is {chosen}); take another range, or add it to \
         net.ipv4.ip_local_reserved_ports, which --reserve-ports does"
    )]
    Overlap {
        /// Of the range.
        first: u16,
        /// Of the range.
        last: u16,
        /// The first port of both.
        port: u16,
        /// The kernel's setting.
        chosen: String,
    },
}

/// Checks that the kernel leaves `range` alone; with `reserve`, sees to it.
pub fn check(range: &RangeInclusive<u16>, reserve: bool) -> Result<(), ReserveError> {
    let chosen = read(CHOSEN)?;
    let reserved = read(RESERVED)?;
    let Some(port) = overlap(range, &chosen, &reserved) else {
        return Ok(());
    };
    let (first, last) = (*range.start(), *range.end());
    if !reserve {
        return Err(ReserveError::Overlap {
            first,
            last,
            port,
            chosen: chosen.split_whitespace().collect::<Vec<_>>().join("-"),
        });
    }
    fs::write(RESERVED, with(&reserved, range)).map_err(|error| ReserveError::Setting {
        path: RESERVED,
        error,
    })
}

/// The first port of the range that the kernel chooses from `chosen`, as `32768 60999`, unless it
/// is among `reserved`, as `8080,9000-9100`.
pub fn overlap(range: &RangeInclusive<u16>, chosen: &str, reserved: &str) -> Option<u16> {
    let mut bounds = chosen.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(low)), Some(Ok(high))) = (bounds.next(), bounds.next()) else {
        return None;
    };
    let reserved: Vec<_> = reserved.split(',').filter_map(ports).collect();
    range
        .clone()
        .filter(|port| (low..=high).contains(port))
        .find(|port| !reserved.iter().any(|ports| ports.contains(port)))
}

/// `reserved` and `range`, as the kernel takes it: what overlaps, it merges.
pub fn with(reserved: &str, range: &RangeInclusive<u16>) -> String {
    let separator = if reserved.is_empty() { "" } else { "," };
    format!("{reserved}{separator}{}-{}", range.start(), range.end())
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
}

fn read(path: &'static str) -> Result<String, ReserveError> {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| ReserveError::Setting { path, error })
}

const CHOSEN: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_the_kernel_chooses_from_overlap_unless_they_are_reserved() {
        let range = 10_000..=29_999;
        for (chosen, reserved, expected) in [
            ("32768\t60999", "", None),
            ("1024\t65535", "", Some(10_000)),
            ("20000 40000", "", Some(20_000)),
            ("1024 65535", "10000-29999", None),
            ("1024 65535", "80,9000-15000,15002-40000", Some(15_001)),
            ("29999 30000", "29999", None),
        ] {
            let found = overlap(&range, chosen, reserved);
            assert_eq!(found, expected, "{chosen}, reserved {reserved}");
        }
    }
}
