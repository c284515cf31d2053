//! Changes of the manifests while connections run.

use std::fs;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::Signal;
use sni_router_tests::bulk::Pattern;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, accept, hello, nothing_comes, read_exactly, read_to_end, write};
use sni_router_tests::rig::{HOST, Lab, Rig, alone};
use sni_router_tests::server::Server;
use sni_router_tests::site::{KubernetesVolume, PORT, Site};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

/// A change of files is applied within a second; as much again for a machine busy with other tests.
const APPLIED: Duration = Duration::from_secs(2);

const OTHER: &str = "two.example.com";

/// Sends everything back once the client has ended.
fn echo(stream: TcpStream) {
    let (bytes, end) = read_to_end(&stream, SOON);
    if end == End::Fin {
        write(&stream, &bytes);
    }
}

/// A whole connection to an [`echo`] server.
fn round_trip(lab: &Lab, hello: &[u8], payload: &[u8]) -> Result<(), String> {
    let request = [hello, payload].concat();
    let client = lab.connect(Family::V4);
    write(&client, &request);
    client
        .shutdown(Shutdown::Write)
        .map_err(|e| e.to_string())?;
    let (answer, end) = read_to_end(&client, SOON);
    if end == End::Fin && answer == request {
        Ok(())
    } else {
        Err(format!(
            "{end:?} after {} of {}",
            answer.len(),
            request.len()
        ))
    }
}

