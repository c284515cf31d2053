//! A unit's limits to system calls, as the kernel takes them.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use syscalls::Sysno;

use super::unit::Unit;

/// `SystemCallFilter=`, `RestrictAddressFamilies=` and `MemoryDenyWriteExecute=`; what they do not allow ends
/// the process, where the unit only has it fail: so nothing goes unnoticed. And what systemd makes of
/// `RestrictNamespaces=`: clone3(2), whose flags a filter cannot see, is not there.
pub(super) struct Filter {
    allowed: BpfProgram,
    absent: BpfProgram,
}

impl Filter {
    /// Of a unit. Groups also name system calls that this architecture does not have.
    pub(super) fn of(unit: &Unit) -> Self {
        let allowed = unit.system_calls();
        let numbers = allowed.iter().filter_map(|name| name.parse::<Sysno>().ok());
        let mut rules: Rules = numbers.map(|it| (it.id().into(), Vec::new())).collect();
        assert!(rules.len() > 100, "{allowed:?}");
        assert_eq!(unit.value("MemoryDenyWriteExecute"), "yes");
        let (write, exec) = (libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
        let either = [0, write, exec].map(|value| masked(2, write | exec, value));
        rules.insert(libc::SYS_mmap, either.into());
        rules.insert(libc::SYS_mprotect, vec![masked(2, exec, 0)]);
        let families = unit.value("RestrictAddressFamilies").split_whitespace();
        let families = families.map(|name| masked(0, u64::from(u32::MAX), family(name)));
        rules.insert(libc::SYS_socket, families.collect());
        assert_eq!(unit.value("RestrictNamespaces"), "yes");
        let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
        Self {
            allowed: program(rules, SeccompAction::KillProcess, SeccompAction::Allow),
            absent: program(absent, SeccompAction::Allow, enosys),
        }
    }

    /// Holds for this thread from now on, and for what it starts.
    pub(super) fn apply(&self) {
        for program in [&self.absent, &self.allowed] {
            apply_filter(program).expect("install a filter");
        }
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What happens to a system call that no rule matches, and to one that one does.
fn program(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> BpfProgram {
    let arch = ARCH.try_into().expect("an architecture of seccomp");
    let filter = SeccompFilter::new(rules, otherwise, matched, arch);
    filter.and_then(BpfProgram::try_from).expect("a filter")
}

/// Matches where the bits of `mask` in an argument have this value.
fn masked(argument: u8, mask: u64, value: u64) -> SeccompRule {
    let operator = SeccompCmpOp::MaskedEq(mask);
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
    SeccompRule::new(vec![condition.expect("a condition")]).expect("a rule")
}

#[track_caller]
fn family(name: &str) -> u64 {
    let number = match name {
        "AF_INET" => libc::AF_INET,
        "AF_INET6" => libc::AF_INET6,
        "AF_NETLINK" => libc::AF_NETLINK,
        "AF_UNIX" => libc::AF_UNIX,
        other => panic!("{other} is new here"),
    };
    number as u64
}
