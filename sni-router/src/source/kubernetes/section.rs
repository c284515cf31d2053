//! What one watch gives, and how far that is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cache::Files;
use super::inputs::named;
use super::kind::Kind;
use super::object::{Id, Object, Seen};

/// Objects of one kind, of one namespace or of all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Section {
    pub kind: Kind,
    /// `None` for all.
    pub namespace: Option<String>,
}

impl Section {
    /// Whether an object of its kind is one of these.
    pub fn has(&self, id: &Id) -> bool {
        let of = match self.kind {
            Kind::Namespace => &id.name,
            _ => &id.namespace,
        };
        self.namespace
            .as_ref()
            .is_none_or(|namespace| namespace == of)
    }

    /// Whether objects may be both of this and of `other`.
    pub fn meets(&self, other: &Self) -> bool {
        let namespaces = self.namespace.as_ref().zip(other.namespace.as_ref());
        self.kind == other.kind && namespaces.is_none_or(|(one, other)| one == other)
    }

    /// As a directory of its objects would be named.
    pub fn path(&self) -> String {
        let kind = self.kind.as_str().to_lowercase();
        match &self.namespace {
            Some(namespace) => format!("{kind}/{namespace}"),
            None => kind,
        }
    }

    /// What to do when the router may not read it.
    pub fn remedy(&self) -> String {
        let resource = self.kind.name();
        let place = match &self.namespace {
            Some(namespace) if self.kind.is_namespaced() => format!("in the namespace {namespace}"),
            _ => "by a ClusterRole".to_owned(),
        };
        let or = match self.kind {
            Kind::Secret => ", or run with --certificates=declared",
            _ => "",
        };
        format!("grant get, list and watch of {resource} {place} to the router's account{or}")
    }

    /// Its objects among the texts of a cache. None has a status: that may be another one by now.
    fn of_cache(&self, files: &Files) -> Objects {
        let objects = files.iter().filter_map(|(path, text)| {
            let (kind, id) = object_at(path)?;
            (kind == self.kind && self.has(&id)).then(|| (id, Held::of_text(kind, text)))
        });
        objects.collect()
    }
}

/// The objects of a section.
pub type Objects = BTreeMap<Id, Held>;

/// What is known of a section.
#[derive(Debug, Default)]
pub struct Contents {
    /// Whether no list is waited for: there was one, or it is withheld.
    pub is_answered: bool,
    /// What was listed last; what the cache has if it is withheld from the start. `None` where
    /// nothing is known.
    pub objects: Option<Objects>,
}

impl Contents {
    /// What a list said.
    pub fn listed(objects: Objects) -> Self {
        Self {
            is_answered: true,
            objects: Some(objects),
        }
    }

    /// Of a section that is withheld from the start.
    pub fn withheld(section: &Section, cached: Option<&Files>) -> Self {
        Self {
            is_answered: true,
            objects: cached.map(|files| section.of_cache(files)),
        }
    }
}

/// What is kept of an object.
#[derive(Clone, Debug)]
pub struct Held {
    pub text: Arc<str>,
    pub seen: Option<Arc<Seen>>,
    pub secrets: Vec<Id>,
}

impl Held {
    pub fn of(kind: Kind, object: &Object) -> Self {
        let has_status = matches!(kind, Kind::Listener | Kind::Ingress);
        Self {
            text: object.text(kind),
            seen: has_status.then(|| object.seen(named(kind, object)).into()),
            secrets: secrets(kind, object),
        }
    }

    fn of_text(kind: Kind, text: &Arc<str>) -> Self {
        let object = match kind {
            Kind::Listener => serde_json::from_str(text).ok(),
            _ => None,
        };
        Self {
            text: Arc::clone(text),
            seen: None,
            secrets: object.map_or_else(Vec::new, |object| secrets(kind, &object)),
        }
    }
}

fn secrets(kind: Kind, object: &Object) -> Vec<Id> {
    match kind {
        Kind::Listener => object.secrets(),
        _ => Vec::new(),
    }
}

/// As a file would be named.
pub fn path(kind: Kind, id: &Id) -> String {
    let kind = kind.as_str().to_lowercase();
    match id.namespace.as_str() {
        "" => format!("{kind}/{}.json", id.name),
        namespace => format!("{kind}/{namespace}/{}.json", id.name),
    }
}

/// The object of which this is the [`path`].
fn object_at(path: &str) -> Option<(Kind, Id)> {
    let (kind, rest) = path.strip_suffix(".json")?.split_once('/')?;
    let mut kinds = Kind::ALL.into_iter();
    let kind = kinds.find(|it| it.as_str().eq_ignore_ascii_case(kind))?;
    let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
    let id = Id {
        namespace: namespace.into(),
        name: name.into(),
    };
    Some((kind, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(kind: Kind, namespace: Option<&str>) -> Section {
        Section {
            kind,
            namespace: namespace.map(str::to_owned),
        }
    }

    #[test]
    fn objects_of_a_section_are_found_in_a_cache_by_their_paths() {
        let ids = [("shop", "a"), ("web", "b")].map(|(namespace, name)| Id {
            namespace: namespace.into(),
            name: name.into(),
        });
        let namespace = Id {
            namespace: String::new(),
            name: "shop".into(),
        };
        let mut paths: Vec<_> = [Kind::Ingress, Kind::Service]
            .iter()
            .flat_map(|kind| ids.iter().map(|id| path(*kind, id)))
            .collect();
        paths.push(path(Kind::Namespace, &namespace));
        paths.push(path(Kind::IngressClass, &namespace));
        let files: Files = paths.into_iter().map(|path| (path, "{}".into())).collect();
        let found = |kind, namespace| {
            let objects = section(kind, namespace).of_cache(&files);
            objects
                .into_keys()
                .map(|id| path(kind, &id))
                .collect::<Vec<_>>()
        };
        assert_eq!(found(Kind::Ingress, Some("shop")), ["ingress/shop/a.json"]);
        assert_eq!(found(Kind::Service, None).len(), 2);
        assert_eq!(
            found(Kind::Namespace, Some("shop")),
            ["namespace/shop.json"]
        );
        assert_eq!(found(Kind::Namespace, Some("web")), [""; 0]);
        assert_eq!(found(Kind::IngressClass, None), ["ingressclass/shop.json"]);
    }

    #[test]
    fn remedy_names_the_verbs_the_resource_and_the_place() {
        let remedy = |kind, namespace| section(kind, namespace).remedy();
        let shop = Some("shop");
        assert_eq!(
            remedy(Kind::Ingress, shop),
            "grant get, list and watch of ingresses.networking.k8s.io in the namespace shop to the \
             router's account"
        );
        assert_eq!(
            remedy(Kind::Secret, None),
            "grant get, list and watch of secrets by a ClusterRole to the router's account, or run \
             with --certificates=declared"
        );
        assert!(remedy(Kind::Namespace, shop).contains("namespaces by a ClusterRole"));
    }
}