/// Whether a host is routed to a server that can be reached.
fn is_served(lab: &Lab, host: &str) -> bool {
    round_trip(lab, &hello(host), b"").is_ok()
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn reload_under_load_fails_no_connection(#[case] datapath: Datapath) {
    const RELOADS: u64 = 40;
    let _alone = alone();
    let lab = Lab::new(2);
    let servers = [0, 1].map(|backend| Server::spawn(lab.listen(backend), echo));
    // The host moves from one endpoint to the other; another host comes and goes.
    let site = |n: u64| {
        let backend = u8::try_from(n % 2).expect("0 or 1");
        let site = Site::new().service("one", [lab.endpoint(backend)]);
        let site = site.route(HOST, "one");
        if n.is_multiple_of(3) {
            site.route(OTHER, "one")
        } else {
            site
        }
    };
    site(0).write_to(&lab.manifests());
    let router = lab.start(datapath, &[]);

    let stop = AtomicBool::new(false);
    let made = AtomicUsize::new(0);
    let failures: Vec<String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|n| {
                let (lab, stop, made) = (&lab, &stop, &made);
                scope.spawn(move || {
                    let (hello, payload) = (hello(HOST), Pattern::new(n).bytes(3000));
                    let mut failures = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        failures.extend(round_trip(lab, &hello, &payload).err());
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                    failures
                })
            })
            .collect();
        for n in 1..=RELOADS {
            let generation = router.generation();
            let before = made.load(Ordering::Relaxed);
            site(n).write_to(&lab.manifests());
            router.signal(Signal::HUP);
            router.wait_for_generation_after(generation);
            until("connections are made between reloads", SOON, || {
                made.load(Ordering::Relaxed) >= before + 10
            });
        }
        stop.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client"))
            .collect()
    });
    assert!(failures.is_empty(), "{failures:?}");
    let made = made.load(Ordering::Relaxed);
    assert!(servers.iter().all(|server| server.accepted() > 0));
    assert_eq!(servers.iter().map(Server::accepted).sum::<usize>(), made);

    until("every connection is recorded", SOON, || {
        router.log().access().len() == made
    });
    let bad: Vec<_> = router
        .log()
        .access()
        .into_iter()
        .filter(|record| record.reason != "done")
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn running_connection_outlives_its_route_and_its_listener(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    pair.exchange();

    let generation = rig.router.generation();
    Site::new()
        .route(OTHER, "one")
        .service("one", [rig.lab.endpoint(0)])
        .write_to(&rig.lab.manifests());
    rig.router.wait_for_generation_after(generation);
    pair.exchange();
    assert!(!is_served(&rig.lab, HOST), "the route is gone");

    let generation = rig.router.generation();
    fs::remove_file(rig.lab.manifests().join("listener.yaml")).expect("remove the Listener");
    rig.router.wait_for_generation_after(generation);
    let vip = SocketAddr::new(Family::V4.vip(), PORT);
    until("new connections are refused", SOON, || {
        rig.lab.net.client.connect(vip, SOON).is_err()
    });
    // Long enough for everything that follows the Listener's end.
    for _ in 0..5 {
        assert!(nothing_comes(&pair.client, Duration::from_millis(100)));
        pair.exchange();
    }

    let address = pair.address;
    drop(pair);
    assert_eq!(rig.access(address).reason, "done");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn change_of_a_file_is_applied_within_a_second(#[case] datapath: Datapath) {
    let lab = Lab::new(1);
    let _server = Server::spawn(lab.listen(0), echo);
    Rig::site(&lab).write_to(&lab.manifests());
    let router = lab.start(datapath, &[]);
    assert!(is_served(&lab, HOST));
    assert!(!is_served(&lab, OTHER));

    let generation = router.generation();
    let begin = Instant::now();
    Rig::site(&lab)
        .route(OTHER, "one")
        .write_to(&lab.manifests());
    router.wait_for_generation_after(generation);
    assert!(begin.elapsed() < APPLIED, "after {:?}", begin.elapsed());
    assert!(is_served(&lab, OTHER));
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn symlink_swap_of_a_kubernetes_volume_is_applied(#[case] datapath: Datapath) {
    let lab = Lab::new(1);
    let _server = Server::spawn(lab.listen(0), echo);
    let mut volume = KubernetesVolume::new(&lab.manifests(), &Rig::site(&lab));
    let router = lab.start(datapath, &[]);
    assert!(is_served(&lab, HOST), "read through the symlinks");

    // More than one swap: the watch of the first ..data is gone after it.
    for version in 0..4 {
        let generation = router.generation();
        let begin = Instant::now();
        let host = format!("v{version}.example.com");
        volume.publish(&Rig::site(&lab).route(&host, "one"));
        until("the new version is served", APPLIED, || {
            router.generation() > generation && is_served(&lab, &host)
        });
        assert!(begin.elapsed() < APPLIED, "after {:?}", begin.elapsed());
        if version > 0 {
            let old = format!("v{}.example.com", version - 1);
            assert!(!is_served(&lab, &old), "{old} is still served");
        }
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn manifest_that_turns_bad_keeps_its_last_good_version(#[case] datapath: Datapath) {
    let lab = Lab::new(1);
    let _server = Server::spawn(lab.listen(0), echo);
    Rig::site(&lab).write_to(&lab.manifests());
    let router = lab.start(datapath, &[]);
    assert!(is_served(&lab, HOST));

    let ingress = lab.manifests().join("ingress.yaml");
    fs::write(&ingress, "kind: Ingress\nmetadata: [").expect("write");
    router.signal(Signal::HUP);
    router.log().wait_for_line("ingress.yaml", SOON);
    assert!(is_served(&lab, HOST), "after bad YAML");

    let away = lab.dir().join("away");
    fs::rename(lab.manifests(), &away).expect("move the directory away");
    router.signal(Signal::HUP);
    router
        .log()
        .wait_for_line(&lab.manifests().display().to_string(), SOON);
    assert!(is_served(&lab, HOST), "without a directory");

    fs::rename(&away, lab.manifests()).expect("move the directory back");
    Rig::site(&lab)
        .route(OTHER, "one")
        .write_to(&lab.manifests());
    router.signal(Signal::HUP);
    // Not of the next generation: that may be of the directory as it came back.
    until("the mend is served", SOON, || is_served(&lab, OTHER));
}

/// A new endpoint gets the new connections, the old one keeps its own.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn endpoint_that_is_replaced_keeps_its_connections(#[case] datapath: Datapath) {
    let lab = Lab::new(2);
    let (old, new) = (lab.listen(0), lab.listen(1));
    Rig::site(&lab).write_to(&lab.manifests());
    let router = lab.start(datapath, &[]);
    let client = lab.connect(Family::V4);
    let bytes = hello(HOST);
    write(&client, &bytes);
    let server = accept(&old, SOON);
    assert_eq!(read_exactly(&server, bytes.len(), SOON), bytes);

    let generation = router.generation();
    Rig::site(&lab)
        .service("one", [lab.endpoint(1)])
        .write_to(&lab.manifests());
    router.signal(Signal::HUP);
    router.wait_for_generation_after(generation);
    let next = lab.connect(Family::V4);
    write(&next, &bytes);
    let next_server = accept(&new, SOON);
    assert_eq!(read_exactly(&next_server, bytes.len(), SOON), bytes);

    write(&client, b"still");
    assert_eq!(read_exactly(&server, 5, SOON), b"still");
}
