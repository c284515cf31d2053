//! Manifests: texts of Kubernetes objects, and what they mean together.
//!
//! A [`Compiler`] is given all texts of one moment, a [`Snapshot`], and answers with a [`Build`]:
//! the [`Model`] to serve and every [`Problem`] on the way to it. Building is a pure function of
//! the snapshot, but for one thing: an object that turns bad keeps its last good version, and the
//! compiler is where that version is remembered.
//!
//! Invariants:
//!
//! - Nothing in a manifest makes this module panic.
//! - A bad object changes nothing for the objects that do not name it.
//! - Private keys are skipped while a text is parsed: no value, problem or model ever holds one.
//!
//! The way of a text: [`text`] cuts it into documents, [`identify`] names the objects, [`object`]
//! checks and decodes them, [`store`] says which of them are in force; then [`listener`],
//! [`ingress`] and [`backend`] read them and [`compile`] puts them together.

mod age;
mod agreement;
mod allowed;
mod annotations;
mod attached;
mod backend;
mod certificate;
mod check;
mod class;
mod cluster_policy;
mod compile;
pub mod crd;
mod facts;
mod file;
mod front;
mod identify;
mod ingress;
mod last_good;
mod listener;
mod locate;
mod merge;
mod names;
mod nearest;
mod object;
mod path;
mod policy;
mod report;
mod shadow;
mod shape;
mod slices;
mod sorted;
mod store;
mod text;
mod tree;
mod union;
mod vip;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

pub use self::compile::Compiler;
pub use self::facts::{IngressFacts, ListenerFacts, Served, Subject};
pub use self::names::{ListenerName, ListenerNameError};
use crate::model::{BackendKey, Cluster, Model, ObjectKey};
use crate::name::{Host, HostPattern};
use crate::problem::{ObjectRef, Problem, Severity};

/// One text of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceFile {
    /// The cluster its objects are in. Objects of different clusters never see each other.
    pub cluster: Cluster,
    /// How the text is named in problems, and its place in the order of texts. A name that ends
    /// in `.json` is read as JSON, any other as YAML.
    pub path: String,
    /// The text. Shared: a snapshot of a cluster holds thousands, and most are those of the last one.
    pub text: Arc<str>,
}

/// A file that is there, but whose text cannot be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnreadableFile {
    /// The cluster its objects are in.
    pub cluster: Cluster,
    /// Its path.
    pub path: String,
    /// Why not, in the words of a problem: `is larger than 64 MiB`.
    pub why: String,
}

/// All texts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The texts; no path twice in a cluster.
    pub files: Vec<SourceFile>,
    /// Files that keep what they said when they last could be read.
    pub unreadable: Vec<UnreadableFile>,
    /// Clusters of which this is all there is, as their API servers said themselves. What is here of
    /// others is what a cache said, or nothing.
    pub current: BTreeSet<Cluster>,
}

impl From<Vec<SourceFile>> for Snapshot {
    fn from(files: Vec<SourceFile>) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }
}

/// How manifests are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The classes whose Ingresses and Listeners are served; all if there are none.
    pub ingress_classes: Vec<String>,
    /// Whose IngressClasses count.
    pub controllers: Controllers,
    /// The Listener that Ingresses attach to, each in its own cluster, which ask for passthrough by
    /// annotation and name no Listener. None: they are not served.
    pub default_listener: Option<ListenerName>,
    /// The cluster that this router prefers, where it is told to prefer one.
    pub local_cluster: Option<Cluster>,
    /// What is asked of a Listener's certificates.
    pub certificates: CertificateCheck,
}

/// Whose IngressClasses count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Controllers {
    /// A class is taken by its name, unless an IngressClass says that it is another controller's:
    /// a directory of manifests need not hold IngressClasses.
    #[default]
    ByName,
    /// A class is taken if there is an IngressClass with `sni-router.io/ingress-controller`.
    Own,
    /// Or with `citrix.com/ingress-controller`.
    OwnAndCitrix,
}

/// What is asked of a Listener's certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateCheck {
    /// One is named, its Secret is there, and the certificate in it can be parsed.
    #[default]
    Verify,
    /// One is named.
    Declared,
    /// Nothing.
    Ignore,
}

/// What DNS said of the names in [`Model::external_names`]. A name that was not asked for yet is
/// absent, one that has no address is there with none.
pub type Resolved = HashMap<Host, Vec<IpAddr>>;

/// What a snapshot means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// What is to be served.
    pub model: Model,
    /// Everything that is wrong, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// What became of the Listeners that are this router's to judge, in the order of their keys.
    pub listeners: Vec<ListenerFacts>,
    /// What became of the Ingresses that are this router's, in the order of their keys.
    pub ingresses: Vec<IngressFacts>,
    /// Routes that are not in the model because another has their pattern.
    pub shadowed: Vec<Shadowed>,
    /// Those of the snapshot.
    pub current: BTreeSet<Cluster>,
}

impl Build {
    /// How many problems there are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.problems
            .iter()
            .filter(|problem| problem.severity == severity)
            .count()
    }
}

/// A route that lost its pattern to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed {
    /// The listener.
    pub listener: ObjectKey,
    /// The pattern both have.
    pub pattern: HostPattern,
    /// Where it would have gone.
    pub backend: BackendKey,
    /// The object that wanted it.
    pub origin: ObjectRef,
    /// The object that has it.
    pub winner: ObjectRef,
}

/// Builds `data` as one text, twice, for a fuzzer.
pub fn fuzz_entry(data: &[u8]) {
    let (path, data) = match data.split_first() {
        Some((b'j', rest)) => ("fuzz.json", rest),
        _ => ("fuzz.yaml", data),
    };
    let text = String::from_utf8_lossy(data).into_owned();
    let mut compiler = Compiler::new(Options::default());
    let snapshot = Snapshot::from(vec![SourceFile {
        path: path.into(),
        text: text.into(),
        ..SourceFile::default()
    }]);
    let first = compiler.build(&snapshot, &Resolved::new(), 0);
    let second = compiler.build(&snapshot, &Resolved::new(), 0);
    assert_eq!(
        first, second,
        "building the same snapshot again changes nothing"
    );
}
