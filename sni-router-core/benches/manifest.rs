//! How long 10,000 Ingresses with their Services and EndpointSlices take.

#[path = "../tests/manifest_support/mod.rs"]
mod manifest_support;

use divan::Bencher;
use manifest_support::{compiler, ingress, listener, service, snapshot};
use sni_router_core::manifest::{Resolved, Snapshot, SourceFile};

fn main() {
    divan::main();
}

const FILES: usize = 100;
const INGRESSES_A_FILE: usize = 100;

/// From texts that were never seen: at the start.
#[divan::bench(sample_count = 5)]
fn parse_and_build_10k(bencher: Bencher<'_, '_>) {
    let snapshot = manifests();
    bencher.bench_local(|| compiler().build(&snapshot, &Resolved::new(), 0));
}

/// From texts that did not change: what a reload costs beside the files that changed.
#[divan::bench(sample_count = 20)]
fn build_10k(bencher: Bencher<'_, '_>) {
    let snapshot = manifests();
    let mut compiler = compiler();
    compiler.build(&snapshot, &Resolved::new(), 0);
    bencher.bench_local(|| compiler.build(&snapshot, &Resolved::new(), 0));
}

/// From texts of which one has changed.
#[divan::bench(sample_count = 20)]
fn change_one_of_10k(bencher: Bencher<'_, '_>) {
    let mut snapshot = manifests();
    let mut compiler = compiler();
    compiler.build(&snapshot, &Resolved::new(), 0);
    bencher.bench_local(|| {
        snapshot.files[1].text = format!("{}\n", snapshot.files[1].text).into();
        compiler.build(&snapshot, &Resolved::new(), 0)
    });
}

fn manifests() -> Snapshot {
    let mut manifests = snapshot(&[("listener.yaml", &listener("web", 443))]);
    manifests.files.extend((0..FILES).map(|file| {
        SourceFile {
            path: format!("{file:03}.yaml"),
            text: (0..INGRESSES_A_FILE)
                .map(|n| {
                    let name = format!("app-{file}-{n}");
                    ingress(&name, &format!("{name}.test"), &name) + &service(&name, "198.51.100.1")
                })
                .collect::<String>()
                .into(),
            ..SourceFile::default()
        }
    }));
    manifests
}
