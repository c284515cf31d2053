//! Which programs are on an interface's way in.

use aya::programs::{SchedClassifier, TcAttachType};
use sni_router_common::names::PROG_TC_ETHER;
use sni_router_tests::linux::has_tcx;
use sni_router_tests::netns::Namespace;

/// The names of those in TCX, in the order in which packets meet them; none where there is no TCX.
#[track_caller]
pub fn in_tcx(ns: &Namespace, interface: &str) -> Vec<String> {
    if !has_tcx() {
        return Vec::new();
    }
    let found = ns.run(|| SchedClassifier::query_tcx(interface, TcAttachType::Ingress));
    let (_, programs) = found.expect("query");
    let names = programs.iter().map(|program| program.name_as_str());
    names.map(|name| name.expect("a name").to_owned()).collect()
}

/// How many filters of a clsact run the router's program.
pub fn own_filters(ns: &Namespace, interface: &str) -> usize {
    let shown = ns.output("tc", &["filter", "show", "dev", interface, "ingress"]);
    let is_own = |line: &&str| line.contains("handle") && line.contains(PROG_TC_ETHER);
    shown.lines().filter(is_own).count()
}
