//! `sni-router run`: the daemon.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use sni_router_core::hello::DEFAULT_MAX_SIZE;
use sni_router_core::manifest::{CertificateCheck, Controllers, ListenerName, Options};
use sni_router_core::model::Cluster;
use tokio::runtime::Builder;

use super::certificates::Certificates;
use super::kubernetes::KubernetesArgs;
use crate::app;
use crate::datapath::bpf::Attach;
use crate::datapath::choose::{Choice, Open, TcPorts};
use crate::observe::admin::{AdminAddr, Token};
use crate::observe::log::{self, Format, Log};
use crate::privileges::Privileges;
use crate::proxy::quota;
use crate::proxy::settings::{Answer, Answers, Settings as ProxySettings};
use crate::settings::{Manifests, Settings};
use crate::sys::allocator;
use crate::takeover::PinDir;

/// Route TLS by server name, as a directory of manifests or the Kubernetes API says.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Directory of manifests (*.yaml, *.yml, *.json; subdirectories too). Changes are applied
    /// within a second, also on SIGHUP; no connection is closed by one
    #[arg(long, value_name = "DIR", required_unless_present = "kubernetes")]
    manifests: Option<PathBuf>,

    #[command(flatten)]
    kubernetes: KubernetesArgs,

    /// What carries established connections. `auto` takes `tc` where it works, and `userspace` for
    /// what that declines; `tc` refuses to start without it; `sockmap` is for links that lose nothing;
    /// `userspace` uses no BPF at all
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    datapath: Choice,

    /// Source ports towards endpoints that the `tc` datapath uses, and nobody else on this host
    #[arg(long, value_name = "FIRST-LAST", default_value = "10000-29999", value_parser = port_range)]
    tc_ports: RangeInclusive<u16>,

    /// Address of this host that the `tc` datapath connects to endpoints from (repeatable). Each has all
    /// of --tc-ports towards each endpoint [default: the one of the route]
    #[arg(long, value_name = "IP")]
    tc_source: Vec<IpAddr>,

    /// Add --tc-ports to net.ipv4.ip_local_reserved_ports where the kernel would give them to other
    /// connections too; stays after the exit
    #[arg(long)]
    reserve_ports: bool,

    /// How the program of the `tc` datapath gets to interfaces: `auto` by TCX where the kernel has it
    /// (6.6), `clsact` as before that, behind every program of TCX
    #[arg(long, value_enum, default_value_t = Attach::Auto)]
    tc_attach: Attach,

    /// How connections of the `tc` datapath are opened: by `packets`, without a socket, as long as hello,
    /// route and endpoint are as usual, or each with two `sockets` that are closed at once
    #[arg(long, value_enum, default_value_t = Open::Packets)]
    tc_open: Open,

    /// The host's ends of the veth pairs of this node's pods, as `cali*` (repeatable): packets of the `tc` datapath for
    /// these pods go right into their network namespace, which takes less CPU. Nothing at the egress of these
    /// interfaces sees them: no policy or bandwidth limit that a network plugin has there, and no
    /// tcpdump. Not where pods bridge their interface, as virtual machines do [default: none]
    #[arg(long, value_name = "NAME")]
    tc_shortcut: Vec<String>,

    /// Directory of a BPF file system where what the `tc` datapath needs outlives the router, so that
    /// connections go on without it; `none` for not at all [default: /sys/fs/bpf/sni-router, where that
    /// is one]
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,

    /// Do not end the router that this one takes over from: whoever has started it does, as Kubernetes
    /// in a rolling update
    #[arg(long)]
    spare_predecessor: bool,

    /// Add a local route for VIPs that no interface has; removed at exit, unless connections go on
    /// that use it
    #[arg(long)]
    claim_vips: bool,

    /// Keep every capability, and let debuggers look; else what is not needed is given up, before and after
    /// the start
    #[arg(long)]
    keep_privileges: bool,

    /// Only take Ingresses and Listeners of this class (repeatable)
    #[arg(long = "ingress-class", value_name = "NAME")]
    ingress_classes: Vec<String>,

    /// The Listener of Ingresses that name none and ask for passthrough by
    /// `nginx.ingress.kubernetes.io/ssl-passthrough` or `ingress.citrix.com/ssl-passthrough`, in the
    /// cluster of each [default: they are not served]
    #[arg(long, value_name = "NAMESPACE/NAME")]
    default_listener: Option<ListenerName>,

    /// The cluster that Listeners and Ingresses with `sni-router.io/cluster-policy: prefer-local`
    /// prefer. With --kubernetes, where there are other clusters, also the name of the one that
    /// --kubeconfig or the container says, unless it is one of --cluster or --clusters-dir
    #[arg(long, value_name = "NAME")]
    local_cluster: Option<Cluster>,

    /// What a Listener's certificates must be: `verify` loads them, `declared` only asks that one
    /// is named, `ignore` asks nothing. Private keys are never loaded
    #[arg(long, value_enum, default_value_t = Certificates::Verify)]
    certificates: Certificates,

    /// Serve the admin API on IP:PORT or unix:PATH (repeatable) [default: unix:/run/sni-router/admin.sock,
    /// if that can be had]
    #[arg(long, value_name = "ADDR")]
    admin: Vec<AdminAddr>,

    /// Serve no admin API
    #[arg(long, conflicts_with = "admin")]
    no_admin: bool,

    /// File with what calls to --admin over TCP must bring that change something, or ask from another
    /// machine for more than how the router fares, as `Authorization: Bearer TOKEN`; others must not be
    /// able to read it [default: there are no such calls]
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,

    /// File of addresses and networks, one a line: connections of clients there are reset, those that
    /// are carried, too. Watched
    #[arg(long, value_name = "FILE")]
    deny_file: Option<PathBuf>,

    /// How log lines look
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,

    /// What is logged, as `info` or `warn,access=off`; RUST_LOG overrides it
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log_level: String,

    /// Write access records to this file and not to standard error, as JSON lines and whatever
    /// --log-level says; `-` is standard output. SIGUSR1 has it opened anew, for log rotation
    #[arg(long, value_name = "PATH")]
    access_log: Option<PathBuf>,

    /// Most access records of rejected connections, a second and reason; the next one says how many
    /// were left out. 0 for none
    #[arg(long, value_name = "N", default_value_t = 100)]
    access_log_rejects: u32,

    /// Write the access record of one in N connections that were carried and ended well, and of all
    /// that were carried and did not
    #[arg(long, value_name = "N", default_value_t = NonZeroU32::MIN)]
    access_log_sample: NonZeroU32,

    /// Worker threads. About half as many others, at most eight, open connections of the `tc` datapath
    /// [default: one per CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,

    /// Time from accept to the last byte of the hello
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    hello_timeout: Duration,

    /// Largest hello in bytes
    #[arg(long, value_name = "BYTES", default_value_t = HELLO_MAX_SIZE)]
    hello_max_size: NonZeroUsize,

    /// Connections that may be without a complete hello at one time; more are reset
    #[arg(long, value_name = "N", default_value_t = MAX_PENDING_HELLOS)]
    max_pending_hellos: NonZeroUsize,

    /// Time to connect to an endpoint, all retries together
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    connect_timeout: Duration,

    /// Longest time without a byte in either direction
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    idle_timeout: Duration,

    /// Longest time of a connection in all [default: none]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_duration: Option<Duration>,

    /// Time that connections get to finish after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    drain_timeout: Duration,

    /// Answer to a name that no route takes
    #[arg(long, value_enum, default_value_t = Answer::Alert)]
    on_unknown_host: Answer,

    /// Answer to a hello without a name, where the listener has no default route
    #[arg(long, value_enum, default_value_t = Answer::Alert)]
    on_no_sni: Answer,

    /// Answer to what is not TLS
    #[arg(long, value_enum, default_value_t = Answer::Alert)]
    on_not_tls: Answer,

    /// Answer to a hello that cannot be read
    #[arg(long, value_enum, default_value_t = Answer::Alert)]
    on_malformed: Answer,

    /// Answer to a hello larger than --hello-max-size
    #[arg(long, value_enum, default_value_t = Answer::Alert)]
    on_too_large: Answer,

    /// Answer to a hello that did not come in time
    #[arg(long, value_enum, default_value_t = Answer::Alert)]
    on_timeout: Answer,
}

