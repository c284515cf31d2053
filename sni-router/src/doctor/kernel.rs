//! The kernel, and whether it takes the programs.

use std::error::Error;

use super::facts::Facts;
use super::finding::{Finding, Outcome};
use super::host::AS_ROOT;
use super::process::Process;
use crate::datapath::bpf::LoadError;
use crate::datapath::choose::Choice;
use crate::takeover::PinDir;

/// `kernel`: its version.
pub(super) fn kernel(facts: &Facts) -> Outcome {
    let release = facts.host.sysctl("kernel.osrelease")?;
    let Some(version) = version(&release) else {
        return Err(Finding::unknown(format!(
            "{release:?} is no version of Linux"
        )));
    };
    let (wanted, linux) = (&facts.wanted, format!("Linux {release}"));
    if wanted.uses_tc() && version < TC {
        let what = format!("{linux}: the tc datapath needs 5.13");
        return Err(Finding::at(wanted.without_tc(), what)
            .costs(WITHOUT_TC)
            .mend("a newer kernel"));
    }
    if wanted.datapath == Choice::Sockmap && version < SOCKMAP {
        let what = format!("{linux}: the sockmap datapath needs 5.10");
        return Err(Finding::error(what)
            .costs("the router does not start")
            .mend("a newer kernel, or --datapath userspace"));
    }
    let mut findings = Vec::new();
    if wanted.uses_tc() && wanted.pins != PinDir::Nowhere && version < PINS {
        let what = format!("{linux}: pins need 5.14");
        findings.push(
            Finding::at(wanted.without_pins(), what)
                .costs(super::pins::WITHOUT_PINS)
                .mend("a newer kernel, or --pin-dir none"),
        );
    }
    if wanted.uses_tc() && version < TCX {
        findings.push(
            Finding::note(format!("{linux}: filters of a clsact instead of TCX (6.6)")).costs(
                "who replaces the clsact of an interface takes the router's program away; one \
                 that is killed leaves its filters, which the next one or `detach` removes",
            ),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(linux));
    }
    Ok(findings)
}

/// `programs`: whether the kernel takes them, which only loading shows.
pub(super) fn programs(facts: &Facts) -> Outcome {
    let error = match &facts.programs {
        None => return Ok(vec![Finding::ok("not needed: --datapath userspace")]),
        Some(Ok(_)) => return Ok(vec![Finding::ok("the kernel takes all of them")]),
        Some(Err(error)) => error,
    };
    let lost = Finding::at(facts.wanted.without_bpf(), chain(error)).costs(WITHOUT_BPF);
    Err(match error {
        LoadError::Capability(capability) => {
            Finding::unknown(format!("not tried without {capability}")).mend(AS_ROOT)
        }
        LoadError::NotBuilt => lost.command("cargo xtask setup && cargo xtask build"),
        _ => match Process::of(&facts.host) {
            Ok(process) if process.is_filtered && is_refusal(error) => lost.mend(
                "a seccomp filter is in force, which may not know CAP_BPF: a newer container \
                 runtime, or deploy/kubernetes-privileged",
            ),
            _ => lost.mend("a newer kernel, or one with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF"),
        },
    })
}

/// `jit`: whether the programs run as machine code.
pub(super) fn jit(facts: &Facts) -> Outcome {
    let Some(programs) = &facts.programs else {
        return Ok(vec![Finding::ok("not needed: --datapath userspace")]);
    };
    let is_compiled = match programs.as_ref().ok().and_then(|taken| taken.is_compiled) {
        Some(is_compiled) => is_compiled,
        None => facts.host.number(JIT)? != 0,
    };
    Ok(vec![if is_compiled {
        Finding::ok("programs run as machine code")
    } else {
        Finding::warning("programs are interpreted")
            .costs("several times the CPU for every packet of every connection")
            .command(format!("sysctl -w {JIT}=1"))
            .mend("in the host's own network namespace; then restart the router")
    }])
}

/// `6.18.44-fc` is (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

/// An error and what has led to it.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Whether the kernel has said EPERM somewhere down the line.
fn is_refusal(error: &LoadError) -> bool {
    let text = chain(error);
    text.contains("os error 1)") || text.contains("Operation not permitted")
}

