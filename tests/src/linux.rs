//! The kernel that runs.

/// Its version, as (6, 18).
pub fn version() -> (u32, u32) {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().expect("a version").parse().expect("digits");
    (number(), number())
}

/// Whether several programs can be on an interface in an order of their own choice.
pub fn has_tcx() -> bool {
    version() >= (6, 6)
}
