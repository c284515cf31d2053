//! Whether the cluster's definition of Listener fits: an old one silently drops what it does not know.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps,
};
use kube::{Api, Client};

/// What is wrong with the definition, as far as is known.
pub type Problems = Arc<Mutex<Vec<&'static str>>>;

/// What is kept of a Listener's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    All,
    /// `state` and `status_message`: a field that is not in the definition is dropped, or refused.
    Words,
    Nothing,
}

impl Kept {
    pub fn with(problems: &Problems) -> Self {
        let problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
        match &**problems {
            all if all.contains(&NO_STATUS) => Self::Nothing,
            all if all.contains(&NO_CONDITIONS) => Self::Words,
            _ => Self::All,
        }
    }
}

/// What is wrong with the definition, each in one sentence.
///
/// # Errors
///
/// If it cannot be looked at.
pub async fn problems(client: Client) -> Result<Vec<&'static str>, kube::Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    let Some(definition) = api.get_opt(NAME).await? else {
        return Ok(vec![MISSING]);
    };
    let versions = definition.spec.versions.iter();
    Ok(
        match versions.into_iter().find(|version| version.name == "v1") {
            Some(version) if version.served => problems_of(version),
            _ => vec![NO_VERSION],
        },
    )
}

fn problems_of(version: &CustomResourceDefinitionVersion) -> Vec<&'static str> {
    let schema = version.schema.as_ref();
    let schema = schema.and_then(|schema| schema.open_api_v3_schema.as_ref());
    let subresources = version.subresources.as_ref();
    let has_status = subresources.is_some_and(|all| all.status.is_some());
    let mut problems = Vec::new();
    if !schema.is_some_and(|schema| keeps(schema, &["spec", "passthrough"])) {
        problems.push(NO_PASSTHROUGH);
    }
    if !has_status {
        problems.push(NO_STATUS);
    } else if !schema
        .is_some_and(|schema| ADDED.iter().all(|field| keeps(schema, &["status", *field])))
    {
        problems.push(NO_CONDITIONS);
    }
    problems
}

/// Whether a field is kept, or would be pruned.
fn keeps(schema: &JSONSchemaProps, path: &[&str]) -> bool {
    if schema.x_kubernetes_preserve_unknown_fields == Some(true) {
        return true;
    }
    let Some((first, rest)) = path.split_first() else {
        return true;
    };
    let properties = schema.properties.as_ref();
    properties
        .and_then(|all| all.get(*first))
        .is_some_and(|field| keeps(field, rest))
}

/// What this router says in a status beside NetScaler's two fields.
const ADDED: [&str; 4] = [
    "addresses",
    "attachedRoutes",
    "conditions",
    "observedGeneration",
];

/// The definition's name.
pub const NAME: &str = "listeners.citrix.com";

const MISSING: &str = "is missing, so there are no Listeners (apply what `sni-router crd` prints)";
const NO_VERSION: &str = "serves no version v1 (apply what `sni-router crd` prints)";
const NO_PASSTHROUGH: &str = "is too old: it drops spec.passthrough, so that no Listener can have \
    it (apply what `sni-router crd` prints)";
const NO_STATUS: &str = "has no status subresource, so that no status can be written (apply what \
    `sni-router crd` prints)";
const NO_CONDITIONS: &str = "drops status.conditions or other fields of a status, so that only \
    state and status_message are written (apply what `sni-router crd` prints)";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(version: Value) -> Vec<&'static str> {
        problems_of(&serde_json::from_value(version).unwrap())
    }

    #[test]
    fn own_definition_has_no_problem() {
        let crd = sni_router_core::manifest::crd::definition();
        assert!(found(crd["spec"]["versions"][0].clone()).is_empty());
    }

    #[test]
    fn definition_that_drops_passthrough_or_status_is_named() {
        let old = json!({
            "name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"vip": {"type": "string"}}},
            }}},
        });
        assert_eq!(found(old.clone()), [NO_PASSTHROUGH, NO_STATUS]);
        let mut loose = old;
        loose["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] =
            true.into();
        loose["subresources"] = json!({"status": {}});
        assert_eq!(found(loose.clone()), [NO_CONDITIONS]);
        let status = &mut loose["schema"]["openAPIV3Schema"]["properties"]["status"];
        *status = json!({"type": "object", "properties": {"conditions": {"type": "array"}}});
        assert_eq!(found(loose.clone()), [NO_CONDITIONS]);
        loose["schema"]["openAPIV3Schema"]["properties"]["status"] =
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(found(loose), Vec::<&str>::new());
    }

    #[test]
    fn status_is_written_as_far_as_it_is_kept() {
        let kept = |problems: &[&'static str]| Kept::with(&Arc::new(Mutex::new(problems.to_vec())));
        assert_eq!(kept(&[]), Kept::All);
        assert_eq!(kept(&[NO_PASSTHROUGH, NO_CONDITIONS]), Kept::Words);
        assert_eq!(kept(&[NO_PASSTHROUGH, NO_STATUS]), Kept::Nothing);
    }
}
