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

/// Levenshtein's distance, where two letters that changed places count as one error (optimal string
/// alignment).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(row[j - 1] + 1).min(above[j] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_what_was_meant() {
        let known = [
            "host",
            "ingressclass",
            "name",
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
            ("hots", Some("host")),
            ("prot", Some("port")),
            ("nmae", Some("name")),
            ("ivp", Some("vip")),
            ("tosh", None),
            ("wholly-different", None),
        ] {
            assert_eq!(nearest(typed, known.into_iter()), meant, "{typed}");
        }
    }
}