/// Runs until it is told to stop.
pub fn run(args: Args) -> Result<ExitCode> {
    let privileges = Privileges::start(args.keep_privileges);
    let (format, level) = (args.log_format, args.log_level.clone());
    let access = args.access_log.clone();
    // Written to the end as long as it lives.
    let log = log::init(format, &level, access.as_deref())?;
    let settings = args.into_settings(&log)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .on_thread_park(allocator::answer)
        .build()
        .context("cannot start the control threads")?;
    let outcome = runtime.block_on(app::run(settings, privileges));
    // A disk or a program that hangs does not keep the process.
    runtime.shutdown_timeout(LAST_BLOCKING);
    outcome.map(|()| ExitCode::SUCCESS)
}

impl Args {
    fn into_settings(self, log: &Log) -> Result<Settings> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let certificates: CertificateCheck = self.certificates.into();
        let reads_secrets = certificates == CertificateCheck::Verify;
        let manifests = match (
            self.manifests,
            self.kubernetes
                .settings(self.local_cluster.as_ref(), reads_secrets)?,
        ) {
            (Some(directory), None) => Manifests::Directory(directory),
            (None, Some(clusters)) => Manifests::Kubernetes(clusters.into()),
            _ => bail!("name --manifests DIR or --kubernetes"),
        };
        Ok(Settings {
            datapath: self.datapath,
            tc_ports: TcPorts {
                range: self.tc_ports,
                reserve: self.reserve_ports,
                sources: self.tc_source,
                attach: self.tc_attach,
                open: self.tc_open,
                shortcuts: self.tc_shortcut,
            },
            pins: pin_dir(self.pin_dir),
            spare_predecessor: self.spare_predecessor,
            claim_vips: self.claim_vips,
            options: Options {
                ingress_classes: self.ingress_classes,
                default_listener: self.default_listener,
                controllers: match (&manifests, self.kubernetes.citrix_class()) {
                    (Manifests::Directory(_), _) => Controllers::ByName,
                    (Manifests::Kubernetes(_), false) => Controllers::Own,
                    (Manifests::Kubernetes(_), true) => Controllers::OwnAndCitrix,
                },
                local_cluster: self.local_cluster,
                certificates,
            },
            manifests,
            is_admin_default: self.admin.is_empty(),
            admin: match (self.no_admin, self.admin.is_empty()) {
                (true, _) => Vec::new(),
                (false, true) => vec![super::admin::at_home()?],
                (false, false) => self.admin,
            },
            admin_token: self.admin_token_file.map(Token::open).transpose()?,
            log: log.filter(),
            access_file: log.file(),
            deny_file: self.deny_file,
            workers: self.workers.map_or(cpus, usize::from),
            drain_timeout: self.drain_timeout,
            proxy: ProxySettings {
                hello_timeout: self.hello_timeout,
                hello_max_size: self.hello_max_size.get(),
                max_pending_hellos: self.max_pending_hellos.get(),
                connect_timeout: self.connect_timeout,
                idle_timeout: self.idle_timeout,
                max_duration: self.max_duration,
                answers: Answers {
                    unknown_host: self.on_unknown_host,
                    no_sni: self.on_no_sni,
                    not_tls: self.on_not_tls,
                    malformed: self.on_malformed,
                    too_large: self.on_too_large,
                    timeout: self.on_timeout,
                },
                records: quota::Limits {
                    rejects: self.access_log_rejects,
                    sample: self.access_log_sample,
                },
            },
        })
    }
}

