//! The dashboard in a browser.

use std::env;
use std::fs;
use std::process::Output;

use sni_router_tests::raw::hello;
use sni_router_tests::rig::{HOST, Pair};
use sni_router_tests::topology::Family;

use super::{ADDR, Served, program};

/// What the page shows once it has asked, and that nothing it does is refused by its own policy.
#[test]
fn dashboard_shows_what_goes_on() {
    let served = Served::start();
    let endpoint = served.lab.listen(0);
    let client = served.lab.connect(Family::V4);
    let pair = Pair::greet(client, &hello(HOST), &endpoint).answered();
    let page = text(&browse(
        &served,
        &["--virtual-time-budget=6000", "--dump-dom"],
    ));
    for part in [
        ">live<",
        "the directory",
        "default/",
        "1.2.3.4",
        ">serving<",
        HOST,
        &served.lab.endpoint(0).to_string(),
        ">good<",
        ">tc<",
        "spec.rules[1].host",
        "eth",
    ] {
        assert!(page.contains(part), "no {part:?} in\n{page}");
    }
    drop(pair);
}

/// Kept where it is asked for, as the picture in the documentation.
#[test]
fn dashboard_can_be_drawn() {
    let served = Served::start();
    let endpoint = served.lab.listen(0);
    let open = || {
        let client = served.lab.connect(Family::V4);
        Pair::greet(client, &hello(HOST), &endpoint).answered()
    };
    let _pairs: Vec<_> = (0..3).map(|_| open()).collect();
    let path = env::var("SNI_ROUTER_SCREENSHOT")
        .map_or_else(|_| served.lab.dir().join("page.png"), Into::into);
    let shot = format!("--screenshot={}", path.display());
    let flags = [
        "--virtual-time-budget=9000",
        "--window-size=1280,1500",
        "--hide-scrollbars",
        &shot,
    ];
    let output = browse(&served, &flags);
    let drawn = fs::read(&path).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert!(
        drawn.starts_with(b"\x89PNG") && drawn.len() > 20_000,
        "{} bytes",
        drawn.len()
    );
}

fn browse(served: &Served, flags: &[&str]) -> Output {
    let profile = served.lab.dir().join("profile");
    let mut browser = program("SNI_ROUTER_BROWSER");
    browser
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--enable-logging=stderr",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(flags)
        .arg(format!("http://{ADDR}/"))
        .env("HOME", served.lab.dir());
    let output = served.run(&mut browser);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for refused in ["Refused to", "Content Security Policy", "Uncaught"] {
        assert!(!said.contains(refused), "{said}");
    }
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
