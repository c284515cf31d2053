//! A resolver and a DNS server that has been told what to say.

use std::net::IpAddr;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, OpCode};
use hickory_resolver::proto::rr::rdata::NS;
use hickory_resolver::proto::rr::{RData, Record};
use tokio::net::UdpSocket;

use super::*;

#[tokio::test]
async fn localhost_is_known_without_a_server() {
    for answer in SystemResolver::default().resolve(&host("localhost")).await {
        let Answer::Addrs(addrs, _) = answer else {
            panic!("{answer:?}");
        };
        assert!(addrs.iter().all(IpAddr::is_loopback), "{addrs:?}");
    }
}

#[tokio::test]
async fn one_family_fails_when_the_server_answers_the_other_only() {
    let resolver = resolver().await;
    let [v4, v6] = resolver.resolve(&host("half.test")).await;
    assert_eq!(addrs(v4), ["192.0.2.1"]);
    assert!(matches!(v6, Answer::Failed(_)), "{v6:?}");
}

#[tokio::test]
async fn one_family_is_nothing_when_the_name_has_no_records_of_it() {
    let resolver = resolver().await;
    let [v4, v6] = resolver.resolve(&host("v4.test")).await;
    assert_eq!(addrs(v4), ["192.0.2.1"]);
    assert_eq!(v6, Answer::Nothing);
}

#[tokio::test]
async fn ttl_is_that_of_the_records() {
    let resolver = resolver().await;
    let [v4, _] = resolver.resolve(&host("v4.test")).await;
    let Answer::Addrs(_, ttl) = v4 else {
        panic!("{v4:?}");
    };
    assert!((20..=30).contains(&ttl.as_secs()), "{ttl:?}");
}

#[tokio::test]
async fn both_families_are_nothing_when_there_is_no_such_name() {
    let resolver = resolver().await;
    let answers = resolver.resolve(&host("gone.test")).await;
    assert_eq!(answers, [Answer::Nothing, Answer::Nothing]);
}

#[tokio::test]
async fn both_families_fail_when_the_server_names_others_to_ask() {
    let resolver = resolver().await;
    for answer in resolver.resolve(&host("elsewhere.test")).await {
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    }
}

#[tokio::test]
async fn both_families_fail_when_the_server_does() {
    let resolver = resolver().await;
    for answer in resolver.resolve(&host("broken.test")).await {
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    }
}

#[tokio::test]
async fn hosts_file_suffices_when_the_server_fails() {
    let resolver = resolver().await;
    let [v4, v6] = resolver.resolve(&host("listed.test")).await;
    assert_eq!(addrs(v4), ["192.0.2.7"]);
    assert_eq!(v6, Answer::Nothing);
}

/// One that asks the server below.
async fn resolver() -> SystemResolver {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(serve(socket));
    let mut connection = ConnectionConfig::udp();
    connection.port = addr.port();
    let server = NameServerConfig::new(addr.ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let mut hosts = Hosts::default();
    hosts
        .read_hosts_conf("192.0.2.7 listed.test".as_bytes())
        .unwrap();
    let system = System::new(resolver.build().unwrap(), hosts);
    SystemResolver {
        current: Mutex::new(Some((Instant::now(), system))),
    }
}

async fn serve(socket: UdpSocket) {
    let mut buffer = [0; 1500];
    loop {
        let (len, client) = socket.recv_from(&mut buffer).await.unwrap();
        let request = Message::from_vec(&buffer[..len]).unwrap();
        let reply = reply(request.metadata.id, &request.queries[0]);
        let reply = reply.to_vec().unwrap();
        socket.send_to(&reply, client).await.unwrap();
    }
}

fn reply(id: u16, query: &Query) -> Message {
    let mut reply = Message::response(id, OpCode::Query);
    reply.add_query(query.clone());
    let name = query.name().clone();
    match (name.to_string().as_str(), query.query_type()) {
        ("half.test." | "v4.test.", RecordType::A) => {
            let addr = RData::from(IpAddr::from([192, 0, 2, 1]));
            reply.answers.push(Record::from_rdata(name, 30, addr));
        }
        ("v4.test.", _) => {}
        ("gone.test.", _) => reply.metadata.response_code = ResponseCode::NXDomain,
        ("elsewhere.test.", _) => {
            let server = RData::NS(NS(Name::from_ascii("ns.test.").unwrap()));
            reply.authorities.push(Record::from_rdata(name, 30, server));
        }
        _ => reply.metadata.response_code = ResponseCode::ServFail,
    }
    reply
}

fn host(name: &str) -> Host {
    name.parse().unwrap()
}

fn addrs(answer: Answer) -> Vec<String> {
    match answer {
        Answer::Addrs(addrs, _) => addrs.iter().map(IpAddr::to_string).collect(),
        _ => panic!("{answer:?}"),
    }
}
