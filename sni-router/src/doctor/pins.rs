//! Where what outlives the router is pinned.

use std::path::Path;

use super::facts::Facts;
use super::finding::{Finding, Outcome, list};
use super::host::AS_ROOT;
use super::kernel::chain;
use super::process::Process;
use crate::datapath::bpf::{PinError, Survey};
use crate::takeover::PinDir;

/// `pins`: a BPF file system that can be written to, and what is in it.
pub(super) fn pins(facts: &Facts) -> Outcome {
    let wanted = &facts.wanted;
    let dir = match &wanted.pins {
        _ if !wanted.uses_tc() => {
            return Ok(vec![Finding::ok("not needed without the tc datapath")]);
        }
        PinDir::Nowhere => {
            return Ok(vec![Finding::note("--pin-dir none").costs(WITHOUT_PINS)]);
        }
        PinDir::Preferred(dir) | PinDir::Demanded(dir) => dir,
    };
    let survey = match &facts.pins {
        Some(Ok(survey)) => survey,
        Some(Err(error)) => return Err(unusable(facts, dir, error)),
        None => return Ok(vec![Finding::unknown("not looked at")]),
    };
    if !survey.is_writable {
        let is_root = Process::of(&facts.host).is_ok_and(|process| process.is_root);
        return Err(if is_root {
            Finding::at(
                wanted.without_pins(),
                format!("{} is not writable", dir.display()),
            )
            .costs(WITHOUT_PINS)
            .mend("mount it without `ro`, in a container too")
        } else {
            Finding::unknown(format!("only root may look into {}", dir.display())).mend(AS_ROOT)
        });
    }
    let mut findings = pinned(facts, dir, survey);
    if findings.is_empty() {
        let what = format!("{} is in a BPF file system", dir.display());
        findings.push(Finding::ok(what));
    }
    Ok(findings)
}

fn unusable(facts: &Facts, dir: &Path, error: &PinError) -> Finding {
    let found = |what| Finding::at(facts.wanted.without_pins(), what).costs(WITHOUT_PINS);
    match error {
        PinError::NotBpf(_) => found(format!("{} is not in a BPF file system", dir.display()))
            .command(mount(dir))
            .mend("for a container: on the host, and /sys/fs/bpf as a volume"),
        _ => found(chain(error)).mend(AS_ROOT),
    }
}

/// A BPF file system for this directory.
fn mount(dir: &Path) -> String {
    if dir.starts_with(USUAL) {
        return format!("mount -t bpf bpf {USUAL}");
    }
    let dir = dir.display();
    format!("mkdir -p {dir} && mount -t bpf bpf {dir}")
}

/// What is there, and who it belongs to.
fn pinned(facts: &Facts, dir: &Path, survey: &Survey) -> Vec<Finding> {
    let mut findings = Vec::new();
    match survey.owner {
        Some(pid) if facts.host.is_router(pid) => {
            let what =
                format!("a router runs here (process {pid}); the next one takes over from it");
            findings.push(Finding::ok(what));
        }
        Some(pid) if survey.links > 0 => {
            let what = format!(
                "connections of a router that is gone (process {pid}) go on; interfaces: {}",
                survey.links
            );
            findings.push(
                Finding::note(what)
                    .costs("nobody watches their time limits until the next router adopts them")
                    .command(detach(dir))
                    .mend(
                        "only to end them. Is that router in another process namespace? Then \
                         nobody can take over from it: stop it first, or share the namespace \
                         (hostPID: true)",
                    ),
            );
        }
        _ => {}
    }
    if !survey.foreign.is_empty() {
        let dirs = list(survey.foreign.iter().map(|dir| dir.display()));
        let what = format!("connections of another version go on ({dirs})");
        findings.push(Finding::note(what).costs("their ports are not used until they have ended"));
    }
    findings
}

fn detach(dir: &Path) -> String {
    if dir == Path::new(USUAL).join("sni-router") {
        return "sni-router detach".to_owned();
    }
    format!("sni-router detach --pin-dir {}", dir.display())
}

/// Where systemd mounts it.
const USUAL: &str = "/sys/fs/bpf";

/// What is lost where nothing can be pinned.
pub(super) const WITHOUT_PINS: &str =
    "connections end with the router, and no other one can take over from it";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::finding::Level;
    use super::super::tests::Sample;
    use super::*;
    use crate::datapath::choose::Choice;

    #[test]
    fn file_system_of_another_kind_is_told_with_the_mount() {
        let mut sample = Sample::new();
        assert_eq!(sample.worst(pins).level, Level::Ok);
        let not_bpf = PinError::NotBpf("/sys/fs/bpf/sni-router".into());
        sample.facts.pins = Some(Err(not_bpf));
        let found = sample.worst(pins);
        assert_eq!(found.level, Level::Warning);
        assert_eq!(found.command.unwrap(), "mount -t bpf bpf /sys/fs/bpf");
        sample.facts.wanted.pins = PinDir::Demanded("/srv/pins".into());
        let found = sample.worst(pins);
        assert_eq!(found.level, Level::Error);
        assert_eq!(
            found.command.unwrap(),
            "mkdir -p /srv/pins && mount -t bpf bpf /srv/pins"
        );
        sample.facts.wanted.pins = PinDir::Nowhere;
        assert_eq!(sample.worst(pins).level, Level::Note);
        sample.facts.wanted.datapath = Choice::Userspace;
        assert_eq!(sample.worst(pins).level, Level::Ok);
    }

    #[test]
    fn directory_that_cannot_be_written_to_is_unknown_for_a_user() {
        let mut sample = Sample::new();
        sample.survey(|survey| survey.is_writable = false);
        assert_eq!(sample.worst(pins).level, Level::Warning);
        sample.edit("proc/self/status", "Uid:\t0\t0", "Uid:\t1000\t1000");
        assert_eq!(sample.worst(pins).level, Level::Unknown);
    }

    #[test]
    fn what_a_dead_router_has_left_is_a_note_and_what_a_living_one_has_is_not() {
        let mut sample = Sample::new();
        sample.survey(|survey| {
            survey.owner = Some(7);
            survey.links = 2;
        });
        let found = sample.worst(pins);
        assert_eq!(found.level, Level::Note);
        assert_eq!(found.command.unwrap(), "sni-router detach");
        sample.write("proc/7/comm", "sni-router");
        sample.write("proc/self/comm", "sni-router");
        sample.write("proc/7/cmdline", "sni-router\0run\0");
        let found = sample.worst(pins);
        assert_eq!(found.level, Level::Ok);
        assert!(found.what.contains("takes over"), "{found:?}");
        sample.survey(|survey| survey.foreign = vec![PathBuf::from("/sys/fs/bpf/x/1/v9")]);
        assert!(sample.worst(pins).what.contains("/v9"));
    }
}
