//! What a client gets that is not routed.

use std::net::{Shutdown, SocketAddr, TcpStream};

use rstest::rstest;
use sni_router_tests::access::Access;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, Hello, hello, read_to_end, write};
use sni_router_tests::rig::{HOST, Rig};
use sni_router_tests::site::PORT;
use sni_router_tests::tls::Version;
use sni_router_tests::tls::client::{Client, Request};
use sni_router_tests::topology::{Family, VIP4};
use sni_router_tests::wait::SOON;

/// AlertDescription, RFC 8446, section 6.
const UNEXPECTED_MESSAGE: u8 = 10;
const HANDSHAKE_FAILURE: u8 = 40;
const DECODE_ERROR: u8 = 50;
const MISSING_EXTENSION: u8 = 109;
const UNRECOGNIZED_NAME: u8 = 112;

/// A way of not being routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    UnknownHost,
    NoSni,
    NotTls,
    Malformed,
    TooLarge,
    Timeout,
}

impl Bad {
    const ALL: [Self; 6] = [
        Self::UnknownHost,
        Self::NoSni,
        Self::NotTls,
        Self::Malformed,
        Self::TooLarge,
        Self::Timeout,
    ];

    /// What the client sends.
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::UnknownHost => hello("unknown.example.com"),
            Self::NoSni => Hello::default().bytes(None),
            Self::NotTls => b"GET / HTTP/1.1\r\nhost: one.example.com\r\n\r\n".to_vec(),
            Self::Malformed => malformed(),
            // Longer than --hello-max-size of these tests.
            Self::TooLarge => Hello {
                post_quantum: true,
                ..Hello::default()
            }
            .bytes(Some(HOST)),
            Self::Timeout => hello(HOST)[..40].to_vec(),
        }
    }

    /// The alert a client gets by default.
    fn alert(self) -> u8 {
        match self {
            Self::UnknownHost => UNRECOGNIZED_NAME,
            // RFC 8446, section 9.2.
            Self::NoSni => MISSING_EXTENSION,
            Self::NotTls => UNEXPECTED_MESSAGE,
            Self::Malformed => DECODE_ERROR,
            Self::TooLarge | Self::Timeout => HANDSHAKE_FAILURE,
        }
    }

    /// The reason in the access log.
    fn reason(self) -> &'static str {
        match self {
            Self::UnknownHost => "unknown_host",
            Self::NoSni => "no_sni",
            Self::NotTls => "not_tls",
            Self::Malformed => "malformed_hello",
            Self::TooLarge => "hello_too_large",
            Self::Timeout => "hello_timeout",
        }
    }

    /// The flag that says what the client gets.
    fn flag(self) -> &'static str {
        match self {
            Self::UnknownHost => "--on-unknown-host",
            Self::NoSni => "--on-no-sni",
            Self::NotTls => "--on-not-tls",
            Self::Malformed => "--on-malformed",
            Self::TooLarge => "--on-too-large",
            Self::Timeout => "--on-timeout",
        }
    }
}

/// A hello whose list of extensions claims to be longer than the message.
fn malformed() -> Vec<u8> {
    let mut bytes = hello(HOST);
    // Record header, handshake header, version, random.
    let session_id = 5 + 4 + 2 + 32;
    let ciphers = session_id + 1 + usize::from(bytes[session_id]);
    let length = u16::from_be_bytes([bytes[ciphers], bytes[ciphers + 1]]);
    let compressions = ciphers + 2 + usize::from(length);
    let extensions = compressions + 1 + usize::from(bytes[compressions]);
    bytes[extensions] = 0xff;
    bytes
}

fn start(datapath: Datapath, answer: Option<&str>) -> Rig {
    let mut args = vec!["--hello-max-size", "1024", "--hello-timeout", "1s"];
    for bad in Bad::ALL {
        args.extend(answer.iter().flat_map(|answer| [bad.flag(), answer]));
    }
    Rig::start(datapath, &args)
}

/// Sends the bytes; gives what came back, how the stream ended, and the access record.
fn provoke(rig: &Rig, bad: Bad, family: Family) -> (Vec<u8>, End, Access) {
    let client = rig.lab.connect(family);
    write(&client, &bad.bytes());
    let (answer, end) = read_to_end(&client, SOON);
    let access = rig.router.log().access_of(local(&client), SOON);
    assert_eq!(access.reason, bad.reason(), "{access:?}");
    assert_eq!(access.endpoint, "", "{access:?}");
    assert_eq!(access.datapath, "", "{access:?}");
    (answer, end, access)
}

fn local(stream: &TcpStream) -> SocketAddr {
    stream.local_addr().expect("a connected socket")
}

