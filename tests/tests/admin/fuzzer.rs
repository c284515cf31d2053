//! The description of the API against what it does: schemathesis makes requests from it, good ones and bad
//! ones, and looks at the answers.

use std::process::Output;

use super::{ADDR, Served, TOKEN, program};

#[test]
fn api_does_what_its_description_says_whatever_it_is_asked() {
    let served = Served::start();
    let mut fuzzer = program("SNI_ROUTER_FUZZER");
    fuzzer
        .args(["run", &format!("http://{ADDR}/api/v1/openapi.json")])
        .args([
            "--checks",
            CHECKS,
            "--max-examples",
            "60",
            "--seed",
            "1",
            "--no-color",
        ])
        // Its answer goes on for ever.
        .args(["--exclude-path", "/api/v1/trace"])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .env("HOME", served.lab.dir())
        .current_dir(served.lab.dir());
    let output = served.run(&mut fuzzer);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(served.router.get("/readyz").status, 200);
}

/// No 5xx, and statuses, types and bodies as described.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}
