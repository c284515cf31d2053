//! The commands that look at manifests without serving them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use sni_router_tests::daemon::binary;
use sni_router_tests::netns::{Scratch, unique_name};
use sni_router_tests::site::Site;

fn run(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(binary());
    let (verb, flags) = args.split_first().expect("a verb");
    command.arg(verb).arg(dir).args(flags);
    command.output().expect("run sni-router")
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(both).expect("text")
}

fn site() -> Site {
    let endpoints = ["10.0.0.1:8443", "10.0.0.2:8443"];
    Site::new()
        .route("one.example.com", "one")
        .route("*.wild.example.com", "wild")
        .service(
            "one",
            endpoints.map(|addr| addr.parse().expect("an address")),
        )
        .service("wild", ["10.0.0.3:8443".parse().expect("an address")])
}

#[test]
fn check_of_good_manifests_exits_with_0() {
    let scratch = Scratch::create(&unique_name());
    site().write_to(scratch.path());
    let output = run(&["check"], scratch.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn check_prints_every_problem_and_exits_with_1() {
    let scratch = Scratch::create(&unique_name());
    site()
        .route("under_score..example.com", "one")
        .write_to(scratch.path());
    fs::remove_file(scratch.path().join("secret.yaml")).expect("remove the Secret");
    let output = run(&["check"], scratch.path());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let text = text(&output);
    assert!(
        text.contains("spec.certificates[0]"),
        "the missing Secret: {text}"
    );
    assert!(text.contains("spec.rules[2].host"), "the bad host: {text}");
}

#[test]
fn explain_names_route_backend_and_endpoints() {
    let scratch = Scratch::create(&unique_name());
    site().write_to(scratch.path());
    let output = run(&["explain", "--host", "one.example.com"], scratch.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let exact = text(&output);
    for word in [
        "one.example.com",
        "default/one",
        "10.0.0.1:8443",
        "10.0.0.2:8443",
    ] {
        assert!(exact.contains(word), "{word}: {exact}");
    }
    assert!(!exact.contains("10.0.0.3"), "{exact}");

    let output = run(&["explain", "--host", "a.wild.example.com"], scratch.path());
    let wild = text(&output);
    for word in ["*.wild.example.com", "default/wild", "10.0.0.3:8443"] {
        assert!(wild.contains(word), "{word}: {wild}");
    }
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let output = Command::new(binary())
        .args(["completions", "bash"])
        .output();
    let script = text(&output.expect("run sni-router"));
    let scratch = Scratch::create(&unique_name());
    let output = run(&["man"], scratch.path());
    assert!(output.status.success(), "{}", text(&output));
    for verb in ["run", "connections", "log-level", "top"] {
        assert!(script.contains(verb), "{verb}");
        let page = scratch.path().join(format!("sni-router-{verb}.1"));
        let page = fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        assert!(page.contains(".TH"), "{page}");
    }
}