/// What is lost where `tc` cannot be had.
pub(super) const WITHOUT_TC: &str =
    "every byte passes through the router's process, and connections end with it";

const WITHOUT_BPF: &str = "every VIP has to be bound, every byte passes through the router's \
                           process, and connections end with it";

const JIT: &str = "net.core.bpf_jit_enable";

/// Pointers as arguments of global functions.
const TC: (u32, u32) = (5, 13);

/// Verdict programs without a parser.
const SOCKMAP: (u32, u32) = (5, 10);

/// SO_NETNS_COOKIE, by which pins are found.
const PINS: (u32, u32) = (5, 14);

/// As `datapath/bpf/hooks.rs` has it.
const TCX: (u32, u32) = (6, 6);

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::tests::Sample;
    use super::*;
    use crate::datapath::bpf::Taken;

    fn level(sample: &Sample, check: fn(&Facts) -> Outcome) -> Level {
        sample.worst(check).level
    }

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        for (release, expected) in [
            ("6.18.44-fc-v782", Some((6, 18))),
            ("5.14.0-427.el9.x86_64", Some((5, 14))),
            ("6.6", Some((6, 6))),
            ("6.9-rc1+", Some((6, 9))),
            ("", None),
            ("6", None),
            ("99999999999.1", None),
            ("Darwin", None),
        ] {
            assert_eq!(version(release), expected, "{release:?}");
        }
    }

    #[test]
    fn old_kernel_is_an_error_where_tc_was_asked_for_and_a_warning_where_it_was_not() {
        let mut sample = Sample::new();
        assert_eq!(level(&sample, kernel), Level::Ok);
        for (release, datapath, expected) in [
            ("6.1.0-18-amd64", Choice::Auto, Level::Note),
            ("5.13.0", Choice::Auto, Level::Warning),
            ("5.10.0-28-amd64", Choice::Auto, Level::Warning),
            ("5.10.0-28-amd64", Choice::Tc, Level::Error),
            ("5.4.0", Choice::Sockmap, Level::Error),
            ("5.4.0", Choice::Userspace, Level::Ok),
            ("nonsense", Choice::Auto, Level::Unknown),
        ] {
            sample.write("proc/sys/kernel/osrelease", release);
            sample.facts.wanted.datapath = datapath;
            assert_eq!(level(&sample, kernel), expected, "{release} {datapath:?}");
        }
    }

    #[test]
    fn interpreted_programs_are_a_warning_with_a_command() {
        let mut sample = Sample::new();
        assert_eq!(level(&sample, jit), Level::Ok);
        sample.facts.programs = Some(Ok(Taken {
            is_compiled: Some(false),
        }));
        let found = sample.worst(jit);
        assert_eq!(found.level, Level::Warning);
        assert_eq!(
            found.command.unwrap(),
            "sysctl -w net.core.bpf_jit_enable=1"
        );
        // Not loaded: the setting has to do, where it can be read.
        sample.facts.programs = Some(Err(LoadError::Capability("CAP_BPF")));
        sample.write("proc/sys/net/core/bpf_jit_enable", "0\n");
        assert_eq!(level(&sample, jit), Level::Warning);
        sample.remove("proc/sys/net/core/bpf_jit_enable");
        assert_eq!(level(&sample, jit), Level::Unknown);
    }

    #[test]
    fn refused_program_is_told_with_the_reason_and_what_may_be_in_the_way() {
        let mut sample = Sample::new();
        sample.facts.programs = Some(Err(LoadError::Capability("CAP_BPF")));
        assert_eq!(level(&sample, programs), Level::Unknown);
        let refused = || LoadError::Netns(std::io::Error::from_raw_os_error(libc::EPERM));
        sample.facts.programs = Some(Err(refused()));
        let found = sample.worst(programs);
        assert_eq!(found.level, Level::Warning);
        assert!(!found.mend.unwrap().contains("seccomp"));
        sample.edit("proc/self/status", "Seccomp:\t0", "Seccomp:\t2");
        sample.facts.wanted.datapath = Choice::Tc;
        let found = sample.worst(programs);
        assert_eq!(found.level, Level::Error);
        assert!(found.mend.unwrap().contains("seccomp"));
    }
}
