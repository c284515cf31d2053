//! The shape an object must have: its schema, compiled for checking.
//!
//! serde stops at the first wrong field and drops unknown ones in silence. Checking against the
//! same types' schema before decoding finds every wrong field at once and names the unknown ones.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// What a value may look like.
#[derive(Debug)]
pub(super) enum Shape {
    /// Fields by name.
    Object {
        /// The known fields.
        fields: BTreeMap<String, Shape>,
        /// Those that must be there.
        required: Vec<String>,
        /// The shape of all other fields; `None` where others are unknown.
        others: Option<Box<Shape>>,
    },
    /// A list of one shape, with its least length.
    List(Box<Shape>, usize),
    /// A text, one of these unless there are none.
    Text(Vec<String>),
    /// A whole number between two bounds.
    Integer(i64, i64),
    /// `true` or `false`.
    Boolean,
    /// A number or a text.
    IntegerOrText,
    /// Whatever it is.
    Anything,
}

impl Shape {
    /// The shape of a Kubernetes object that has a schema.
    ///
    /// A status is written by controllers and read by nobody here, so anything is right in it.
    pub(super) fn of_object<T: JsonSchema>() -> Self {
        let mut shape = Self::of::<T>();
        if let Self::Object { fields, .. } = &mut shape {
            fields.insert("apiVersion".into(), Self::Text(Vec::new()));
            fields.insert("kind".into(), Self::Text(Vec::new()));
            // kube's derive leaves the metadata out of the schema.
            fields.insert("metadata".into(), Self::of::<ObjectMeta>());
            fields.insert("status".into(), Self::Anything);
        }
        shape
    }

    fn of<T: JsonSchema>() -> Self {
        let settings =
            SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
        Self::compile(
            settings
                .into_generator()
                .into_root_schema_for::<T>()
                .as_value(),
        )
    }

    fn compile(schema: &Value) -> Self {
        if schema["x-kubernetes-int-or-string"] == true {
            return Self::IntegerOrText;
        }
        if let Some(inner) = only_variant(schema) {
            return Self::compile(inner);
        }
        match type_of(schema) {
            Some("object") => Self::compile_object(schema),
            Some("array") => {
                let least = schema["minItems"].as_u64().unwrap_or(0) as usize;
                Self::List(Box::new(Self::compile(&schema["items"])), least)
            }
            Some("string") => Self::Text(enumerated(schema)),
            Some("integer") => {
                let bound = |name: &str| schema[name].as_f64().map(|bound| bound as i64);
                let (least, most) = match schema["format"].as_str() {
                    Some("int32") => (i32::MIN.into(), i32::MAX.into()),
                    _ => (i64::MIN, i64::MAX),
                };
                Self::Integer(
                    bound("minimum").unwrap_or(least),
                    bound("maximum").unwrap_or(most),
                )
            }
            Some("boolean") => Self::Boolean,
            _ => match enumerated(schema) {
                names if names.is_empty() => Self::Anything,
                names => Self::Text(names),
            },
        }
    }

    fn compile_object(schema: &Value) -> Self {
        let fields: BTreeMap<_, _> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, field)| (name.clone(), Self::compile(field)))
            .collect();
        let others = match &schema["additionalProperties"] {
            Value::Object(_) => Some(Self::compile(&schema["additionalProperties"])),
            Value::Bool(true) => Some(Self::Anything),
            _ if fields.is_empty() => Some(Self::Anything),
            _ => None,
        };
        let required = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(Into::into))
            .collect();
        Self::Object {
            fields,
            required,
            others: others.map(Box::new),
        }
    }
}

/// `Option<T>` is written as one schema or null: the schema.
fn only_variant(schema: &Value) -> Option<&Value> {
    for combination in ["anyOf", "oneOf", "allOf"] {
        let Some(variants) = schema[combination].as_array() else {
            continue;
        };
        let mut real = variants.iter().filter(|variant| !is_null(variant));
        if let (Some(only), None) = (real.next(), real.next()) {
            return Some(only);
        }
    }
    None
}

fn is_null(schema: &Value) -> bool {
    schema["type"] == "null" || schema["enum"] == serde_json::json!([null])
}

fn type_of(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::String(name) => Some(name),
        Value::Array(names) => names
            .iter()
            .filter_map(Value::as_str)
            .find(|name| *name != "null"),
        _ => None,
    }
}

/// The texts a field may have: as `enum`, or as one `const` a variant.
fn enumerated(schema: &Value) -> Vec<String> {
    let listed = schema["enum"].as_array().into_iter().flatten();
    let variants = schema["oneOf"].as_array().into_iter().flatten();
    let variants = variants.flat_map(|variant| {
        let listed = variant["enum"].as_array().into_iter().flatten();
        variant.get("const").into_iter().chain(listed)
    });
    listed
        .chain(variants)
        .filter_map(|name| name.as_str().map(Into::into))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::crd::Listener;
    use super::*;

    #[test]
    fn shape_of_listener_has_its_enums_bounds_and_required_fields() {
        let Shape::Object { fields, .. } = Shape::of_object::<Listener>() else {
            panic!("no object")
        };
        let Shape::Object {
            fields: spec,
            required,
            others,
        } = &fields["spec"]
        else {
            panic!("{:?}", fields["spec"]);
        };
        assert!(others.is_none());
        assert_eq!(required, &["protocol"]);
        assert!(matches!(&spec["protocol"], Shape::Text(names) if names.len() == 4));
        assert!(matches!(spec["port"], Shape::Integer(1, 65535)));
        assert!(matches!(spec["passthrough"], Shape::Boolean));
        assert!(matches!(&spec["certificates"], Shape::List(_, 1)));
        let Shape::Object { fields: meta, .. } = &fields["metadata"] else {
            panic!("{:?}", fields["metadata"]);
        };
        assert!(matches!(
            &meta["annotations"],
            Shape::Object {
                others: Some(_),
                ..
            }
        ));
    }
}
