//! Checks a value against a [`Shape`]: every wrong field at once, each with its path.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::nearest::nearest;
use super::path::Path;
use super::shape::Shape;
use crate::problem::{ObjectRef, Problem};

/// What is checked, and how it may be talked about.
pub(super) struct Check<'a> {
    /// The object, for its problems.
    pub(super) object: &'a ObjectRef,
    /// Whether fields the shape does not know are reported.
    pub(super) unknown_fields: bool,
    /// Whether values may be quoted: never those of a Secret.
    pub(super) quote: bool,
}

impl Check<'_> {
    /// All that is wrong with `value`.
    pub(super) fn run(&self, value: &Value, shape: &Shape) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.walk(value, shape, &mut Path::default(), &mut problems);
        problems
    }

    fn walk(&self, value: &Value, shape: &Shape, path: &mut Path, problems: &mut Vec<Problem>) {
        // Kubernetes takes null for absent; whether the field may be absent, its owner has asked.
        if value.is_null() {
            return;
        }
        match (shape, value) {
            (
                Shape::Object {
                    fields,
                    required,
                    others,
                },
                Value::Object(given),
            ) => {
                for name in required {
                    // Lists are required in schemas, but written by Go programs as null if empty.
                    let list = matches!(fields.get(name), Some(Shape::List(..)));
                    if !list && given.get(name).is_none_or(Value::is_null) {
                        let missing = path.with_field(name);
                        let problem = Problem::error(self.object, missing, "is missing");
                        problems.push(problem.hint(missing_hint(name)));
                    }
                }
                let is_catch_all = is_rule_without_host(fields, given);
                for (name, value) in given {
                    let shape = fields.get(name).or(others.as_deref());
                    path.push_field(name);
                    match shape {
                        Some(shape) => self.walk(value, shape, path, problems),
                        None if self.unknown_fields => {
                            let known = fields.keys().map(String::as_str);
                            problems.push(self.unknown(name, known, is_catch_all, path));
                        }
                        None => {}
                    }
                    path.pop();
                }
            }
            (Shape::List(item, least), Value::Array(given)) => {
                if given.len() < *least {
                    let problem = Problem::error(self.object, path.to_string(), "is an empty list");
                    problems.push(problem.hint("leave the field out, or put something into it"));
                }
                for (index, value) in given.iter().enumerate() {
                    path.push_index(index);
                    self.walk(value, item, path, problems);
                    path.pop();
                }
            }
            (Shape::Text(names), Value::String(text)) => {
                if !names.is_empty() && !names.contains(text) {
                    problems.push(self.not_one_of(text, names, path));
                }
            }
            (Shape::Integer(least, most), Value::Number(number)) => {
                if !number
                    .as_i64()
                    .is_some_and(|number| (least..=most).contains(&&number))
                {
                    let what = format!("{number} is not a whole number from {least} to {most}");
                    problems.push(Problem::error(self.object, path.to_string(), what));
                }
            }
            (Shape::Boolean, Value::Bool(_))
            | (Shape::IntegerOrText, Value::Number(_) | Value::String(_))
            | (Shape::Anything, _) => {}
            _ => problems.push(self.wrong_type(value, shape, path)),
        }
    }

    fn wrong_type(&self, value: &Value, shape: &Shape, path: &Path) -> Problem {
        let what = match self.shown(value) {
            Some(shown) => format!("{shown} is {}, expected {}", kind_of(value), wanted(shape)),
            None => format!("is {}, expected {}", kind_of(value), wanted(shape)),
        };
        Problem::error(self.object, path.to_string(), what).hint(type_hint(value, shape))
    }

    fn not_one_of(&self, text: &str, names: &[String], path: &Path) -> Problem {
        let what = format!("{text:?} is not one of {}", names.join(", "));
        let path = path.to_string();
        let is_protocol = path == LISTENER_PROTOCOL;
        // The others are names as well, and refused afterwards.
        let usable = |name: &&str| !is_protocol || ["https", "tcp"].contains(name);
        let names = names.iter().map(String::as_str).filter(usable);
        let problem = Problem::error(self.object, path, what);
        match nearest(text, names) {
            Some(name) => problem.hint(format!("write {name}")),
            None if is_protocol => problem.hint("write https"),
            None => problem,
        }
    }

    fn unknown<'n>(
        &self,
        name: &str,
        known: impl Iterator<Item = &'n str> + Clone,
        is_catch_all: bool,
        path: &Path,
    ) -> Problem {
        let problem = if is_catch_all {
            // Where it was to be the host, connections of any name would get to the wrong server.
            let what = "is not a field of this object, and its rule has no host, so it would take \
                        whatever matches no host";
            Problem::error(self.object, path.to_string(), what)
        } else {
            let what = "is not a field of this object and is ignored";
            Problem::warning(self.object, path.to_string(), what)
        };
        match (renamed(name), nearest(name, known.clone())) {
            (Some(hint), _) => problem.hint(hint),
            (None, Some(name)) => problem.hint(format!("did you mean {name}")),
            (None, None) => {
                let known: Vec<_> = known.collect();
                problem.hint(format!("its fields are {}", known.join(", ")))
            }
        }
    }

    fn shown(&self, value: &Value) -> Option<String> {
        let text = match value {
            Value::String(text) => format!("{text:?}"),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => return None,
        };
        (self.quote && text.chars().count() <= MAX_QUOTE).then_some(text)
    }
}

