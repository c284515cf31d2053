//! What a mistyped name probably was meant to be.

/// The candidate that `name` most likely stands for, if one is near enough.
///
/// Letters' case, `_` and `-` do not count: `ingressClass` is `ingressclass`, `secureBackend` is
/// `secure_backend`. Otherwise one letter in four may differ.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // Longer names are no typing errors of field names, and distances cost their square.
    if name.len() > 64 {
        return None;
    }
    let name = folded(name);
    candidates
        .map(|candidate| (distance(&name, &folded(candidate)), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(4).min(3))
        .map(|(_, candidate)| candidate)
}

fn folded(name: &str) -> Vec<u8> {
    name.bytes()
        .filter(|b| !matches!(b, b'_' | b'-'))
        .map(|b| b.to_ascii_lowercase())
        .collect()
}

/// Levenshtein's distance.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_what_was_meant() {
        let known = [
            "ingressclass",
            "passthrough",
            "port",
            "protocol",
            "secure_backend",
            "vip",
        ];
        for (typed, meant) in [
            ("ingressClass", Some("ingressclass")),
            ("secureBackend", Some("secure_backend")),
            ("pasthrough", Some("passthrough")),
            ("ports", Some("port")),
            ("vips", Some("vip")),
            ("wholly-different", None),
        ] {
            assert_eq!(nearest(typed, known.into_iter()), meant, "{typed}");
        }
    }
}
