//! One network namespace.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps its namespaces.
const DIR: &str = "/run/netns";

/// What the name of every namespace and directory of the lab starts with; the process id follows.
const PREFIX: &str = "snir-";

/// A named network namespace with its loopback interface up; deleted on drop.
///
/// A socket belongs for ever to the namespace it was made in, so [`Namespace::connect`] and
/// [`Namespace::listen`] give sockets that any thread can use.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Makes a namespace. `name` comes from [`unique_name`], so that it can be swept.
    pub fn create(name: &str) -> Self {
        ip(&["netns", "add", name]);
        let path = Path::new(DIR).join(name);
        let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let this = Self {
            name: name.to_owned(),
            file,
        };
        this.batch("link set lo up\n");
        this
    }

    /// The name `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` on a thread of its own inside the namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let entered = || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(self.file.as_fd(), kind).expect("setns");
            f()
        };
        let joined = thread::scope(|scope| scope.spawn(entered).join());
        joined.unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// Starts a process inside the namespace: it inherits that of the thread that forks.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.run(|| command.spawn())
    }

    /// Connects from inside the namespace.
    pub fn connect(&self, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        let stream = self.run(|| TcpStream::connect_timeout(&to, limit))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Listens inside the namespace, with the longest queue the kernel gives.
    pub fn listen(&self, at: SocketAddr) -> TcpListener {
        self.run(|| {
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(at),
                socket2::Type::STREAM,
                None,
            )?;
            socket.set_reuse_address(true)?;
            socket.bind(&at.into())?;
            socket.listen(4096)?;
            io::Result::Ok(socket.into())
        })
        .unwrap_or_else(|e| panic!("listen on {at} in {}: {e}", self.name))
    }

    /// Runs lines of `ip -batch` in the namespace.
    #[track_caller]
    pub fn batch(&self, lines: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the lab needs `ip` (apt-get install iproute2)");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(lines.as_bytes()).expect("ip reads");
        drop(stdin);
        let output = child.wait_with_output().expect("ip ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "ip -batch in {}: {stderr}\n{lines}",
            self.name
        );
    }

    /// The standard output of `ip` with these arguments in the namespace.
    #[track_caller]
    pub fn ip_output(&self, args: &[&str]) -> String {
        ip(&[&["-n", &self.name], args].concat())
    }

    /// The standard output of a program that runs in the namespace and succeeds.
    #[track_caller]
    pub fn output(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(|| Command::new(program).args(args).output());
        let output = output.unwrap_or_else(|e| panic!("the lab needs `{program}`: {e}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {}: {stderr}",
            args.join(" ")
        );
        String::from_utf8(output.stdout).expect("programs print text")
    }

    /// A `net.` sysctl of the namespace, given as a path below `/proc/sys/net`.
    #[track_caller]
    pub fn read_sysctl(&self, path: &str) -> String {
        let file = Path::new("/proc/sys/net").join(path);
        let text = self.run(|| fs::read_to_string(&file));
        let text = text.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        text.trim().to_owned()
    }

    /// Sets a `net.` sysctl of the namespace, given as a path below `/proc/sys/net`.
    #[track_caller]
    pub fn sysctl(&self, path: &str, value: &str) {
        let file = Path::new("/proc/sys/net").join(path);
        self.run(|| fs::write(&file, value))
            .unwrap_or_else(|e| panic!("{} = {value}: {e}", file.display()));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

/// A name nobody else uses for a lab's namespaces and directory: `snir-<pid>-<number>`.
///
/// The first call also sweeps what runs that were killed have left behind, and checks that the
/// lab can be built at all.
pub fn unique_name() -> String {
    static START: Once = Once::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);

    START.call_once(|| {
        assert!(
            rustix::process::geteuid().is_root(),
            "the integration tests make network namespaces and need root: run `cargo xtask test`"
        );
        raise_descriptor_limit();
        sweep();
    });
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{number}", std::process::id())
}

/// A directory of the lab for files; removed on drop.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the directory. `name` comes from [`unique_name`], so that it can be swept.
    pub fn create(name: &str) -> Self {
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Thousands of connections have both their ends in the test process.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("raise the limit of open files");
}

/// Removes namespaces, their processes and directories of test processes that no longer live.
fn sweep() {
    for dir in [Path::new(DIR), &std::env::temp_dir()] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_stale(&name) {
                continue;
            }
            if dir == Path::new(DIR) {
                delete(&name);
            } else {
                crate::bpffs::unmount(&entry.path());
                // Another test process may be sweeping the same leftovers.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Whether a name is the lab's and its process is dead.
fn is_stale(name: &str) -> bool {
    let pid = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split('-').next());
    let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else {
        return false;
    };
    // A zombie, which nobody may ever reap, has no executable any more.
    fs::read_link(format!("/proc/{pid}/exe")).is_err()
}

/// Deletes a namespace of the lab and kills what still runs in it. Never panics: it runs in drops.
fn delete(name: &str) {
    let ip = |args: &[&str]| Command::new("ip").args(args).stderr(Stdio::null()).output();
    if let Ok(output) = ip(&["netns", "pids", name]) {
        for pid in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
    let _ = ip(&["netns", "del", name]);
}

/// Runs `ip` and gives its standard output.
#[track_caller]
fn ip(args: &[&str]) -> String {
    let output = Command::new("ip")
        .args(args)
        .output()
        .expect("the lab needs `ip` (apt-get install iproute2)");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {stderr}", args.join(" "));
    String::from_utf8(output.stdout).expect("ip prints text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_names_are_those_of_dead_processes_of_the_lab() {
        // Process ids end at 4194304 (pid_max of a 64-bit kernel).
        assert!(is_stale("snir-4194305-0-client"));
        assert!(!is_stale(&format!("snir-{}-0-client", std::process::id())));
        assert!(!is_stale("snir-web"));
        assert!(!is_stale("other-4194305-0"));
    }
}
