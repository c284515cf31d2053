//! `test-kernel`: tests under another kernel, in a virtual machine.
//!
//! virtme-ng boots a kernel of Debian's in QEMU. The guest has this machine's files, and changes copies of them in its
//! memory. On processors that lend themselves to guests it is as fast as the host; elsewhere QEMU emulates every
//! instruction, and what takes the verifier a second here takes it half a minute there.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args as ClapArgs;

use crate::command::{line, output, step, target_dir, workspace};
use crate::packages::pypi;
use crate::setup;
use crate::test::build_integration;
use crate::totals::Totals;

/// Which kernel, and which tests.
#[derive(ClapArgs)]
pub struct Args {
    /// A Debian package of a kernel: the name of one that apt has, or a file; or a directory into which packages
    /// of a kernel and its modules were unpacked (`dpkg-deb --extract`)
    #[arg(default_value = IMAGE, value_name = "PACKAGE")]
    kernel: String,

    /// Tests in network namespaces, by parts of their names; some of each kind if none is named
    #[arg(value_name = "TEST")]
    tests: Vec<String>,
}

/// Runs them, and ends with a line of totals.
pub fn test(args: &Args) -> Result<ExitCode> {
    setup::ensure()?;
    let below = target_dir().join("kernels");
    let vng = step("a virtual machine", || {
        setup::ensure_program(QEMU.0, QEMU.1)?;
        if !Path::new(DEPMOD).exists() {
            setup::ensure_program("depmod", "kmod")?;
        }
        setup::ensure_program("busybox", "busybox-static")?;
        pypi(&below, VIRTME, "virtme_ng/__init__.py")?;
        Ok(below.join("venv/bin/vng"))
    })?;
    let kernel = step("a kernel", || Kernel::get(&args.kernel, &below))?;
    let tests = step("build the tests", || {
        build_integration(|name| name == "netns")
    })?;
    Totals::of(|totals| {
        step(&format!("tests under Linux {}", kernel.release), || {
            let mut each = tests.iter();
            each.try_for_each(|test| {
                let guest = Guest::start(&vng, &kernel, &below.join("guest"), test, &args.tests)?;
                guest.follow(totals)
            })
        })
    })
}

/// A kernel, unpacked.
struct Kernel {
    /// As in `uname -r`.
    release: String,
    image: PathBuf,
}

impl Kernel {
    /// Gets it, unless it is here already.
    fn get(package: &str, below: &Path) -> Result<Self> {
        let file = Path::new(package);
        if file.is_dir() {
            let kernel = Self::find(file)?;
            if !kernel.modules(file).join(LAST).is_file() {
                kernel.index_modules(file)?;
            }
            return Ok(kernel);
        }
        let is_file = package.ends_with(".deb");
        let name = match is_file {
            true => file
                .file_stem()
                .context("a file")?
                .to_string_lossy()
                .into_owned(),
            false => image_of(package)?,
        };
        let dir = below.join(&name);
        if let Ok(kernel) = Self::find(&dir)
            && kernel.modules(&dir).join(LAST).is_file()
        {
            return Ok(kernel);
        }
        if is_file {
            fs::create_dir_all(&dir)?;
            let mut unpack = Command::new("dpkg-deb");
            output(unpack.arg("--extract").arg(file).arg(&dir))?;
        } else {
            setup::unpack(&name, &dir)?;
        }
        let kernel = Self::find(&dir)?;
        kernel.index_modules(&dir)?;
        Ok(kernel)
    }

    fn index_modules(&self, dir: &Path) -> Result<()> {
        let mut depmod = Command::new(DEPMOD);
        depmod.arg("--basedir").arg(Self::root(dir));
        output(depmod.arg(&self.release)).map(drop)
    }

    /// What has the modules' directory in it; virtme-ng finds it, too.
    fn root(dir: &Path) -> PathBuf {
        match dir.join("lib/modules").is_dir() {
            true => dir.to_owned(),
            false => dir.join("usr"),
        }
    }

    fn modules(&self, dir: &Path) -> PathBuf {
        Self::root(dir).join("lib/modules").join(&self.release)
    }

    fn find(dir: &Path) -> Result<Self> {
        let boot = dir.join("boot");
        let found = fs::read_dir(&boot).with_context(|| format!("no {}", boot.display()))?;
        let names = found.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut images =
            names.filter_map(|name| Some((name.strip_prefix("vmlinuz-")?.to_owned(), name)));
        let (release, name) = images
            .next()
            .with_context(|| format!("no kernel in {}", boot.display()))?;
        ensure!(
            images.next().is_none(),
            "more than one kernel in {}",
            boot.display()
        );
        Ok(Self {
            release,
            image: boot.join(name),
        })
    }
}

/// The package that a package without a version stands for.
fn image_of(package: &str) -> Result<String> {
    let depends = output(Command::new("apt-cache").args(["depends", package]))
        .with_context(|| format!("apt has no {package}; name another kernel, or a .deb file"))?;
    let mut names = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    let image = names.find(|name| name.starts_with("linux-image-"));
    Ok(image.unwrap_or(package).to_owned())
}

