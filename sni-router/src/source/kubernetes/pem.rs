//! The certificates of a PEM text, and nothing else of it: some keep the private key in the same
//! text, as other proxies want it.

use std::mem::take;

use k8s_openapi::ByteString;
use serde_json::{Value, json};

/// Of base64 of PEM: base64 of its certificates. Another block becomes [`REMOVED`], and a certificate
/// that is cut off [`BROKEN`], so that whoever checks finds the same wrong; what is no base64 becomes
/// nothing.
pub fn certificates(encoded: &str) -> String {
    let ByteString(bytes) = serde_json::from_value(encoded.into()).unwrap_or_default();
    let mut kept = String::new();
    let mut block = Block::None;
    for line in String::from_utf8_lossy(&bytes).lines().map(str::trim_end) {
        let is_end = line.starts_with("-----END ");
        match (line, &mut block) {
            (BEGIN, Block::Certificate(body)) => {
                kept += BROKEN;
                body.clear();
            }
            (BEGIN, _) => block = Block::Certificate(String::new()),
            (END, Block::Certificate(body)) => {
                kept += &format!("{BEGIN}\n{}{END}\n", take(body));
                block = Block::None;
            }
            (_, Block::Certificate(_)) if line.starts_with("-----") => {
                kept += BROKEN;
                block = if is_end { Block::None } else { Block::Other };
            }
            (_, Block::Certificate(body)) => {
                *body += line;
                body.push('\n');
            }
            (_, Block::Other) if is_end => block = Block::None,
            (_, Block::None) if line.starts_with("-----BEGIN ") => {
                kept += REMOVED;
                block = Block::Other;
            }
            _ => {}
        }
    }
    if let Block::Certificate(_) = block {
        kept += BROKEN;
    }
    match json!(ByteString(kept.into_bytes())) {
        Value::String(text) => text,
        _ => String::new(),
    }
}

/// Where in the text a line is.
enum Block {
    None,
    Certificate(String),
    Other,
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// In the place of what is no certificate.
const REMOVED: &str = "-----BEGIN REMOVED-----\n-----END REMOVED-----\n";

/// In the place of a certificate without an end.
const BROKEN: &str = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> String {
        let encoded = json!(ByteString(text.into()));
        let text = certificates(encoded.as_str().unwrap());
        let ByteString(bytes) = serde_json::from_value(text.into()).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    const CHAIN: &str = "-----BEGIN CERTIFICATE-----\nbGVhZg==\n-----END CERTIFICATE-----\n\
        -----BEGIN CERTIFICATE-----\naXNz\ndWVy\n-----END CERTIFICATE-----\n";

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nPRIVATE\n-----END PRIVATE KEY-----\n";

    #[test]
    fn certificates_stay_and_keys_go_wherever_they_stand() {
        assert_eq!(kept(CHAIN), CHAIN);
        assert_eq!(
            kept(&format!("# a\n{}", CHAIN.replace('\n', "\r\n"))),
            CHAIN
        );
        assert_eq!(kept(&format!("{CHAIN}{KEY}")), format!("{CHAIN}{REMOVED}"));
        assert_eq!(kept(&format!("{KEY}{CHAIN}")), format!("{REMOVED}{CHAIN}"));
        let old = KEY.replace("PRIVATE KEY", "RSA PRIVATE KEY");
        let leaf = CHAIN.split_inclusive('\n').take(2).collect::<String>();
        for text in [
            format!("{leaf}{KEY}{CHAIN}"),
            format!("{leaf}{BEGIN}\n{old}"),
            format!("{KEY}{old}"),
            KEY.replace("-----END PRIVATE KEY-----\n", CHAIN),
            KEY.replace('\n', "\r"),
        ] {
            assert!(!kept(&text).contains("PRIVATE"), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        assert_eq!(kept("no PEM"), "");
        assert_eq!(certificates("no base64!"), "");
        let cut = &CHAIN[..CHAIN.len() - 10];
        assert_eq!(kept(cut).lines().count(), 6);
        assert!(kept(cut).ends_with(BROKEN));
        assert_eq!(kept(&format!("{BEGIN}\n{KEY}")), BROKEN);
    }
}