/// A fatal alert in a record of its own, whatever legacy version the record has.
#[track_caller]
fn assert_alert(bytes: &[u8], alert: u8, what: impl std::fmt::Debug) {
    let [0x15, 3, _, 0, 2, 2, description] = *bytes else {
        panic!("{what:?}: no fatal alert: {bytes:02x?}");
    };
    assert_eq!(description, alert, "{what:?}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn each_kind_gets_its_alert_by_default(#[case] datapath: Datapath) {
    let rig = start(datapath, None);
    for bad in Bad::ALL {
        for family in Family::ALL {
            let (answer, end, _) = provoke(&rig, bad, family);
            assert_alert(&answer, bad.alert(), bad);
            assert_eq!(end, End::Fin, "{bad:?}");
        }
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn close_ends_without_a_byte(#[case] datapath: Datapath) {
    let rig = start(datapath, Some("close"));
    for bad in Bad::ALL {
        let (answer, end, _) = provoke(&rig, bad, Family::V4);
        assert_eq!((answer, end), (Vec::new(), End::Fin), "{bad:?}");
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn reset_ends_with_rst(#[case] datapath: Datapath) {
    let rig = start(datapath, Some("reset"));
    for bad in Bad::ALL {
        let (answer, end, _) = provoke(&rig, bad, Family::V4);
        assert_eq!((answer, end), (Vec::new(), End::Reset), "{bad:?}");
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn one_answer_can_differ_from_the_others(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &["--on-no-sni", "reset"]);
    let (answer, end, _) = provoke(&rig, Bad::NoSni, Family::V4);
    assert_eq!((answer, end), (Vec::new(), End::Reset));
    let (answer, _, _) = provoke(&rig, Bad::UnknownHost, Family::V4);
    assert_alert(&answer, UNRECOGNIZED_NAME, Bad::UnknownHost);
}

/// TLS 1.2 has no alert for a missing extension.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn tls12_client_without_sni_gets_handshake_failure(#[case] datapath: Datapath) {
    let rig = start(datapath, None);
    let client = rig.lab.connect(Family::V4);
    let hello = Hello {
        version: Version::Tls12,
        ..Hello::default()
    };
    write(&client, &hello.bytes(None));
    let (answer, end) = read_to_end(&client, SOON);
    assert_alert(&answer, HANDSHAKE_FAILURE, hello);
    assert_eq!(end, End::Fin);
}

/// An alert is lost when the router closes while bytes of the client are still unread: the kernel
/// then sends RST instead of FIN, and a client drops what it has received.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn alert_arrives_although_the_client_went_on_sending(#[case] datapath: Datapath) {
    let rig = start(datapath, None);
    for _ in 0..20 {
        let client = rig.lab.connect(Family::V4);
        let mut bytes = Bad::UnknownHost.bytes();
        bytes.extend_from_slice(&[0x17; 8000]);
        write(&client, &bytes);
        let (answer, end) = read_to_end(&client, SOON);
        assert_alert(&answer, UNRECOGNIZED_NAME, "hello and more");
        assert_eq!(end, End::Fin);
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn client_that_leaves_before_its_hello_is_whole_is_recorded(#[case] datapath: Datapath) {
    let rig = start(datapath, None);

    let silent = rig.lab.connect(Family::V4);
    silent.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&silent, SOON).0, b"");
    let access = rig.router.log().access_of(local(&silent), SOON);
    assert_eq!(access.reason, "client_gone", "{access:?}");

    let half = rig.lab.connect(Family::V4);
    write(&half, &hello(HOST)[..100]);
    half.shutdown(Shutdown::Write).expect("shutdown");
    read_to_end(&half, SOON);
    let access = rig.router.log().access_of(local(&half), SOON);
    assert_eq!(access.reason, "client_gone", "{access:?}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn each_client_understands_the_alert(#[case] datapath: Datapath) {
    let rig = start(datapath, None);
    let expected = [
        // rustls: `received fatal alert: UnrecognizedName` in its own spelling.
        (Client::Rustls, "unrecogni"),
        (Client::OpenSsl, "alert number 112"),
        (Client::Curl, "unrecognized name"),
    ];
    for (client, text) in expected {
        for version in Version::ALL {
            let request = Request {
                from: &rig.lab.net.client,
                scratch: rig.lab.dir(),
                to: SocketAddr::new(VIP4, PORT),
                host: Some("unknown.example.com"),
                version,
                alpn: None,
                identity: None,
                post_quantum: false,
            };
            let error = client.request(&request).expect_err("no route");
            assert!(error.to_lowercase().contains(text), "{client:?}: {error}");
        }
    }
}
