//! A router that reads a Kubernetes API: how soon it serves, and how soon a change has its effect.
//!
//! The API server is a real one, in the router's namespace. What is measured is what a client sees:
//! a connection to a host reaches the endpoint that the API names.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sni_router_tests::cluster::ControlPlane;
use sni_router_tests::cluster::applications::slice;
use sni_router_tests::cluster::objects::DryRun;
use sni_router_tests::daemon::{Launch, Router, binary};
use sni_router_tests::raw::{hello, read_exactly, read_some};
use sni_router_tests::rig::Lab;
use sni_router_tests::site::{PORT, Site};
use sni_router_tests::topology::VIP4;

/// What `cluster` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Ingresses, each with a Service and four endpoints
    #[arg(long, default_value_t = 10)]
    ingresses: u32,

    /// Changes that are measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    changes: u16,

    /// The datapath of the router
    #[arg(long, default_value = "tc")]
    datapath: String,
}

/// Prints what was measured as one line of JSON.
pub fn cluster(args: &Args) -> Result<()> {
    let lab = Lab::new(2);
    let hello = hello(HOST);
    for id in 0..2_u8 {
        let (listener, length) = (lab.listen(id), hello.len());
        // Ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                read_exactly(&stream, length, PATIENCE);
                let _ = (&stream).write_all(&[id]);
            }
        });
    }
    let control = ControlPlane::start_in(&lab.net.router);
    fill(&control, &lab, args.ingresses)?;

    let began = Instant::now();
    let router = start(&control, &lab, &args.datapath);
    let start = wait_until(&lab, &hello, 0, began)?;
    thread::sleep(CALM);
    let mut effects = Vec::new();
    for n in 1..=args.changes {
        let id = (n % 2) as u8;
        let changed = Instant::now();
        control.put(SLICE, &endpoint(&lab, id));
        effects.push(wait_until(&lab, &hello, id, changed)?);
        // The router gathers changes in steps of time: changes must not keep step with it.
        thread::sleep(CALM / 10 + Duration::from_millis(u64::from(n) * 37 % 100));
    }
    effects.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let median = effects[effects.len() / 2];
    let most = effects.last().copied().unwrap_or_default();
    println!(
        "{}",
        json!({
            "start_ms": ms(start), "effect_ms": ms(median), "effect_most_ms": ms(most),
            "resident_bytes": router.resident(), "errors": 0,
        })
    );
    Ok(())
}

/// Everything that the router will find.
fn fill(control: &ControlPlane, lab: &Lab, ingresses: u32) -> Result<()> {
    let crd = Command::new(binary()).arg("crd").output();
    let crd = crd.context("the router")?;
    ensure!(crd.status.success(), "the router's crd");
    control.apply(&String::from_utf8(crd.stdout)?);
    let site = Site::new()
        .route(HOST, SERVICE)
        .service(SERVICE, [lab.endpoint(0)]);
    let class = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {
            "name": "sni-router",
            "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
        },
        "spec": {"controller": "sni-router.io/ingress-controller"},
    });
    let objects = site.objects().into_iter();
    // The slice is written below in the shape in which it changes.
    let objects = objects.filter(|object| object["kind"] != "EndpointSlice");
    for object in std::iter::once(class).chain(objects) {
        let stored = control.send(&object, DryRun::No);
        stored.map_err(anyhow::Error::msg)?;
    }
    let stored = control.send(&endpoint(lab, 0), DryRun::No);
    stored.map_err(anyhow::Error::msg)?;
    control.store_applications(ingresses.saturating_sub(1));
    Ok(())
}

/// The slice that says where the host's connections go.
fn endpoint(lab: &Lab, backend: u8) -> Value {
    let endpoint = lab.endpoint(backend);
    let mut slice = slice("measured", SERVICE, &[endpoint.ip().to_string()]);
    slice["ports"] = json!([{"name": "tls", "port": endpoint.port()}]);
    slice
}

fn start(control: &ControlPlane, lab: &Lab, datapath: &str) -> Router {
    let kubeconfig = control.kubeconfig().display().to_string();
    let launch = Launch {
        manifests: None,
        admin: &lab.admin(),
        args: &[
            "--kubernetes",
            "--kubeconfig",
            &kubeconfig,
            "--cache-dir",
            "none",
            "--datapath",
            datapath,
            "--claim-vips",
            "--pin-dir",
            "none",
        ],
        without: &[],
    };
    Router::launch(&lab.net.router, &launch)
}

/// Asks until this endpoint answers, and tells how long after `since` that was.
fn wait_until(lab: &Lab, hello: &[u8], backend: u8, since: Instant) -> Result<Duration> {
    while since.elapsed() < PATIENCE {
        let asked = Instant::now();
        if ask(lab, hello) == Some(backend) {
            return Ok(since.elapsed());
        }
        thread::sleep(PACE.saturating_sub(asked.elapsed()));
    }
    anyhow::bail!("no connection has reached endpoint {backend}")
}

/// Which endpoint a new connection reaches.
fn ask(lab: &Lab, hello: &[u8]) -> Option<u8> {
    let to = SocketAddr::new(VIP4, PORT);
    let mut stream: TcpStream = lab.net.client.connect(to, ANSWER).ok()?;
    stream.write_all(hello).ok()?;
    let mut answer = [0];
    match read_some(&stream, &mut answer, Instant::now() + ANSWER) {
        Ok(1) => Some(answer[0]),
        _ => None,
    }
}

const HOST: &str = "measured.example.com";
const SERVICE: &str = "measured";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/measured";

/// After the start, until the API server has told the last of it.
const CALM: Duration = Duration::from_secs(2);

/// How often a client asks.
const PACE: Duration = Duration::from_millis(2);

/// What one question may take.
const ANSWER: Duration = Duration::from_millis(200);

/// What may take as long as it takes.
const PATIENCE: Duration = Duration::from_secs(120);