/// A virtual machine that runs tests.
struct Guest {
    vng: Child,
    /// As it was started.
    line: String,
    /// What its tests say.
    log: PathBuf,
    /// What it says itself.
    console: PathBuf,
}

impl Guest {
    /// `shared` is the one directory that both see, with what is said in it.
    fn start(
        vng: &Path,
        kernel: &Kernel,
        shared: &Path,
        test: &Path,
        tests: &[String],
    ) -> Result<Self> {
        fs::create_dir_all(shared)?;
        let [script, log, console] = ["script", "log", "console"].map(|name| shared.join(name));
        let is_native = can_have_guests();
        fs::write(&script, commands(test, tests, &log, is_native))?;
        let mut command = Command::new(vng);
        command.env("PATH", with_siblings(vng)?);
        command.arg("--run").arg(&kernel.image);
        command.args(["--user", "root", "--cpus", "2", "--memory", "4G"]);
        // What QEMU can do of every age, on every host.
        command.args(["--force-9p", "--disable-microvm"]);
        command.args(["--verbose", "--append", "mitigations=off"]);
        command.arg("--overlay-rwdir").arg(target_dir());
        command.arg("--rwdir").arg(shared);
        if !is_native {
            command.arg("--disable-kvm");
        }
        let script = format!("sh '{}'", script.display());
        command.args(["--exec", &script]);
        let line = line(&command);
        println!("  $ {line}");
        File::create(&log)?;
        let said = File::create(&console)?;
        command
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        let vng = command.spawn();
        let vng = vng.with_context(|| format!("cannot start {line}"))?;
        Ok(Self {
            vng,
            line,
            log,
            console,
        })
    }

    /// Shows what its tests say, as they say it, and adds it up.
    fn follow(mut self, totals: &mut Totals) -> Result<()> {
        let mut log = BufReader::new(File::open(&self.log)?);
        let (mut bytes, mut has_ended, mut has_result) = (Vec::new(), false, false);
        loop {
            while log.read_until(b'\n', &mut bytes)? > 0 && bytes.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&bytes);
                has_result |= line.starts_with("test result: ");
                totals.hear(line.trim_end());
                bytes.clear();
            }
            if has_ended {
                break;
            }
            // What it says last, it says before.
            has_ended = self.vng.try_wait()?.is_some();
            thread::sleep(PERIOD);
        }
        if !has_result {
            println!("what the machine has said: {}", self.console.display());
            totals.missed(&self.line);
        }
        Ok(())
    }
}

/// What the guest's shell is to do; one test at a time, since an emulated machine is slow.
fn commands(test: &Path, tests: &[String], log: &Path, is_native: bool) -> String {
    let slowness = if is_native { 1 } else { 10 };
    let wanted = match tests {
        [] => TESTS.join(" "),
        tests => tests.join(" "),
    };
    format!(
        "exec >'{log}' 2>&1\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         ulimit -n 100000\n\
         cd '{home}'\n\
         export {SLOWNESS}={slowness}\n\
         exec '{test}' --test-threads=1 {wanted}\n",
        log = log.display(),
        home = workspace().join("tests").display(),
        test = test.display(),
    )
}

/// `PATH`, with the programs beside one in front.
fn with_siblings(program: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let siblings = program.parent().context("a path")?.to_owned();
    let dirs = [siblings].into_iter().chain(env::split_paths(&path));
    Ok(env::join_paths(dirs)?)
}

/// Whether this processor can run guests, and this user may have them.
fn can_have_guests() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut words = flags.split_whitespace();
    let is_able = cfg!(target_arch = "aarch64") || words.any(|it| it == "vmx" || it == "svm");
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    is_able && kvm.is_ok()
}

/// What depends on the kernel: its verifier and helpers, every datapath, ways to attach.
const TESTS: [&str; 9] = [
    "program::verifier_is_soon_through",
    "program::rewriting::packet_of_a_flow",
    "opening::second_connection_needs_no_socket",
    "handover::last_words_of_an_endpoint_that_closes_at_once_arrive",
    "hosts::each_host_is_answered_by_its_own_server::case_3_tc::client_1",
    "path_mtu::path_that_gets_narrower_in_mid_transfer",
    "conntrack::connections_without_sockets_leave_no_entry",
    "clsact::flows_survive_the_kill",
    "clsact::detach_ends_flows",
];

/// Of the release of Debian that this machine has.
const IMAGE: &str = if cfg!(target_arch = "aarch64") {
    "linux-image-arm64"
} else {
    "linux-image-amd64"
};

/// A program, and its package.
const QEMU: (&str, &str) = if cfg!(target_arch = "aarch64") {
    ("qemu-system-aarch64", "qemu-system-arm")
} else {
    ("qemu-system-x86_64", "qemu-system-x86")
};

/// What depmod writes, and so is there when all else is.
const LAST: &str = "modules.dep";

/// Not where every user looks for programs.
const DEPMOD: &str = "/sbin/depmod";

const VIRTME: &str = "virtme-ng==1.42";

/// As in tests/src/wait.rs.
const SLOWNESS: &str = "SNI_ROUTER_TESTS_SLOWNESS";

/// How often the guest's words are looked for.
const PERIOD: Duration = Duration::from_millis(200);