/// `a string`, `a list`, …
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn wanted(shape: &Shape) -> &'static str {
    match shape {
        Shape::Object { .. } => "an object",
        Shape::List(..) => "a list",
        Shape::Text(_) => "a string",
        Shape::Integer(..) => "a whole number",
        Shape::Boolean => "a boolean",
        Shape::IntegerOrText => "a whole number or a string",
        Shape::Anything => "anything",
    }
}

fn type_hint(value: &Value, shape: &Shape) -> String {
    match (shape, value) {
        (Shape::Boolean, Value::String(text)) => match text.to_ascii_lowercase().as_str() {
            word @ ("true" | "false") => format!("write {word} without quotes"),
            _ => "write true or false".into(),
        },
        (Shape::Boolean, _) => "write true or false".into(),
        (Shape::Integer(..), Value::String(text)) if text.trim().parse::<i64>().is_ok() => {
            format!(
                "write {} without quotes",
                text.trim().trim_start_matches('0')
            )
        }
        (Shape::Text(_), Value::Number(_) | Value::Bool(_)) => "put it in quotes".into(),
        (Shape::List(..), Value::Object(_) | Value::String(_)) => {
            "start each item with a dash".into()
        }
        _ => String::new(),
    }
}

/// What to write where a field is not there at all.
fn missing_hint(name: &str) -> &'static str {
    match name {
        "protocol" => "write https",
        "pathType" => "write Prefix: Kubernetes wants one, paths have no effect here",
        "addressType" => "write IPv4, IPv6 or FQDN",
        _ => "",
    }
}

/// Whether an object is a rule of an Ingress that takes what matches no host.
fn is_rule_without_host(fields: &BTreeMap<String, Shape>, given: &Map<String, Value>) -> bool {
    let is_rule = fields.len() == 2 && fields.contains_key("host") && fields.contains_key("http");
    is_rule && given.get("host").is_none_or(Value::is_null)
}

const LISTENER_PROTOCOL: &str = "spec.protocol";

/// Fields of older API versions that people still paste.
fn renamed(name: &str) -> Option<&'static str> {
    match name {
        "serviceName" => Some("networking.k8s.io/v1 writes service.name"),
        "servicePort" => Some("networking.k8s.io/v1 writes service.port.number"),
        _ => None,
    }
}

/// Longer texts are not quoted: they are no typing error but the wrong thing altogether.
const MAX_QUOTE: usize = 64;
