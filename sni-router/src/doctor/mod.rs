//! `doctor`: whether this host has what the router relies on, what is lost where it has not, and
//! how to mend it.
//!
//! [`Facts`] are gathered once, without changing anything; each check is a function from them to
//! findings, so that tests can give it a host of their own. `docs/doctor.md` lists the checks.

mod facts;
mod finding;
mod host;
mod interfaces;
mod ipsec;
mod kernel;
mod listening;
mod network;
mod others;
mod pins;
mod ports;
mod process;
mod routes;
mod tcp;
mod vips;

#[cfg(test)]
mod tests;

use serde::Serialize;

pub use self::facts::{Facts, Site, Wanted};
pub use self::finding::{Finding, Level};

use self::finding::Outcome;

/// What all checks have found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In the order in which the checks are made.
    pub checks: Vec<Checked>,
}

/// What one check has found.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Of the check.
    pub name: &'static str,
    /// One at least.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Makes every check that these facts are enough for.
    pub fn of(facts: &Facts) -> Self {
        let checks = CHECKS.iter().filter_map(|(name, check)| {
            let findings = check(facts).unwrap_or_else(|found| vec![found]);
            (!findings.is_empty()).then_some(Checked { name, findings })
        });
        Self {
            checks: checks.collect(),
        }
    }

    /// How many findings there are of a level.
    pub fn count(&self, level: Level) -> usize {
        let findings = self.checks.iter().flat_map(|checked| &checked.findings);
        findings.filter(|finding| finding.level == level).count()
    }
}

/// A check, and what it is called.
type Check = (&'static str, fn(&Facts) -> Outcome);

/// All of them; the last ones need manifests.
const CHECKS: [Check; 21] = [
    ("kernel", kernel::kernel),
    ("capabilities", process::capabilities),
    ("programs", kernel::programs),
    ("jit", kernel::jit),
    ("descriptors", process::descriptors),
    ("pins", pins::pins),
    ("source-ports", ports::source_ports),
    ("source-addresses", ports::source_addresses),
    ("interfaces", interfaces::interfaces),
    ("offloads", interfaces::offloads),
    ("other-programs", others::other_programs),
    ("rp-filter", interfaces::rp_filter),
    ("backlog", tcp::backlog),
    ("tcp-options", tcp::tcp_options),
    ("conntrack", tcp::conntrack),
    ("ipsec", ipsec::ipsec),
    ("manifests", vips::manifests),
    ("vips", vips::vips),
    ("vip-ports", listening::vip_ports),
    ("routes", routes::routes),
    ("mtu", routes::mtu),
];
