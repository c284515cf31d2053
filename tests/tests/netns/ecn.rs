//! Explicit Congestion Notification is agreed upon by each of the two connections on its own: Apple's
//! clients ask for it, this host's sockets do so only where the administrator wants it.

use rstest::rstest;
use sni_router_tests::rig::Lab;
use sni_router_tests::topology::Family;
use sni_router_tests::ways::{Way, Ways};

use crate::foreign::counted;
use crate::wire::{check, there_and_back};

const BYTES: u64 = 4 << 20;

/// Counts packets that come in and say that their sender knows of marks.
const COUNTERS: &str = "
    table inet marks {
        counter capable { }
        counter marked { }
        chain input {
            type filter hook prerouting priority raw;
            iifname eth0 ip ecn != not-ect counter name capable
            iifname eth0 ip6 ecn != not-ect counter name capable
            iifname eth0 ip ecn ce counter name marked
            iifname eth0 ip6 ecn ce counter name marked
        }
    }";

/// Marks every twentieth of the packets that leave and may be marked, as a router with a queue would.
const MARKS: &str = "
    table inet congestion {
        chain output {
            type filter hook postrouting priority mangle;
            oifname eth0 ip ecn ect0 numgen inc mod 20 0 ip ecn set ce
            oifname eth0 ip6 ecn ect0 numgen inc mod 20 0 ip6 ecn set ce
        }
    }";

/// What a namespace's sockets do (net.ipv4.tcp_ecn).
const NEVER: &str = "0";
const ASKS: &str = "1";
const ANSWERS: &str = "2";

struct Marked {
    ways: Ways,
}

impl Marked {
    fn start(client: &str, router: &str) -> Self {
        let lab = Lab::new(1);
        let (there, here) = (&lab.net.client, &lab.net.router);
        for (ns, setting) in [
            (there, client),
            (here, router),
            (&lab.net.backends[0], ANSWERS),
        ] {
            ns.sysctl("ipv4/tcp_ecn", setting);
        }
        for ns in [there, &lab.net.backends[0]] {
            ns.output("nft", &[COUNTERS]);
        }
        Self {
            ways: Ways::start(lab),
        }
    }

    /// There and back, by `tc`.
    fn transfer(&self) {
        for family in Family::ALL {
            let pair = self.ways.open(Way::Routed, family);
            there_and_back(&pair, BYTES);
            check(&self.ways, &pair, BYTES);
        }
    }

    /// What client and endpoint have counted.
    fn counted(&self, counter: &str) -> [u64; 2] {
        let net = &self.ways.lab.net;
        [&net.client, &net.backends[0]].map(|ns| counted(ns, "marks", counter))
    }

    fn dropped(&self) -> u64 {
        let status = self.ways.router.status();
        status["kernel"]["tc_marked"].as_u64().expect("a count")
    }
}

/// What is expected is whether the client hears, and the endpoint. Of a connection that only this host has
/// asked for, the endpoint hears in the hello, which is this host's own.
#[rstest]
#[case::nobody(NEVER, ANSWERS, [false, false])]
#[case::client_only(ASKS, ANSWERS, [false, false])]
#[case::endpoint_only(NEVER, ASKS, [false, true])]
#[case::both(ASKS, ASKS, [true, true])]
fn receivers_hear_of_what_they_agreed_to(
    #[case] client: &str,
    #[case] router: &str,
    #[case] hear: [bool; 2],
) {
    let marked = Marked::start(client, router);
    marked.transfer();
    let counted = marked.counted("capable");
    assert_eq!(counted.map(|packets| packets > 0), hear, "{counted:?}");
    assert_eq!(marked.dropped(), 0);
}

#[rstest]
#[case::client_only(ANSWERS)]
#[case::both(ASKS)]
fn mark_reaches_who_can_report_it_and_is_a_loss_for_who_cannot(#[case] router: &str) {
    let marked = Marked::start(ASKS, router);
    marked.ways.lab.net.client.output("nft", &[MARKS]);
    marked.transfer();
    let [_, at_endpoint] = marked.counted("marked");
    let is_agreed = router == ASKS;
    assert_eq!(at_endpoint > 0, is_agreed, "{at_endpoint}");
    assert_eq!(marked.dropped() > 0, !is_agreed);
}
