//! Manifests and what the API server makes of them.

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::discovery::{Scope, pinned_kind};
use kube::{Client, Error, Resource as _};
use serde_json::Value;

use super::ControlPlane;
use crate::wait::{SOON, until};

impl ControlPlane {
    /// Applies every object of a text, in its order; panics when the server refuses one.
    #[track_caller]
    pub fn apply(&self, text: &str) {
        for object in documents(text).unwrap_or_else(|e| panic!("{e}:\n{text}")) {
            let applied = self.send(&object, DryRun::No);
            applied.unwrap_or_else(|e| panic!("{}: {e}", name(&object)));
            if object["kind"] == "CustomResourceDefinition" {
                self.wait_established(&object);
            }
        }
    }

    /// Waits until objects of a type are served.
    #[track_caller]
    fn wait_established(&self, definition: &Value) {
        let established = || {
            let stored = self.send(definition, DryRun::Yes).expect("it is right");
            let conditions = stored["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|condition| {
                condition["type"] == "Established" && condition["status"] == "True"
            })
        };
        until("the type is served", SOON, established);
    }

    /// Sends an object as `kubectl apply --server-side --validate=strict` does, and gives what the
    /// server made of it, or why it refused it.
    #[track_caller]
    pub fn send(&self, object: &Value, dry_run: DryRun) -> Result<Value, String> {
        let (client, object) = (self.client(), object.clone());
        self.run(async move { send(client, &object, dry_run).await })
    }
}

/// Whether the server only says what it would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// It stores the object.
    No,
    /// Everything but that.
    Yes,
}

/// The objects of a YAML text; documents with nothing in them are none.
///
/// # Errors
///
/// The text is not YAML.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| e.to_string())?;
    let objects = documents.into_iter().filter(|document| !document.is_null());
    Ok(objects.collect())
}

/// `Kind namespace/name`, as far as it is there.
pub fn name(object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, metadata) = (word(&object["kind"]), &object["metadata"]);
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{}", word(&metadata["name"])),
        None => format!("{kind} {}", word(&metadata["name"])),
    }
}

async fn send(client: Client, object: &Value, dry_run: DryRun) -> Result<Value, String> {
    let path = path(&client, object).await?;
    let dry_run = match dry_run {
        DryRun::Yes => "&dryRun=All",
        DryRun::No => "",
    };
    let request = http::Request::patch(format!(
        "{path}?fieldManager=lab&force=true&fieldValidation=Strict{dry_run}"
    ))
    .header("content-type", "application/apply-patch+yaml")
    .body(object.to_string().into_bytes())
    .map_err(|e| e.to_string())?;
    client.request(request).await.map_err(refusal)
}

/// Where the object is, or is to be.
async fn path(client: &Client, object: &Value) -> Result<String, String> {
    let word = |value: &Value, what: &str| {
        let word = value.as_str().filter(|word| !word.is_empty());
        word.map(str::to_owned).ok_or(format!("no {what}"))
    };
    let version = word(&object["apiVersion"], "apiVersion")?;
    let kind = word(&object["kind"], "kind")?;
    let name = word(&object["metadata"]["name"], "metadata.name")?;
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let kind = GroupVersionKind::gvk(group, version, &kind);
    let (resource, capabilities): (ApiResource, _) =
        pinned_kind(client, &kind).await.map_err(refusal)?;
    let namespace = match capabilities.scope {
        Scope::Namespaced => Some(
            object["metadata"]["namespace"]
                .as_str()
                .unwrap_or("default"),
        ),
        Scope::Cluster => None,
    };
    let path = DynamicObject::url_path(&resource, namespace);
    Ok(format!("{path}/{name}"))
}

/// The server's own words. Anything but a refusal is the failure of a test.
fn refusal(error: Error) -> String {
    match error {
        Error::Api(status) => status.message,
        Error::Discovery(error) => error.to_string(),
        error => panic!("the API server did not answer: {error}"),
    }
}
