#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sni_router_core::manifest::fuzz_entry(bytes));
