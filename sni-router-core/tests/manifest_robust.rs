//! Nothing in a manifest panics, and a bad object changes nothing for the others.

mod manifest_support;

use std::time::Instant;

use manifest_support::*;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;
use sni_router_core::manifest::{Build, Resolved, SourceFile, fuzz_entry};

/// A seed object that is mutated: one of everything.
fn objects() -> Vec<Value> {
    let text = include_str!("../../tests/bad-manifests/good.yaml");
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str::<Value>(document).unwrap())
        .collect()
}

/// Builds the good objects, and beside them in another file a document that says `text`.
fn beside(text: &str) -> Build {
    let good =
        listener("web", 443) + &ingress("app", "a.test", "app") + &service("app", "198.51.100.1");
    compiler().build(
        &snapshot(&[("a.yaml", &good), ("b.yaml", text)]),
        &Resolved::new(),
        0,
    )
}

/// Replaces, removes or renames the node that `at` points to.
fn mutate(value: &mut Value, at: Index, change: &Change) {
    let size = nodes(value);
    change_nth(value, &mut (at.index(size) + 1), change);
}

#[derive(Clone, Debug)]
enum Change {
    Put(Value),
    Remove,
    Rename(String),
    Nest,
    Repeat,
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum::<usize>(),
        Value::Object(fields) => fields.values().map(nodes).sum(),
        _ => 0,
    }
}

/// Walks to the `left`-th node and changes it.
fn change_nth(value: &mut Value, left: &mut usize, change: &Change) {
    *left -= 1;
    if *left == 0 {
        match change {
            Change::Put(other) => *value = other.clone(),
            Change::Remove => *value = Value::Null,
            Change::Rename(name) => rename(value, name),
            Change::Nest => *value = Value::Array(vec![value.take()]),
            Change::Repeat => {
                if let Value::Array(items) = value {
                    items.extend(items.clone());
                }
            }
        }
        return;
    }
    let children: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        change_nth(child, left, change);
        if *left == 0 {
            return;
        }
    }
}

fn rename(value: &mut Value, name: &str) {
    if let Value::Object(fields) = value
        && let Some((_, first)) = fields
            .keys()
            .next()
            .cloned()
            .and_then(|key| fields.remove_entry(&key))
    {
        fields.insert(name.into(), first);
    }
}

fn change() -> impl Strategy<Value = Change> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0i64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        "[a-z*./:-]{0,12}".prop_map(Value::from),
        Just(Value::Array(Vec::new())),
        Just(Value::Object(serde_json::Map::new())),
        Just(Value::from("x".repeat(300))),
        Just(Value::from("::ffff:1.2.3.4")),
        Just(Value::from("FQDN")),
        Just(Value::from(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        )),
    ];
    prop_oneof![
        6 => scalar.prop_map(Change::Put),
        2 => Just(Change::Remove),
        1 => "[a-zA-Z_]{0,8}".prop_map(Change::Rename),
        1 => Just(Change::Nest),
        1 => Just(Change::Repeat),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn mutated_objects_never_panic(changes in prop::collection::vec((any::<Index>(), any::<Index>(), change()), 1..6)) {
        let mut objects = objects();
        let count = objects.len();
        for (which, at, change) in &changes {
            mutate(&mut objects[which.index(count)], *at, change);
        }
        let text: Vec<_> = objects.iter().map(Value::to_string).collect();
        fuzz_entry(text.join("\n---\n").as_bytes());
    }

    #[test]
    fn mutated_objects_beside_leave_the_others_alone(changes in prop::collection::vec((any::<Index>(), change()), 1..4)) {
        let elsewhere = listener("bad", 443).replace("192.0.2.1", "192.0.2.9");
        let mut bad: Value = serde_saphyr::from_str(&elsewhere).unwrap();
        for (at, change) in &changes {
            mutate(&mut bad, *at, change);
        }
        let untouched = beside("");
        let with_bad = beside(&bad.to_string());
        prop_assert_eq!(&untouched.model.listeners[0], {
            let web = with_bad.model.listeners.iter().find(|listener| listener.key.name == "web");
            prop_assert!(web.is_some(), "{:?}", with_bad.problems);
            web.unwrap()
        });
    }

    #[test]
    fn arbitrary_text_never_panics_and_leaves_the_others_alone(text in "(\\PC|\n|[-:{}\\[\\]&*!|>'\"#, ]){0,200}") {
        fuzz_entry(text.as_bytes());
        prop_assert_eq!(routes(&beside(&text)), ["web a.test app:443 [198.51.100.1:8443]"]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_entry(&bytes);
    }
}

/// The bound is loose, for an unoptimised build on a busy machine: it is there to notice anything
/// that is worse than n log n. `cargo bench` has the numbers.
#[test]
fn ten_thousand_ingresses_build_in_reasonable_time() {
    let mut files = vec![SourceFile {
        path: "a.yaml".into(),
        text: listener("web", 443).into(),
        ..SourceFile::default()
    }];
    for chunk in 0..100 {
        let text: String = (0..100)
            .map(|n| {
                let name = format!("app-{chunk}-{n}");
                ingress(&name, &format!("{name}.test"), &name) + &service(&name, "198.51.100.1")
            })
            .collect();
        files.push(SourceFile {
            path: format!("{chunk:03}.yaml"),
            text: text.into(),
            ..SourceFile::default()
        });
    }
    let mut compiler = compiler();
    let snapshot = files.into();
    let start = Instant::now();
    let build = compiler.build(&snapshot, &Resolved::new(), 0);
    let parsed = start.elapsed();
    assert_eq!(build.model.listeners[0].routes.len(), 10_000);
    assert_eq!(build.problems, []);
    let start = Instant::now();
    assert_eq!(compiler.build(&snapshot, &Resolved::new(), 0), build);
    let rebuilt = start.elapsed();
    println!("parsed and built in {parsed:?}, built again in {rebuilt:?}");
    assert!(
        parsed.as_secs() < 60 && rebuilt.as_secs() < 10,
        "{parsed:?} {rebuilt:?}"
    );
}
