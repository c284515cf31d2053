use std::time::Duration;

use super::*;

fn census(connections: u16) -> Census {
    let census = Census::new(None, None);
    for port in 1..=connections {
        let client = SocketAddr::from(([192, 0, 2, (port % 2) as u8], port));
        let vip = "198.51.100.1:443".parse().unwrap();
        let connection = census.enter(client, vip, None, Duration::ZERO);
        let host = if port % 3 == 0 {
            "a.example.com"
        } else {
            "b.example.net"
        };
        connection.host.set(host.parse().unwrap()).unwrap();
        connection.connected_to("10.0.0.1:8443".parse().unwrap());
    }
    census
}

fn query(text: &str) -> ConnectionQuery {
    let mut query = ConnectionQuery::default();
    for (name, value) in text.split('&').filter_map(|part| part.split_once('=')) {
        let value = Some(value.to_owned());
        match name {
            "client" => query.client = value,
            "host" => query.host = value,
            "endpoint" => query.endpoint = value,
            "datapath" => query.datapath = value,
            "listener" => query.listener = value,
            _ => panic!("{name}"),
        }
    }
    query
}

#[test]
fn pages_follow_each_other_without_a_gap() {
    let census = census(250);
    let mut seen = Vec::new();
    let mut query = ConnectionQuery {
        limit: Some(99),
        ..ConnectionQuery::default()
    };
    loop {
        let page = page(&census, &query).unwrap();
        assert_eq!(page.total, 250);
        seen.extend(page.connections.iter().map(|it| it.id));
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=250).collect::<Vec<_>>());
}

#[test]
fn every_part_of_a_question_must_fit() {
    let census = census(12);
    for (text, count) in [
        ("", 12),
        ("client=192.0.2.1", 6),
        ("client=192.0.2.0/24", 12),
        ("client=192.0.2.1:5", 1),
        ("client=192.0.2.0:5", 0),
        ("host=A.example.com", 4),
        ("host=*.example.net", 8),
        ("host=*.net&client=192.0.2.1", 4),
        ("endpoint=10.0.0.1", 12),
        ("endpoint=10.0.0.1:8443", 12),
        ("endpoint=10.0.0.1:1", 0),
        ("datapath=tc", 0),
        ("listener=default/web", 0),
    ] {
        assert_eq!(page(&census, &query(text)).unwrap().total, count, "{text}");
    }
}

#[test]
fn question_without_sense_names_its_field() {
    let census = census(1);
    for (text, says) in [
        ("client=nobody", "client \"nobody\""),
        ("endpoint=10.0.0.1:x", "endpoint \"10.0.0.1:x\""),
        ("client=", "client \"\""),
        ("datapath=xdp", "userspace, sockmap, tc"),
    ] {
        let error = page(&census, &query(text)).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    let none = ConnectionQuery {
        limit: Some(0),
        ..ConnectionQuery::default()
    };
    assert!(matches!(page(&census, &none), Err(Refused::Nonsense(_))));
}

#[test]
fn close_ends_what_fits_and_never_everything_by_mistake() {
    let census = census(6);
    assert!(matches!(
        close_all(&census, &query("")),
        Err(Refused::Nonsense(_))
    ));
    assert_eq!(close_all(&census, &query("host=a.example.com")).unwrap(), 2);
    let told = census.filter(|it| it.traffic.told() == Some(End::Closed));
    assert_eq!(told.len(), 2);
    close(&census, 1).unwrap();
    assert!(matches!(close(&census, 99), Err(Refused::NotFound(_))));
}
