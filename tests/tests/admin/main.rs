//! The admin API and its dashboard, as programs of others see them. They are named by variables that
//! `cargo xtask test-admin` sets.

mod browser;
mod contrast;
mod devtools;
mod fuzzer;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use sni_router_tests::daemon::{Launch, Router};
use sni_router_tests::rig::{Lab, Rig};

/// A router whose admin API is reachable within its namespace, over TCP.
struct Served {
    router: Router,
    lab: Lab,
}

impl Served {
    fn start() -> Self {
        let lab = Lab::new(1);
        // One object that is bad, for there to be a problem.
        Rig::site(&lab)
            .route("bad..name", "one")
            .write_to(&lab.manifests());
        let token = lab.dir().join("token");
        fs::write(&token, TOKEN).expect("write the token");
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("keep it");
        let launch = Launch {
            manifests: Some(&lab.manifests()),
            admin: &lab.admin(),
            args: &[
                "--admin",
                ADDR,
                "--admin-token-file",
                token.to_str().expect("a path in UTF-8"),
                "--datapath",
                "tc",
                "--pin-dir",
                "none",
                "--claim-vips",
            ],
            without: &[],
        };
        let router = Router::start(&lab.net.router, &launch);
        Self { router, lab }
    }

    /// Runs a program in the router's namespace, to its end.
    fn run(&self, command: &mut Command) -> Output {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = self
            .lab
            .net
            .router
            .spawn(command)
            .expect("start the program");
        child.wait_with_output().expect("the program's end")
    }
}

/// A command line from a variable that names a program, with its environment in front.
fn program(variable: &str) -> Command {
    let words = env::var(variable)
        .unwrap_or_else(|_| panic!("no {variable}: run `cargo xtask test-admin`"));
    let mut command = Command::new("env");
    command.args(words.split(' '));
    command
}

const ADDR: &str = "127.0.0.1:9901";

const TOKEN: &str = "not-much-of-a-secret";
