//! Which of two objects that want the same is the older one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::model::ObjectKey;

/// Orders objects from the oldest to the youngest: by creation time, then by namespace and name.
///
/// A manifest that was never in a cluster has no creation time; it counts as younger than all
/// that have one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    unknown: bool,
    created: Option<Time>,
    key: ObjectKey,
}

impl Age {
    pub(super) fn of(metadata: &ObjectMeta, key: &ObjectKey) -> Self {
        let created = metadata.creation_timestamp.clone();
        Self {
            unknown: created.is_none(),
            created,
            key: key.clone(),
        }
    }
}
