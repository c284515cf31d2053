//! Another user, with some capabilities.

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// Nobody else's number: neither a person's nor one of systemd's dynamic users.
pub(super) const USER: u32 = 54_321;

/// Makes the calling thread, and what it starts, what systemd makes of a service with User=,
/// AmbientCapabilities= and CapabilityBoundingSet=.
pub(super) fn become_user(ambient: CapabilitySet, bounding: CapabilitySet) {
    let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
    let others = CapabilitySet::all().difference(bounding);
    for (_, capability) in others.iter_names() {
        remove_capability_from_bounding_set(capability).expect("the test runs as root");
    }
    set_keep_capabilities(true).expect("keep capabilities");
    set_thread_groups(&[]).expect("no groups");
    set_thread_res_gid(gid, gid, gid).expect("another group");
    set_thread_res_uid(uid, uid, uid).expect("another user");
    let sets = CapabilitySets {
        effective: ambient,
        permitted: ambient,
        inheritable: ambient,
    };
    set_capabilities(None, sets).expect("capabilities");
    for (_, capability) in ambient.iter_names() {
        configure_capability_in_ambient_set(capability, true).expect("an ambient capability");
    }
    set_no_new_privs(true).expect("no new privileges");
}
