//! `demo`: the router at work, on this machine, with real clients and servers.
//!
//! Three network namespaces (client, router, backends) hold two TLS servers with certificates of
//! their own, and the router on `examples/passthrough`. The demo is right only if every
//! client got what it must get, so it fails when a row is wrong.

mod client;
mod probe;
mod router;
mod server;
mod table;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};

use self::probe::probes;
use self::router::Router;
use self::server::Server;
use crate::command::{as_root, is_root, workspace};
use crate::lab::{self, Kind, Lab, stop_flag};
use crate::run;

/// What `demo` takes.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Leave it running, and tell how to try it by hand
    #[arg(long)]
    keep: bool,

    /// Remove what `--keep` has left running
    #[arg(long, conflicts_with_all = ["keep", "datapath"])]
    down: bool,

    /// Which datapath the router shall use
    #[arg(long, value_enum, default_value_t = Datapath::Auto)]
    datapath: Datapath,

    /// The binary is built already: set when the demo starts itself again as root
    #[arg(long, hide = true)]
    built: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Datapath {
    Auto,
    Tc,
    Sockmap,
    Userspace,
}

impl Datapath {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tc => "tc",
            Self::Sockmap => "sockmap",
            Self::Userspace => "userspace",
        }
    }
}

/// Builds as the user, then shows it as root.
pub fn demo(args: &Args) -> Result<ExitCode> {
    // Without root and sudo it is of no use to build.
    as_root("true")?;
    if !args.built && !args.down {
        run::build_for_tests()?;
    }
    if !is_root() {
        let mut command = as_root(env::current_exe()?)?;
        command
            .args(["demo", "--built"])
            .args(env::args_os().skip(2));
        run::become_command(&mut command)?;
    }
    if args.down {
        lab::remove_all(Kind::Demo)?;
        println!("demo: nothing of it is left");
        return Ok(ExitCode::SUCCESS);
    }
    let stop = stop_flag()?;
    let mut lab = Lab::create(Kind::Demo, &stop)?;
    let result = show(&mut lab, args);
    let is_right = result.inspect_err(|_| {
        // The log is about to be removed with the lab.
        eprintln!("{}", router::last_words(&lab));
    })?;
    if args.keep {
        tell_how_to_try(&lab);
        lab.keep();
    } else {
        lab.remove().context("remove the demo")?;
        println!("Nothing is left: no namespace, process, route or file.");
    }
    Ok(match is_right {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Runs it all; whether every row is as it must be.
fn show(lab: &mut Lab, args: &Args) -> Result<bool> {
    let servers = server::SITES.map(|site| Server::start(lab, site));
    let servers: Vec<_> = servers.into_iter().collect::<Result<_>>()?;
    server::write_bundle(lab, &servers)?;
    let router = Router::start(
        lab,
        &run::binary_for_tests(),
        &manifests(),
        args.datapath.name(),
    )?;

    let mut rows = Vec::new();
    for probe in probes() {
        rows.push(probe.run(lab, &router, &servers)?);
    }
    println!("\n{}", table::render(&rows));
    println!("{}", table::notes(&servers, &listener_certificate()?));
    if args.datapath != Datapath::Auto
        && let Some(row) = rows
            .iter()
            .find(|row| row.is_carried_otherwise(args.datapath.name()))
    {
        bail!(
            "asked for {}, but {} was carried by {}",
            args.datapath.name(),
            row.host,
            row.datapath
        );
    }
    if !args.keep {
        router.stop(lab)?;
    }
    Ok(rows.iter().all(|row| row.is_right()))
}

/// Fingerprint of the certificate that is bound to the Listener: the only one the router holds.
fn listener_certificate() -> Result<String> {
    let path = manifests().join("secret-app.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("tls.crt: "));
    let base64 = line.with_context(|| format!("{}: no tls.crt", path.display()))?;
    client::fingerprint_of_secret(base64)
}

fn manifests() -> PathBuf {
    workspace().join("examples/passthrough")
}

fn tell_how_to_try(lab: &Lab) {
    let client = lab.namespace(lab::CLIENT);
    let router = lab.namespace(lab::ROUTER);
    let dir = lab.dir().display();
    println!("It keeps running. Try it, as root:");
    for site in server::SITES {
        println!(
            "  ip netns exec {client} curl --cacert {dir}/bundle.pem --resolve {host}:443:{vip} \
             https://{host}/",
            host = site.host,
            vip = lab::VIP
        );
    }
    println!(
        "  ip netns exec {client} openssl s_client -connect {}:443 -servername NAME",
        lab::VIP
    );
    println!("  curl --unix-socket {dir}/admin.sock http://router/metrics");
    println!("  tail -f {dir}/router.log");
    println!("  ip netns exec {router} ss -tnp");
    println!("Remove it with `cargo xtask demo --down`.");
}
