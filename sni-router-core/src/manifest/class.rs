//! Which Ingresses and Listeners are this router's: by class, if classes were given.

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::sorted::ById;

/// The classes this router serves, and the IngressClass objects.
pub(super) struct Classes<'a> {
    /// None: all are served.
    pub(super) served: &'a [String],
    pub(super) objects: &'a ById<IngressClass>,
}

impl Classes<'_> {
    /// Why an Ingress is not served; `None` if it is.
    ///
    /// As NetScaler decides: the annotation wins over the field, an Ingress with neither is
    /// served if a served class is the cluster's default.
    pub(super) fn reject_ingress(&self, ingress: &Ingress) -> Option<Rejected> {
        if self.served.is_empty() {
            return None;
        }
        let annotated = ingress
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(ANNOTATION));
        if let Some(class) = annotated {
            let path = super::path::annotation(ANNOTATION);
            return (!self.serves(class)).then(|| self.foreign(path, class));
        }
        let path = "spec.ingressClassName";
        match ingress
            .spec
            .as_ref()
            .and_then(|spec| spec.ingress_class_name.as_deref())
        {
            Some(class) if !self.serves(class) => Some(self.foreign(path.into(), class)),
            Some(class) => self.foreign_controller(class).map(|controller| Rejected {
                path: path.into(),
                what: format!("the class {class:?} belongs to the controller {controller:?}"),
            }),
            None if self.default_is_served() => None,
            None => Some(Rejected {
                path: path.into(),
                what: format!(
                    "has no class, and only {} is served",
                    self.served.join(", ")
                ),
            }),
        }
    }

    /// Why a Listener is not served; `None` if it is. One without a class is everybody's.
    pub(super) fn reject_listener(&self, class: Option<&str>) -> Option<Rejected> {
        let class = class?;
        let foreign = !self.served.is_empty() && !self.serves(class);
        foreign.then(|| self.foreign("spec.ingressclass".into(), class))
    }

    fn serves(&self, class: &str) -> bool {
        self.served
            .iter()
            .any(|served| served.eq_ignore_ascii_case(class))
    }

    fn foreign(&self, path: String, class: &str) -> Rejected {
        let served = self.served.join(", ");
        Rejected {
            path,
            what: format!("is of the class {class:?}, and only {served} is served"),
        }
    }

    /// A class that is described, but as another controller's. One that is not described is taken
    /// by its name.
    fn foreign_controller(&self, class: &str) -> Option<&str> {
        let object = self
            .objects
            .values()
            .find(|object| name_of(object).eq_ignore_ascii_case(class))?;
        let controller = object.spec.as_ref()?.controller.as_deref()?;
        (!CONTROLLERS.contains(&controller)).then_some(controller)
    }

    fn default_is_served(&self) -> bool {
        self.objects.values().any(|object| {
            let default = object
                .metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get(DEFAULT));
            default.is_some_and(|flag| flag == "true")
                && self.serves(name_of(object))
                && self.foreign_controller(name_of(object)).is_none()
        })
    }
}

/// Why an object is another controller's.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) path: String,
    pub(super) what: String,
}

fn name_of(class: &IngressClass) -> &str {
    class.metadata.name.as_deref().unwrap_or_default()
}

/// The annotation that named the class before there was a field.
pub(super) const ANNOTATION: &str = "kubernetes.io/ingress.class";

const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// The controllers whose classes this router takes: NetScaler's, whose manifests it reads, and its
/// own.
const CONTROLLERS: [&str; 2] = [
    "citrix.com/ingress-controller",
    "sni-router.io/ingress-controller",
];
