//! A document as a tree of values, with private keys left out while it is read.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A JSON-shaped value that was never given a private key.
///
/// `tls.key`, and the annotation in which kubectl keeps a copy of the whole object, are skipped
/// where they stand, so no later step can log, keep or print them. A key that is there twice is
/// an error: one of the two would be lost without a word.
#[derive(Debug)]
pub(super) struct Tree(pub(super) Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor).map(Tree)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(float(value as f64))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(float(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Tree(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if NEVER_READ.contains(&key.as_str()) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if fields.contains_key(&key) {
                return Err(de::Error::custom(format_args!(
                    "the key {key:?} is there twice"
                )));
            }
            let Tree(value) = map.next_value()?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

/// JSON has no number for NaN and the infinities; they are no value any field could have.
fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

const NEVER_READ: [&str; 2] = [
    "tls.key",
    "kubectl.kubernetes.io/last-applied-configuration",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_key_is_not_in_the_tree() {
        let Tree(value) =
            serde_json::from_str(r#"{"data":{"tls.crt":"a","tls.key":{"any":["thing"]}}}"#)
                .unwrap();
        assert_eq!(value, serde_json::json!({"data": {"tls.crt": "a"}}));
    }

    #[test]
    fn key_that_is_there_twice_is_an_error() {
        let error = serde_json::from_str::<Tree>(r#"{"a":1,"a":2}"#).unwrap_err();
        assert!(
            error.to_string().contains("the key \"a\" is there twice"),
            "{error}"
        );
    }
}