/// Of a flag: `500ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than nothing".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error} (write 500ms, 5s, 1h 30m)")),
    }
}

const HELLO_MAX_SIZE: NonZeroUsize = NonZeroUsize::new(DEFAULT_MAX_SIZE).expect("more than none");

const MAX_PENDING_HELLOS: NonZeroUsize = NonZeroUsize::new(16_384).expect("more than none");

/// The control threads read manifests, answer the admin API and collect events; connections are
/// the workers' business.
const CONTROL_THREADS: usize = 1;

/// What blocks a thread at the end gets so long.
const LAST_BLOCKING: Duration = Duration::from_secs(1);

/// What `--pin-dir` means.
pub fn pin_dir(flag: Option<PathBuf>) -> PinDir {
    match flag {
        None => PinDir::Preferred(super::PIN_DIR.into()),
        Some(dir) if dir.as_os_str() == "none" => PinDir::Nowhere,
        Some(dir) => PinDir::Demanded(dir),
    }
}

/// Of a flag: `10000-29999`.
pub fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong = || format!("`{text}` is not a range of ports, as 10000-29999");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first: u16 = first.parse().map_err(|_| wrong())?;
    let last: u16 = last.parse().map_err(|_| wrong())?;
    if first == 0 || last < first {
        return Err(wrong());
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        _run: Args,
    }

    #[test]
    fn limit_that_would_refuse_every_client_is_refused() {
        for flag in ["--hello-max-size", "--max-pending-hellos"] {
            let flags = |limit| ["sni-router", "--manifests", "dir", flag, limit];
            let error = Command::try_parse_from(flags("0")).unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
            assert!(Command::try_parse_from(flags("1000")).is_ok());
        }
    }
}
