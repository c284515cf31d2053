//! Ends that come while a connection is being handed to its datapath: right after the hello.
//!
//! A socket that has already been closed cannot enter a sock map any more, so here a connection may
//! be declined for that reason, and be carried in userspace.

use std::net::Shutdown;

use rstest::rstest;
use sni_router_tests::bulk::Pattern;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, hello, read_exactly, read_to_end, reset, try_accept, write};
use sni_router_tests::rig::{HOST, Rig};
use sni_router_tests::server::Server;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::SOON;

/// Enough to meet the hand-over before, during and after it.
const ROUNDS: usize = 200;

/// Why a connection may be declined here.
const DECLINED: [&str; 1] = ["not_established"];

/// The endpoint answers only after it has seen the client's FIN, which comes right behind the hello.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn answer_to_a_client_that_has_already_ended_arrives(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let listener = rig.endpoint.try_clone().expect("clone");
    let server = Server::spawn(listener, |stream| {
        let (request, _) = read_to_end(&stream, SOON);
        write(&stream, &request);
    });
    let hello = hello(HOST);
    for round in 0..ROUNDS {
        let request = [hello.as_slice(), &vec![7; round % 50 * 100]].concat();
        let client = rig.lab.connect(Family::V4);
        write(&client, &request);
        client.shutdown(Shutdown::Write).expect("shutdown");
        let (answer, end) = read_to_end(&client, SOON);
        assert_eq!(end, End::Fin, "round {round}");
        assert!(answer == request, "round {round}: {} bytes", answer.len());
        let access = rig.access_unless(client.local_addr().expect("a socket"), &DECLINED);
        assert_eq!(access.reason, "done", "{access:?}");
        assert_eq!(access.bytes_up, request.len() as u64, "{access:?}");
        assert_eq!(access.bytes_down, request.len() as u64, "{access:?}");
    }
    server.check();
}

/// As a server does that refuses a handshake: it says why and closes.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn last_words_of_an_endpoint_that_closes_at_once_arrive(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let hello = hello(HOST);
    for round in 0..ROUNDS {
        let words = Pattern::new(round as u64).bytes(1 + round * 100);
        let client = rig.lab.connect(Family::V4);
        write(&client, &hello);
        let server = rig.accept();
        assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
        write(&server, &words);
        server.shutdown(Shutdown::Write).expect("shutdown");
        let (got, end) = read_to_end(&client, SOON);
        assert_eq!(end, End::Fin, "round {round}");
        assert!(got == words, "round {round}: {} bytes", got.len());

        let address = client.local_addr().expect("a socket");
        drop(client);
        assert_eq!(read_to_end(&server, SOON), (Vec::new(), End::Fin));
        let access = rig.access_unless(address, &DECLINED);
        assert_eq!(access.reason, "done", "{access:?}");
        assert_eq!(access.bytes_down, words.len() as u64, "{access:?}");
    }
}

/// When the router has not finished sending the hello, the endpoint counts as one that could not be
/// connected to, and the client gets the alert for that.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn endpoint_that_resets_at_once_is_a_reset_or_a_failed_endpoint(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    for round in 0..ROUNDS {
        let client = rig.lab.connect(Family::V4);
        let address = client.local_addr().expect("a socket");
        write(&client, &hello(HOST));
        reset(rig.accept());
        let (answer, end) = read_to_end(&client, SOON);
        let record = rig.router.log().access_of(address, SOON);
        if record.reason == "connect_failed" {
            assert_eq!(end, End::Fin, "round {round}");
            assert_eq!(answer[..], [0x15, 3, 3, 0, 2, 2, 80], "round {round}");
            continue;
        }
        rig.assert_carried(&record, &DECLINED);
        assert_eq!((answer, end), (Vec::new(), End::Reset), "round {round}");
        assert_eq!(record.reason, "endpoint_reset", "{record:?}");
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn client_that_resets_at_once_is_a_reset_at_the_endpoint(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    for round in 0..ROUNDS {
        let client = rig.lab.connect(Family::V4);
        let address = client.local_addr().expect("a socket");
        write(&client, &hello(HOST));
        // Now, or once the endpoint has been reached.
        let early = (round % 2 == 0).then(|| rig.accept());
        reset(client);
        let access = rig.router.log().access_of(address, SOON);
        match early {
            Some(server) => {
                let (_, end) = read_to_end(&server, SOON);
                assert_eq!(end, End::Reset, "round {round}");
                assert_eq!(access.reason, "client_reset", "{access:?}");
            }
            // The router may have met the reset before it had read the hello.
            None if access.reason == "client_gone" => {}
            None => {
                assert_eq!(access.reason, "client_reset", "{access:?}");
                let server = try_accept(&rig.endpoint, SOON).expect("it was connected");
                assert_eq!(read_to_end(&server, SOON).1, End::Reset, "round {round}");
            }
        }
    }
}
